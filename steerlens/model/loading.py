"""Loading a model by hub name, folder or GGUF file: what cannot be steered is refused before any weight is read."""

import copy
import importlib.util
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..arguments import checked_call
from ..files import TERRARIUM_WEIGHTS
from .bridge import Bridge
from .gguf import check_gguf, read_gguf, reading
from .known_sources import find_known
from .registry import known_model
from .support import ONLY, UnsupportedModelError, check_class, check_supported
from .tokenizer import remember
from .whole_weights import WholeClass

REPOSITORY = re.compile(r"[\w.\-]+(/[\w.\-]+)?")
"""A name on the hub: `owner/model`, or an old name without an owner."""
GGUF_FILES = ".gguf"


class Source(NamedTuple):
    """Where a model's files are."""

    path: str
    """A folder, or a name on the hub."""
    gguf_file: str | None
    """The file in it, if it is in the GGUF format."""
    name: str | None = None
    """What the model is to be called, if not by its path."""
    revision: str | None = None
    """Which weights they are, where the files do not say it themselves."""


@checked_call
def load_model(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    gguf_file: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    **boot: Any,
) -> Bridge:
    """Boot a TransformerLens bridge with raw Hugging Face weights.

    Args:
        name_or_path: a hub name ("google/gemma-2-2b-it"), a local folder in the Hugging Face format, a `.gguf` file, or
            "terrarium", the small model in the package. "smollm2" (SmolLM2-135M-Instruct) and "gemma3-270m" are real ones: the
            hub's weights if they are in its cache or it answers, else those of an installed package, converted once into the
            user's cache (`STEERLENS_CACHE`, `XDG_CACHE_HOME`); "smollm2:Q4_1" and "gemma3-270m:Q4_K_M" are the package's.
        dtype: such as "bfloat16" or `torch.bfloat16`; None = float32.
        gguf_file: the file's name, if the folder or repository holds GGUF files (needs the package gguf, the extra "gguf").
        template_args: arguments of the chat template, such as `{"enable_thinking": True}` or a date. They hold wherever this
            model's prompts are made, and are part of a vector's identity. Thinking is off unless it is asked for here.
        boot: arguments of `TransformerBridge.boot_transformers`, such as `device`, `device_map`, `revision`, `n_ctx`.

    Raises:
        TypeError: a name that is no text.
        FileNotFoundError: what looks like a path does not exist, or the folder has no such GGUF file.
        ValueError: the dtype is unknown, the architecture is not one of a causal text model (or TransformerLens does not know
            it), a GGUF file is damaged, or an argument does not go with GGUF.
        UnsupportedModelError: the architecture cannot be steered rightly (see docs/architectures.md), or the checkpoint lacks
            weights that the model needs, such as those of the head of a language model.
        ImportError: the model needs a package that is not installed; nothing is ever installed for it.
    """
    source = find_source(name_or_path, gguf_file, boot)
    kind = torch.float32 if dtype is None else read_dtype(dtype)
    given = boot.pop("tokenizer", None)
    loaded = boot.get("hf_model")
    config = loaded.config if loaded is not None else _config(source, boot)
    name = str(name_or_path)
    check_architecture(config, name)
    tokenizer = given if given is not None else _tokenizer(source, boot)
    if source.gguf_file is not None:
        plain = read_gguf(source.path, source.gguf_file, config, kind, _where(boot), name)
        boot["hf_model"] = plain if boot.get("device") is None else plain.to(boot["device"])
        name = str(Path(name) / source.gguf_file) if gguf_file is not None else name
    model = _boot(source, kind, tokenizer, name, config, boot)
    if source.name is not None or name != source.path:
        model.cfg.model_name = source.name or name
    if source.revision is not None:
        weights: Any = model.original_model
        weights.config._commit_hash = source.revision  # where transformers keeps the commit of what it downloads
    remember(model, tokenizer, template_args or {})
    check_supported(model)
    return model


