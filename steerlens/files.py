"""Files that are written whole or not at all."""

import os
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).parent
TERRARIUM_WEIGHTS = PACKAGE / "terrarium" / "weights"
"""The embedded model, in the Hugging Face format."""
TERRARIUM_SAE = PACKAGE / "terrarium" / "sae"
"""Its sparse autoencoder, in SAELens's layout."""


def cache_folder() -> Path:
    """Where steerlens keeps what it can make again, such as converted models.

    The environment's STEERLENS_CACHE, else XDG_CACHE_HOME/steerlens, else the system's own place for caches of a user.
    """
    if own := os.environ.get("STEERLENS_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "steerlens"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "steerlens" / "Cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "steerlens"


def write_atomically(target: Path, content: bytes) -> None:
    """Write to a temporary file beside the target, then rename: readers see the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
