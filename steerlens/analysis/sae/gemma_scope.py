"""Reading Gemma Scope (`params.npz`) and Gemma Scope 2 (`params.safetensors`): what they are of stands in their paths."""

import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .autoencoder import RAW, SAEError, layer_of

GEMMA_SCOPE, GEMMA_SCOPE_2, GEMMA_SETTINGS = "params.npz", "params.safetensors", "config.json"
LARGEST_UNPACKED, MOST_EXPANSION = 2**26, 20
"""Bytes that any archive may unpack to, and how many times its own size a larger one may."""
TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec")
_GEMMA_REPO = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")
_GEMMA_REPO_2 = re.compile(r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)(?=[/@]|$|--)")
_FOLDER_2 = re.compile(r"(?:/([^/]+))?/layer_(\d+)(?:_[^/]*)?/")
_RESIDUAL_2 = ("resid_post", "resid_post_all")
_NOT_RESIDUAL_2 = re.compile(r"attn|mlp|transcoder|crosscoder|clt|resid_pre|resid_mid|embed")
CANONICAL: dict[str, tuple[int | None, ...]] = {
    "gemma-2-2b/width_16k": (
        105, 102, 141, 59, 124, 68, 70, 69, 71, 73, 77, 80, 82, 84, 84, 78, 78, 77, 74, 73, 71,
        70, 72, 75, 73, 116,
    ),
    "gemma-2-2b/width_65k": (
        73, 121, 77, 89, 89, 105, 107, 107, 111, 118, 128, 70, 72, 75, 73, 127, 128, 125, 116, 115, 114,
        111, 116, 123, 124, 93,
    ),
    "gemma-2-9b/width_16k": (
        129, 69, 67, 90, 91, 77, 93, 92, 99, 100, 113, 118, 130, 132, 67, 131, 75, 73, 71, 132, 68,
        129, 123, 120, 114, 114, 116, 118, 119, 119, 120, 114, 111, 114, 114, 120, 120, 124, 128, 131, 125, 113,
    ),
    "gemma-2-9b/width_131k": (
        41, 56, 70, 103, 101, 94, 120, 119, 72, 75, 84, 88, 96, 99, 105, 103, 121, 117, 113, 110, 114,
        109, 105, 101, 97, 96, 97, 96, 98, 97, 95, 92, 88, 91, 89, 94, 93, 96, 101, 99, 94, 84,
    ),
    "gemma-2-9b-it/width_16k": (*[None] * 9, 88, *[None] * 10, 91, *[None] * 10, 76),
    "gemma-2-9b-it/width_131k": (*[None] * 9, 121, *[None] * 10, 81, *[None] * 10, 109),
}  # fmt: skip
"""Average L0, layer by layer, of the Gemma Scope autoencoders that Neuronpedia shows as `{layer}-gemmascope-res-{width}`
(SAELens's table of releases). Its pages are of these alone, so the others get no link."""


def read_gemma_scope(path: Path) -> dict[str, Any]:
    """`params.npz`; model, layer and width as the path has them: .../gemma-scope-2b-pt-res/.../layer_20/width_16k/..."""
    address = path.absolute().as_posix()
    repo, layer = _GEMMA_REPO.search(address), re.search(r"/layer_(\d+)/", address)
    if repo and repo[3] != "res":
        raise SAEError(f"{path}: Gemma Scope {repo[3]!r} is not of the residual stream, where vectors act")
    if "/embedding/" in address:
        raise SAEError(f"{path}: of the embedding, not of the residual stream after a block")
    try:
        _check_archive(path)
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            tensors = _capitals({name: torch.from_numpy(file[name]) for name in file.files})
    except SAEError:
        raise
    except Exception as error:  # not its words: numpy's advise to unpickle
        raise SAEError(f"{path}: not an intact {GEMMA_SCOPE} ({type(error).__name__})") from error
    expect(tensors, (*TENSORS, "threshold"), (), str(path))
    model = None
    if repo:
        model = f"gemma-2-{repo[1]}" + ("-it" if repo[2] == "it" else "")
    return tensors | {
        "activation": "jumprelu",
        "model_name": model,
        "layer": int(layer[1]) if layer else None,
        "weight_processing": RAW,
        "normalisation": "none",
        "neuronpedia_id": _gemma_page(address, model, int(layer[1])) if layer and model else None,
    }


def _check_archive(path: Path) -> None:
    """Look at the sizes that an archive and the headers of its arrays state, before anything is unpacked.

    Raises:
        SAEError: an array that an autoencoder has not, one of another size than its header says, or an archive that unpacks to
            more than `LARGEST_UNPACKED` and `MOST_EXPANSION` times its own size.
    """
    total = 0
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            total += entry.file_size
            name = entry.filename.removesuffix(".npy")
            if {"w_enc": "W_enc", "w_dec": "W_dec"}.get(name, name) not in (*TENSORS, "threshold"):
                raise SAEError(f"{path}: holds {entry.filename!r:.60}, which no Gemma Scope autoencoder has")
            with archive.open(entry) as content:
                version = np.lib.format.read_magic(content)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, kind = read(content)
                needed = content.tell() + math.prod(shape) * kind.itemsize
            if not kind.hasobject and entry.file_size != needed:  # objects are refused when they are read
                raise SAEError(f"{path}: {name} unpacks to {entry.file_size} bytes, {needed} by its header")
    size = path.stat().st_size
    if total > max(LARGEST_UNPACKED, MOST_EXPANSION * size):
        raise SAEError(
            f"{path}: {size} bytes that unpack to {total}; weights expand less than {MOST_EXPANSION} times: if they are right, "
            "save them with np.savez, which packs nothing"
        )