def read_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A dtype that models run in, from its name; ValueError for what is none."""
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    if found not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ValueError(f'dtype {dtype!r} is unknown; use "float32", "bfloat16" or "float16"')
    return found


def find_source(name_or_path: str | Path, gguf_file: str | None, boot: dict[str, Any]) -> Source:
    """Where the files are; those of a model with a short name are downloaded or converted first, if they have to be.

    Args:
        boot: `revision` is taken out for a model with a short name.

    Raises:
        FileNotFoundError, TypeError: as `load_model`.
    """
    if not isinstance(name_or_path, (str, Path)) or not str(name_or_path).strip():
        raise TypeError(f'the model is {name_or_path!r}: give a hub name, a folder, a .gguf file, "terrarium" or "smollm2"')
    name = str(name_or_path)
    path = Path(name).expanduser()
    known = known_model(name)
    if gguf_file is not None and (name == "terrarium" or known is not None or path.is_file()):
        raise ValueError(f"{name} is a model already: gguf_file={gguf_file!r} names a file in a folder or repository")
    if name == "terrarium":
        return Source(str(TERRARIUM_WEIGHTS), None)
    if known is not None:
        found = find_known(known, name, boot.pop("revision", None))
        return Source(found.folder, None, found.name, found.revision)
    if path.is_file():
        if path.suffix.lower() != GGUF_FILES:
            raise FileNotFoundError(f"{name} is a file: give the folder it is in, or a .gguf file")
        return Source(str(path.parent), path.name)
    if path.is_dir():
        if gguf_file is not None and not (path / gguf_file).is_file():
            raise FileNotFoundError(f"{name} holds no {gguf_file}; it has {_listed(path)}")
        if gguf_file is None and not (path / "config.json").exists():
            remedy = "pass gguf_file=... (one of them)" if list(path.glob(f"*{GGUF_FILES}")) else "give a model's folder"
            raise FileNotFoundError(f"{name} holds no config.json; it has {_listed(path)}: {remedy}")
        return Source(str(path), gguf_file)
    if not REPOSITORY.fullmatch(name) or name.lower().endswith(GGUF_FILES):
        raise FileNotFoundError(f"{name} does not exist: give a folder, a .gguf file, or a hub name such as owner/model")
    return Source(name, gguf_file)


def _listed(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "nothing"


# --- what can be steered --------------------------------------------------------------------------------------------------


def check_architecture(config: Any, name: str) -> None:
    """Refuse what is not a causal language model of text, by name.

    Raises:
        ValueError: an encoder-decoder, masked, audio or vision architecture.
        UnsupportedModelError: a causal one that cannot be steered rightly.
        ImportError: a model of text and images whose processor needs torchvision, which is not installed.
    """
    from transformer_lens.utilities.architectures import MULTIMODAL_ARCHITECTURES

    listed = list(getattr(config, "architectures", None) or [])
    found = str(listed[0]) if listed else type(config).__name__.replace("Config", "ForCausalLM")
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} ({found}) is an encoder-decoder model: {ONLY}")
    check_class(found, config, name)
    taken = _taken_for(config)
    if taken is None:
        raise UnsupportedModelError(f"{name} ({found}) cannot be steered: TransformerLens has no adapter for it")
    if taken != found:
        check_class(taken, config, f"{name} ({found}), as TransformerLens takes it,")
    if found in MULTIMODAL_ARCHITECTURES and importlib.util.find_spec("torchvision") is None:
        raise ImportError(
            f"{name} ({found}) takes images too, and its processor needs torchvision, which is not installed: install the "
            "torchvision that belongs to your torch, or load a text-only checkpoint of the family"
        )


def _taken_for(config: Any) -> str | None:
    """The class that TransformerLens takes a configuration for, or None."""
    from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config

    try:
        return determine_architecture_from_hf_config(config)
    except ValueError:
        return None


def _config(source: Source, boot: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    extra = {"gguf_file": source.gguf_file} if source.gguf_file is not None else {}
    if source.gguf_file is not None:
        check_gguf(boot)
    with reading(source.path, source.gguf_file):
        config = AutoConfig.from_pretrained(source.path, **_where(boot), **extra)
    if source.gguf_file is not None and not config.architectures:  # TransformerLens goes by it, and some files leave it empty
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
        config.architectures = None if known is None else [known]
    return config


def _tokenizer(source: Source, boot: Mapping[str, Any]) -> Any:
    """The tokenizer as it lies on disk."""
    from transformers import AutoTokenizer

    extra = {"gguf_file": source.gguf_file} if source.gguf_file is not None else {}
    with reading(source.path, source.gguf_file):
        return AutoTokenizer.from_pretrained(source.path, **_where(boot), **extra)


def _where(boot: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that choose a version of the files, for readers of configurations and tokenizers."""
    return {name: boot[name] for name in ("revision", "trust_remote_code") if boot.get(name) is not None}


def _boot(source: Source, dtype: torch.dtype, tokenizer: Any, name: str, config: Any, boot: Mapping[str, Any]) -> Bridge:
    """TransformerLens changes the tokenizer it is given, and reads its files again: it gets a copy that has files."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources.transformers.helpers import get_hf_model_class_for_architecture

    whole = WholeClass(boot.get("model_class") or get_hf_model_class_for_architecture(str(_taken_for(config))), name, config)
    with tempfile.TemporaryDirectory() as folder:
        theirs = copy.deepcopy(tokenizer)
        if source.gguf_file is not None:
            theirs.save_pretrained(folder)
            from transformers import AutoTokenizer

            theirs = AutoTokenizer.from_pretrained(folder)
        given = dict(boot) | {"model_class": whole}
        return TransformerBridge.boot_transformers(source.path, dtype=dtype, tokenizer=theirs, **given)
