"""Reading sparse autoencoders: the package's own, Gemma Scope, SAELens, EleutherAI's sparsify, and objects in memory.

Only safetensors, JSON and npz without pickles are read. What a file does not say and its path does not show has to be given;
what cannot be read exactly is refused by name.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ...files import TERRARIUM_SAE
from .autoencoder import RAW, layer_of
from .autoencoder import SAE as SAE
from .autoencoder import SAEError as SAEError

GEMMA_SCOPE, CONFIG, SAELENS, SPARSIFY = "params.npz", "cfg.json", "sae_weights.safetensors", "sae.safetensors"
TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec")
# SAELens loads models without processing; these arguments of its models would change the residual stream
_PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
_GEMMA_REPO = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")
_TEXT = (str, type(None))
_KINDS = {"model_name": _TEXT, "hook_name": _TEXT, "weight_processing": _TEXT, "neuronpedia_id": _TEXT}
_KINDS |= {"k": (int, type(None)), "apply_b_dec_to_input": (bool,)}
_PROBES = 8
"""Random residuals on which a live object's own encoding is compared."""
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


def load_sae(
    source: Any,
    *,
    model_name: str | None = None,
    layer: int | None = None,
    weight_processing: str | None = None,
) -> SAE:
    """Read a sparse autoencoder.

    Args:
        source: "terrarium" (the one in the package); a folder or file of Gemma Scope (`params.npz`), SAELens (`cfg.json` and
            `sae_weights.safetensors`) or sparsify (`cfg.json` and `sae.safetensors`); "owner/repository/folder" at the Hugging
            Face hub in any of these formats, of which only the files needed are downloaded; or an object with W_enc, W_dec,
            b_enc, b_dec and a cfg, such as a SAELens SAE.
        model_name, layer, weight_processing: what the file does not say. `layer` is the 0-based block whose output it reads,
            `weight_processing` is "raw" for a model as Hugging Face has it.

    Raises:
        SAEError: there is nothing to read, the file is damaged or of a kind that is not read exactly (gated, transcoders,
            normalised inputs, ...), or it says something else than the arguments.
    """
    given = {"model_name": model_name, "layer": layer, "weight_processing": weight_processing}
    if not isinstance(source, (str, Path)):
        with _parsing(type(source).__name__):
            return _settled(_from_object(source), given, type(source).__name__)
    if source == "terrarium":
        with _parsing("terrarium"):
            return _settled(_read(TERRARIUM_SAE), given, "terrarium")
    path = Path(source)
    found = _file_in(path)
    if found is None and isinstance(source, str) and not path.exists() and _is_hub_id(source):
        found = _download(source)
    if found is None:
        looked = f"{GEMMA_SCOPE}, or {CONFIG} with {SAELENS} or {SPARSIFY}"
        raise SAEError(f"{source}: no sparse autoencoder here (looked for {looked})")
    with _parsing(str(source)):
        return _settled(_read(found), given, str(source))


@contextmanager
def _parsing(source: str) -> Iterator[None]:
    """Whatever a damaged file provokes in a parser is one kind of error to the caller."""
    try:
        yield
    except SAEError:
        raise
    except Exception as error:
        raise SAEError(f"{source}: damaged, or not a sparse autoencoder ({type(error).__name__}: {error})") from error


def _settled(fields: dict[str, Any], given: Mapping[str, Any], source: str) -> SAE:
    """The autoencoder, with what the caller knows filled in, and refused if it contradicts what was read."""
    fields = {"source": source} | fields
    for name, kinds in _KINDS.items():
        if name in fields and type(fields[name]) not in kinds:
            raise SAEError(f"{source}: {name} is {fields[name]!r}, not {' or '.join(kind.__name__ for kind in kinds)}")
    if fields.get("layer") is None and fields.get("hook_name"):
        fields["layer"] = layer_of(fields["hook_name"])
    for name, value in given.items():
        read = fields.get(name)
        if value is not None and read is not None and read != value:
            raise SAEError(f"{source}: {name} is {read!r} here, {value!r} was given")
        fields[name] = value if read is None else read
    try:
        return SAE(**fields)
    except SAEError as error:
        raise SAEError(f"{source}: {error}") from error