def _gemma_page(address: str, model: str, layer: int) -> str | None:
    shape = re.search(r"/(width_\w+)/(?:average_l0_(\d+)|(canonical))", address)
    if shape is None:
        return None
    known = CANONICAL.get(f"{model}/{shape[1]}", ())
    shown = known[layer] if layer < len(known) else None
    if shown is None or (shape[2] and int(shape[2]) != shown):
        return None
    return f"{model}/{layer}-gemmascope-res-{shape[1].removeprefix('width_')}"


# --- Gemma Scope 2 ------------------------------------------------------------------------------------------------------


def read_gemma_scope_2(path: Path) -> dict[str, Any]:
    """`params.safetensors`, and what it is of as `config.json` beside it or the path has it.

    Paths are `.../gemma-scope-2-1b-it/resid_post/layer_13_width_16k_l0_small/params.safetensors`. It reads a block's output as
    Hugging Face's model has it, and subtracts nothing before encoding.
    """
    address = path.absolute().as_posix()
    settings = _settings(path.parent / GEMMA_SETTINGS)
    repo, folder = _GEMMA_REPO_2.search(address), _FOLDER_2.search(address)
    kind = folder[1] if folder else None
    if kind not in _RESIDUAL_2 and kind is not None and _NOT_RESIDUAL_2.search(kind):
        raise SAEError(f"{path}: of {kind!r}, not of the residual stream after a block, where vectors act")
    if settings.get("architecture", "jump_relu") not in ("jump_relu", "jumprelu"):
        raise SAEError(f"{path}: the architecture {settings['architecture']!r} is not read; jump_relu is")
    if settings.get("type") not in (None, "sae"):
        raise SAEError(f"{path}: of the type {settings['type']!r}, which is not read: only plain autoencoders are")
    tensors = _capitals(safetensors.torch.load_file(path))
    expect(tensors, (*TENSORS, "threshold"), (), str(path))
    model = _gemma_3(f"gemma-3-{repo[1]}-{repo[2]}") if repo else None
    return tensors | {
        "activation": "jumprelu",
        "model_name": _agreed(path, "model_name", _gemma_3(settings.get("model_name")), model),
        "layer": _agreed(path, "layer", _layer_2(path, settings), int(folder[2]) if folder else None),
        "weight_processing": RAW,
        "normalisation": "none",
    }


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    settings = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(settings, dict):
        raise SAEError(f"{path}: holds a {type(settings).__name__}, not settings by name")
    return settings


def _layer_2(path: Path, settings: Mapping[str, Any]) -> int | None:
    """The block whose output is read and written, as the settings have it."""
    hooks = {name: settings.get(name) for name in ("hf_hook_point_in", "hf_hook_point_out")}
    layers = {}
    for name, hook in hooks.items():
        if hook is None:
            continue
        layers[name] = layer_of(hook) if isinstance(hook, str) else None
        if layers[name] is None:
            raise SAEError(f"{path}: {name} is {hook!r}, not the residual stream after a block")
    if len(set(layers.values())) > 1:
        raise SAEError(f"{path}: reads {hooks['hf_hook_point_in']!r} and writes {hooks['hf_hook_point_out']!r}: a transcoder")
    return next(iter(layers.values()), None)


def _gemma_3(name: Any) -> str | None:
    """The name of a Gemma 3 at the Hugging Face hub: without Gemma Scope's "-v3"; the 270M base model has no suffix."""
    if not isinstance(name, str):
        return None
    name = name.rstrip("/").split("/")[-1].lower().replace("-v3", "")
    return "gemma-3-270m" if name == "gemma-3-270m-pt" else name


def _agreed(path: Path, name: str, said: Any, shown: Any) -> Any:
    if said is not None and shown is not None and said != shown:
        raise SAEError(f"{path}: {name} is {said!r} in {GEMMA_SETTINGS}, {shown!r} in the path")
    return shown if said is None else said


def _capitals(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices as W_enc and W_dec, which some files have as w_enc and w_dec."""
    names = {"w_enc": "W_enc", "w_dec": "W_dec"}
    renamed = {name: names.get(name, name) if names.get(name) not in tensors else name for name in tensors}
    return {renamed[name]: tensor for name, tensor in tensors.items()}


def expect(tensors: Mapping[str, Tensor], wanted: tuple[str, ...], also: tuple[str, ...], source: str) -> None:
    """Refuse missing tensors, further ones (something would be left out of the computation), and other than real numbers."""
    missing, further = set(wanted) - set(tensors), set(tensors) - set(wanted) - set(also)
    if missing or further:
        wrong = f"missing {', '.join(sorted(missing))}" if missing else f"unknown {', '.join(sorted(further))}"
        raise SAEError(f"{source}: the tensors are {', '.join(sorted(tensors))}: {wrong}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise SAEError(f"{source}: {name} holds {str(tensor.dtype).removeprefix('torch.')}, not real numbers")
