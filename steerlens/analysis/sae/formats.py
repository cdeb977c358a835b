"""Reading sparse autoencoders: the package's own, Gemma Scope 1 and 2, SAELens, EleutherAI's sparsify, and objects in memory.

Only safetensors, JSON and npz without pickles are read. What a file does not say and its path does not show has to be given;
what cannot be read exactly is refused by name.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ...arguments import checked_call
from ...files import TERRARIUM_SAE
from .autoencoder import RAW
from .autoencoder import SAE as SAE
from .autoencoder import SAEError as SAEError
from .gemma_scope import GEMMA_SCOPE, GEMMA_SCOPE_2, GEMMA_SETTINGS, TENSORS, expect, read_gemma_scope, read_gemma_scope_2
from .hook_points import hookpoint_in, layer_of, number_in

CONFIG, SAELENS, SPARSIFY = "cfg.json", "sae_weights.safetensors", "sae.safetensors"
LOOKED = f"{GEMMA_SCOPE}, or {CONFIG} with {SAELENS} or {SPARSIFY}, or {GEMMA_SCOPE_2}"
# SAELens loads models without processing; these arguments of its models would change the residual stream
_PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
_TEXT = (str, type(None))
_KINDS = {"model_name": _TEXT, "hook_name": _TEXT, "weight_processing": _TEXT, "normalisation": _TEXT, "neuronpedia_id": _TEXT}
_KINDS |= {"k": (int, type(None)), "apply_b_dec_to_input": (bool,)}
_PROBES = 8
"""Random residuals on which a live object's own encoding is compared."""


@checked_call
def load_sae(
    source: Any,
    *,
    model_name: str | None = None,
    layer: int | None = None,
    weight_processing: str | None = None,
    normalisation: str | None = None,
) -> SAE:
    """Read a sparse autoencoder.

    Args:
        source: "terrarium" (the one in the package); a folder or file of Gemma Scope (`params.npz`), Gemma Scope 2
            (`params.safetensors`, perhaps with `config.json`), SAELens (`cfg.json` and `sae_weights.safetensors`) or sparsify
            (`cfg.json` and `sae.safetensors`, in a folder named after the hook point); "owner/repository/folder" at the Hugging
            Face hub in any of these formats, of which only the files needed are downloaded; or an object with W_enc, W_dec,
            b_enc, b_dec and a cfg, such as a SAELens SAE.
        model_name, layer, weight_processing, normalisation: what the file does not say, which stays None, and comparisons
            refuse it. `layer` is the 0-based block whose output it reads, `weight_processing` is "raw" for a model as
            Hugging Face has it (gpt2-small-res-jb, for one, was trained on centred weights: "center_writing_weights"),
            `normalisation` is "none" where residuals are read as they are.

    Raises:
        SAEError: there is nothing to read, the file is damaged or of a kind that is not read exactly (gated, transcoders,
            normalised inputs, ...), or it says something else than the arguments.
    """
    given = {"model_name": model_name, "layer": layer, "weight_processing": weight_processing}
    given |= {"normalisation": normalisation}
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
        raise SAEError(f"{source}: no sparse autoencoder here (looked for {LOOKED})")
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
        if path.suffix == ".npz" or path.name == GEMMA_SCOPE_2:
            return path
        return path.parent if path.name in (SAELENS, SPARSIFY, CONFIG) else None
    if (path / GEMMA_SCOPE).is_file():
        return path / GEMMA_SCOPE
    if (path / GEMMA_SCOPE_2).is_file():
        return path / GEMMA_SCOPE_2
    weights = any((path / name).is_file() for name in (SAELENS, SPARSIFY))
    return path if weights and (path / CONFIG).is_file() else None