def _file_in(path: Path) -> Path | None:
    """The folder of an autoencoder, or the file of a Gemma Scope one."""
    if path.is_file():
        if path.suffix == ".npz":
            return path
        return path.parent if path.name in (SAELENS, SPARSIFY, CONFIG) else None
    if (path / GEMMA_SCOPE).is_file():
        return path / GEMMA_SCOPE
    weights = any((path / name).is_file() for name in (SAELENS, SPARSIFY))
    return path if weights and (path / CONFIG).is_file() else None


def _read(found: Path) -> dict[str, Any]:
    if found.suffix == ".npz":
        return _read_gemma_scope(found)
    config = json.loads((found / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise SAEError(f"{found}: {CONFIG} holds a {type(config).__name__}, not settings by name")
    if (found / SAELENS).is_file():
        return saelens_fields(config, safetensors.torch.load_file(found / SAELENS), str(found))
    return _read_sparsify(found, config, safetensors.torch.load_file(found / SPARSIFY))


# --- Gemma Scope --------------------------------------------------------------------------------------------------------


def _read_gemma_scope(path: Path) -> dict[str, Any]:
    """`params.npz`; model, layer and width as the path has them: .../gemma-scope-2b-pt-res/.../layer_20/width_16k/..."""
    address = path.absolute().as_posix()
    repo, layer = _GEMMA_REPO.search(address), re.search(r"/layer_(\d+)/", address)
    if repo and repo[3] != "res":
        raise SAEError(f"{path}: Gemma Scope {repo[3]!r} is not of the residual stream, where vectors act")
    if "/embedding/" in address:
        raise SAEError(f"{path}: of the embedding, not of the residual stream after a block")
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            tensors = {name: torch.from_numpy(file[name]) for name in file.files}
    except Exception as error:  # not its words: numpy's advise to unpickle
        raise SAEError(f"{path}: not an intact {GEMMA_SCOPE} ({type(error).__name__})") from error
    _expect(tensors, (*TENSORS, "threshold"), (), str(path))
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


def _gemma_page(address: str, model: str, layer: int) -> str | None:
    shape = re.search(r"/(width_\w+)/(?:average_l0_(\d+)|(canonical))", address)
    if shape is None:
        return None
    known = CANONICAL.get(f"{model}/{shape[1]}", ())
    shown = known[layer] if layer < len(known) else None
    if shown is None or (shape[2] and int(shape[2]) != shown):
        return None
    return f"{model}/{layer}-gemmascope-res-{shape[1].removeprefix('width_')}"


# --- SAELens ------------------------------------------------------------------------------------------------------------


def saelens_fields(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The fields of an autoencoder of SAELens: of version 6 (a `metadata` of its own), or flat, as before."""
    flat = {**config, **(config.get("metadata") or {})}
    for old, new in (("hook_point", "hook_name"), ("activation_fn_str", "activation_fn")):
        flat.setdefault(new, flat.get(old))
    activation, k = _saelens_activation(flat, source)
    normalisation = flat.get("normalize_activations") or "none"
    if normalisation is True:
        normalisation = "expected_average_only_in"
    if normalisation != "none":
        raise SAEError(
            f"{source}: normalize_activations={normalisation!r}, whose constants are not in the file; fold them into the "
            "weights with SAELens (fold_activation_norm_scaling_factor) where that is possible, and save it again"
        )
    if flat.get("reshape_activations") not in (None, "none"):
        raise SAEError(f"{source}: reshape_activations={flat['reshape_activations']!r}: not of the residual stream")
    extra = ("threshold",) if activation == "jumprelu" else ()
    _expect(tensors, (*TENSORS, *extra), ("scaling_factor", "finetuning_scaling_factor"), source)
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in tensors and not torch.allclose(tensors[name], torch.ones_like(tensors[name])):
            raise SAEError(f"{source}: {name} is not 1 (fine-tuned activations), which is not read")
    kept = {name: tensors[name].detach().float() for name in (*TENSORS, *extra)}
    if activation == "topk" and flat.get("rescale_acts_by_decoder_norm"):
        kept = _decoder_norms_folded(kept)
    return kept | {
        "activation": activation,
        "k": k,
        "apply_b_dec_to_input": flat.get("apply_b_dec_to_input", True),
        "model_name": flat.get("model_name"),
        "hook_name": flat.get("hook_name"),
        "weight_processing": _saelens_processing(flat),
        "normalisation": "none",
        "neuronpedia_id": flat.get("neuronpedia_id"),
    }


def _saelens_activation(flat: Mapping[str, Any], source: str) -> tuple[str, Any]:
    architecture, function = flat.get("architecture") or "standard", flat.get("activation_fn") or "relu"
    if architecture == "batchtopk":
        raise SAEError(f"{source}: a BatchTopK in training; save it with save_inference_model, which makes it a JumpReLU")
    if architecture not in ("standard", "jumprelu", "topk"):
        raise SAEError(f"{source}: the architecture {architecture!r} is not read; standard, jumprelu and topk are")
    if architecture == "standard" and function not in ("relu", "topk"):
        raise SAEError(f"{source}: the activation {function!r} is not read; relu and topk are")
    if architecture == "jumprelu":
        return "jumprelu", None
    if architecture == "standard" and function == "relu":
        return "relu", None
    k = flat["k"] if architecture == "topk" and "k" in flat else (flat.get("activation_fn_kwargs") or {}).get("k")
    if k is None:
        raise SAEError(f"{source}: a topk without its k")
    return "topk", k


def _saelens_processing(flat: Mapping[str, Any]) -> str | None:
    """SAELens loads its models with `from_pretrained_no_processing` and these arguments on top of it."""
    arguments = flat.get("model_from_pretrained_kwargs") or {}
    done = [name for name in _PROCESSING if arguments.get(name)]
    return flat.get("weight_processing") or (", ".join(done) if done else RAW)


def _decoder_norms_folded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A topk that chooses by activation times decoder norm, as one with decoder rows of length 1: the same function."""
    norms = tensors["W_dec"].norm(dim=-1)
    return tensors | {
        "W_enc": tensors["W_enc"] * norms,
        "b_enc": tensors["b_enc"] * norms,
        "W_dec": tensors["W_dec"] / norms.clamp(min=1e-8)[:, None],
    }


# --- sparsify -----------------------------------------------------------------------------------------------------------


def _read_sparsify(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A folder of sparsify, named after what it reads ("layers.20"); `config.json` beside it may name the model."""
    for name in ("transcode", "skip_connection", "signed", "embed_skip", "gram_lookup"):
        if config.get(name):
            raise SAEError(f"{folder}: {name} is set, which is not read: only plain autoencoders are")
    if config.get("activation", "topk") != "topk":
        raise SAEError(f"{folder}: the activation {config['activation']!r} is not read; topk is")
    if config.get("k") is None:
        raise SAEError(f"{folder}: {CONFIG} has no k")
    _expect(tensors, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"), (), str(folder))
    run = folder.parent / "config.json"
    layer = layer_of(folder.name)
    if layer is None and re.match(r"layers|h\.|embed", folder.name):
        raise SAEError(f"{folder}: of {folder.name!r}, not of the residual stream after a block")
    return {
        "W_enc": tensors["encoder.weight"].T,
        "W_dec": tensors["W_dec"],
        "b_enc": tensors["encoder.bias"],
        "b_dec": tensors["b_dec"],
        "activation": "topk",
        "k": config["k"],
        "apply_b_dec_to_input": True,
        "model_name": json.loads(run.read_text(encoding="utf-8")).get("model") if run.is_file() else None,
        "layer": layer,
        "weight_processing": RAW,
        "normalisation": "none",
    }


def _expect(tensors: Mapping[str, Tensor], wanted: tuple[str, ...], also: tuple[str, ...], source: str) -> None:
    """Refuse missing tensors, further ones (something would be left out of the computation), and other than real numbers."""
    missing, further = set(wanted) - set(tensors), set(tensors) - set(wanted) - set(also)
    if missing or further:
        wrong = f"missing {', '.join(sorted(missing))}" if missing else f"unknown {', '.join(sorted(further))}"
        raise SAEError(f"{source}: the tensors are {', '.join(sorted(tensors))}: {wrong}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise SAEError(f"{source}: {name} holds {str(tensor.dtype).removeprefix('torch.')}, not real numbers")


# --- objects and the hub ------------------------------------------------------------------------------------------------


def _from_object(source: Any) -> dict[str, Any]:
    """A SAELens SAE in memory. Its own `encode`, if it has one, must agree with what is read."""
    name = type(source).__name__
    if isinstance(source, SAE):
        return {field: getattr(source, field) for field in source.__dataclass_fields__}
    tensors = {key: value for key in (*TENSORS, "threshold") if isinstance(value := getattr(source, key, None), Tensor)}
    if missing := set(TENSORS) - set(tensors):
        raise SAEError(f"{name} has no {', '.join(sorted(missing))}: not a sparse autoencoder")
    if getattr(source, "cfg", None) is None:
        raise SAEError(f"{name} has no cfg that says how it encodes: make a steerlens.analysis.SAE(...) of its tensors")
    config = _as_dict(source.cfg)
    config["metadata"] = _as_dict(config.get("metadata") or {})
    if callable(config.get("architecture", getattr(source.cfg, "architecture", None))):
        config["architecture"] = source.cfg.architecture()
    if config.get("architecture") != "jumprelu":
        tensors.pop("threshold", None)
    fields = saelens_fields(config, tensors, name)
    if callable(getattr(source, "encode", None)):
        _check_encoding(SAE(**fields), source, name)
    return fields


def _check_encoding(sae: SAE, source: Any, name: str) -> None:
    probes = sae.b_dec + torch.randn(_PROBES, sae.d_model, generator=torch.Generator().manual_seed(0)).to(sae.b_dec)
    with torch.no_grad():
        theirs, ours = source.encode(probes.to(source.W_enc)).float(), sae.encode(probes)
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=1e-2, atol=1e-2 * float(ours.abs().max())):
        raise SAEError(f"{name}: its own encode gives other activations than its cfg ({sae.activation}) stands for")


def _as_dict(config: Any) -> dict[str, Any]:
    if isinstance(config, Mapping):
        return dict(config)
    return dict(config.to_dict()) if callable(getattr(config, "to_dict", None)) else dict(vars(config))


def _is_hub_id(source: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+)*/?", source) is not None and not source.startswith((".", "/"))


def _download(source: str) -> Path:
    """Fetch one autoencoder of a hub repository: its configuration and weights, nothing else."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    owner, repo, *folders = source.strip("/").split("/")

    def fetch(name: str, inside: list[str]) -> Path | None:
        try:
            return Path(huggingface_hub.hf_hub_download(f"{owner}/{repo}", "/".join([*inside, name])))
        except LocalEntryNotFoundError as error:
            raise SAEError(f"{source}: the hub cannot be reached, and {name} is not in the cache") from error
        except EntryNotFoundError:
            return None
        except HfHubHTTPError as error:
            raise SAEError(f"{source}: the hub refuses ({error})") from error

    if fetch(CONFIG, folders) is None:
        if (found := fetch(GEMMA_SCOPE, folders)) is not None:
            return found
    elif (weights := fetch(SAELENS, folders)) is not None:
        return weights.parent
    elif (weights := fetch(SPARSIFY, folders)) is not None:
        fetch("config.json", folders[:-1])
        return weights.parent
    looked = f"{GEMMA_SCOPE}, or {CONFIG} with {SAELENS} or {SPARSIFY}"
    raise SAEError(f"{source}: not on disk, and {'/'.join(folders) or 'the top'} of {owner}/{repo} at the hub has no {looked}")
