"""GGUF files: read as plain weights, and kept once as a model in the usual format.

Weights that were quantised are kept as the float32 numbers they stand for, so that what is loaded again is the same to the bit.
"""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically
from ..reproducibility import file_sha256, software_versions
from .support import UnsupportedModelError
from .whole_weights import WholeClass

WEIGHTS = "model.safetensors"
MANIFEST = "steerlens.json"
"""Written last: what the folder was made from, and the sha256 of each of its files."""
SCHEMA = 1


def check_gguf(boot: Mapping[str, Any] | None = None) -> None:
    """Raise ImportError without the package gguf, ValueError for an argument that does not go with such a file."""
    if importlib.util.find_spec("gguf") is None:
        raise ImportError('reading GGUF files needs the package gguf: pip install "steerlens[gguf]"')
    refused = [name for name in ("hf_model", "device_map", "n_devices", "max_memory", "load_weights") if name in (boot or {})]
    if refused:
        raise ValueError(f"{refused[0]} does not go with a GGUF file: leave it out, or convert the model to the usual format")


@contextmanager
def reading(folder: str, file: str | None) -> Iterator[None]:
    """Whatever a damaged GGUF file provokes in its reader is one kind of error to the caller; None = no such file."""
    try:
        yield
    except (ImportError, UnsupportedModelError):
        raise
    except Exception as error:
        if file is None:
            raise
        place = Path(folder) / file
        raise ValueError(f"{place}: a damaged or truncated GGUF file, or none ({type(error).__name__}: {error})") from error


def read_gguf(folder: str, file: str, config: Any, dtype: torch.dtype, where: Mapping[str, Any], name: str) -> Any:
    """The model with its weights dequantised, as a plain one.

    Raises:
        ValueError: the file is damaged.
        UnsupportedModelError: it lacks weights.
    """
    from transformers import AutoModelForCausalLM

    files = {"gguf_file": file, "config": config}  # reading the configuration again takes seconds
    with reading(folder, file):
        model = WholeClass(AutoModelForCausalLM, name, config).from_pretrained(folder, dtype=dtype, **files, **where)
    vars(model.config).pop("quantization_config", None)  # they are plain weights now
    model.config.architectures = [type(model).__name__]  # some files leave it empty, and TransformerLens goes by it
    return model.eval()


def converted(target: Path, sha256: str, find: Callable[[Path], Path]) -> Path:
    """The folder of a model in the Hugging Face format, made from a GGUF file if it is not there, whole or not at all.

    Several processes may ask at once: one converts, the others wait for it. A folder that is damaged is made again.

    Args:
        target: where it is, or shall be.
        sha256: that of the GGUF file.
        find: given an empty folder to work in, the GGUF file; called only if there is something to convert.

    Raises:
        ImportError: there is something to convert, and the package gguf is not installed.
        ValueError: the GGUF file has another sha256.
        OSError: the folder cannot be written; the message says how to choose another.
    """
    from filelock import FileLock

    if is_intact(target, sha256):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            if not is_intact(target, sha256):
                _convert_into(target, sha256, find)
    except OSError as error:
        error.add_note(f"The converted model is kept in {target.parent}; STEERLENS_CACHE names another folder.")
        raise
    return target


def is_intact(folder: Path, sha256: str) -> bool:
    """Whether a converted model is whole, of this GGUF file, and as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if (manifest["schema"], manifest["gguf_sha256"]) != (SCHEMA, sha256) or WEIGHTS not in manifest["files"]:
            return False
        return all(file_sha256(folder / name) == known for name, known in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _convert_into(target: Path, sha256: str, find: Callable[[Path], Path]) -> None:
    """Convert in a folder beside the target, then rename; called by one process at a time."""
    check_gguf()
    for left in target.parent.glob(f".{target.name}.*"):  # of a conversion that was killed
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        assembling = work / "gguf"
        assembling.mkdir()
        file = find(assembling)
        if (found := file_sha256(file)) != sha256:
            raise ValueError(f"{file} is not the file that is known by its name: its sha256 is {found}, not {sha256}")
        ready = work / "model"
        _write_plain(file, ready)
        for path in ready.iterdir():
            path.chmod(0o644)
        digests = {path.name: file_sha256(path) for path in sorted(ready.iterdir())}
        manifest = {"schema": SCHEMA, "gguf_sha256": sha256, "made_with": software_versions(), "files": digests}
        write_atomically(ready / MANIFEST, json.dumps(manifest, indent=1).encode())
        ready.chmod(0o755)
        if target.exists():  # damaged, or of another file
            target.rename(work / "damaged")
        ready.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_plain(file: Path, folder: Path) -> None:
    """Weights in float32, configuration and tokenizer of a GGUF file, in the Hugging Face format."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source, name = str(file.parent), file.name
    model = read_gguf(source, name, AutoConfig.from_pretrained(source, gguf_file=name), torch.float32, {}, str(file))
    with torch.device("meta"):  # a model that was never quantised, which can be saved
        plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder, max_shard_size="1000GB")
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