def _read(found: Path) -> dict[str, Any]:
    if found.suffix == ".npz":
        return read_gemma_scope(found)
    if found.name == GEMMA_SCOPE_2:
        return read_gemma_scope_2(found)
    config = json.loads((found / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise SAEError(f"{found}: {CONFIG} holds a {type(config).__name__}, not settings by name")
    if (found / SAELENS).is_file():
        return saelens_fields(config, safetensors.torch.load_file(found / SAELENS), str(found))
    return _read_sparsify(found, config, safetensors.torch.load_file(found / SPARSIFY))


# --- SAELens ------------------------------------------------------------------------------------------------------------


def saelens_fields(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The fields of an autoencoder of SAELens: of version 6 (a `metadata` of its own), or flat, as before."""
    flat = _flattened(config, source)
    activation, k = _saelens_activation(flat, source)
    normalisation = flat.get("normalize_activations")
    if isinstance(normalisation, bool):  # before it had names
        normalisation = "expected_average_only_in" if normalisation else "none"
    if normalisation not in (None, "none"):
        raise SAEError(
            f"{source}: normalize_activations={normalisation!r}, whose constants are not in the file; fold them into the "
            "weights with SAELens (fold_activation_norm_scaling_factor) where that is possible, and save it again"
        )
    if flat.get("reshape_activations") not in (None, "none"):
        raise SAEError(f"{source}: reshape_activations={flat['reshape_activations']!r}: not of the residual stream")
    if flat.get("hook_head_index") is not None:
        raise SAEError(f"{source}: hook_head_index={flat['hook_head_index']!r}: of one head, not of the residual stream")
    extra = ("threshold",) if activation == "jumprelu" else ()
    expect(tensors, (*TENSORS, *extra), ("scaling_factor", "finetuning_scaling_factor"), source)
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in tensors and not torch.allclose(tensors[name], torch.ones_like(tensors[name])):
            raise SAEError(f"{source}: {name} is not 1 (fine-tuned activations), which is not read")
    _check_sizes({"d_in": flat.get("d_in"), "d_sae": flat.get("d_sae")}, tensors["W_dec"], source)
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
        "normalisation": normalisation,
        "neuronpedia_id": flat.get("neuronpedia_id"),
    }


def _flattened(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """All settings in one mapping, old names as new ones; refused where two of them say of different places."""
    inner = config.get("metadata") or {}
    flat = {**config, **inner}
    for name in ("hook_name", "hook_layer", "model_name"):
        outside, inside = config.get(name), inner.get(name)
        if None not in (outside, inside) and outside != inside:
            raise SAEError(f"{source}: {name} is {outside!r} in {CONFIG} and {inside!r} in its metadata")
    for old, new in (("hook_point", "hook_name"), ("activation_fn_str", "activation_fn"), ("hook_point_layer", "hook_layer")):
        flat.setdefault(new, flat.get(old))
    hook, layer, written = flat["hook_name"], flat["hook_layer"], flat.get("hook_name_out")
    number = number_in(hook) if isinstance(hook, str) else None
    if layer is not None and number is not None and layer != number:
        raise SAEError(f"{source}: hook_layer is {layer!r}, the hook point {hook!r} is of block {number}")
    if written is not None and hook is not None and written != hook:
        raise SAEError(f"{source}: it reads at {hook!r} and writes at {written!r} (hook_name_out): a transcoder")
    return flat


def _check_sizes(said: Mapping[str, Any], w_dec: Tensor, source: str) -> None:
    """Refuse weights of other sizes than the settings say (d_model, then features)."""
    for (name, size), held in zip(said.items(), reversed(w_dec.shape), strict=True):
        if size is not None and size != held:
            raise SAEError(f"{source}: {name} is {size!r} in {CONFIG}, the weights have {held}")


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
    """SAELens loads its models with `from_pretrained_no_processing` and these arguments on top; None where it has none."""
    arguments = flat.get("model_from_pretrained_kwargs")
    if flat.get("weight_processing") or arguments is None:
        return flat.get("weight_processing")
    return ", ".join(name for name in _PROCESSING if arguments.get(name)) or RAW


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
    expect(tensors, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"), (), str(folder))
    run = folder.parent / "config.json"
    hookpoint = hookpoint_in(folder.absolute().as_posix())
    layer = None if hookpoint is None else layer_of(hookpoint)
    if hookpoint is not None and layer is None:
        raise SAEError(
            f"{folder}: of {hookpoint!r}, not of the residual stream after a block (a folder inside that of a block is "
            'taken for a module in it, unless it is called "best", "step_100" or the like)'
        )
    _check_sizes({"d_in": config.get("d_in"), "num_latents": config.get("num_latents") or None}, tensors["W_dec"], str(folder))
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
        if (found := fetch(GEMMA_SCOPE_2, folders)) is not None:
            fetch(GEMMA_SETTINGS, folders)
            return found
    elif (weights := fetch(SAELENS, folders)) is not None:
        return weights.parent
    elif (weights := fetch(SPARSIFY, folders)) is not None:
        fetch("config.json", folders[:-1])
        return weights.parent
    raise SAEError(f"{source}: not on disk, and {'/'.join(folders) or 'the top'} of {owner}/{repo} at the hub has no {LOOKED}")
