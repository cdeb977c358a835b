"""What a model is recognised by: names, versions, the form of its prompts, a fingerprint of its weights."""

import hashlib
from typing import Any

import torch

from ..reproducibility import sha256
from .bridge import Bridge, d_model, model_name, n_layers
from .chat import rendered_form

SAMPLED = 1024
"""Entries of each parameter that the fingerprint of the weights looks at."""


def weight_processing(model: Bridge) -> str:
    """ "raw" as Hugging Face has them, or TransformerLens's "compatibility_mode"."""
    return "compatibility_mode" if model.compatibility_mode else "raw"


def identity(model: Bridge) -> dict[str, Any]:
    """What a saved vector must say about the model it belongs to."""
    config = model.original_model.config
    template = getattr(model.tokenizer, "chat_template", None)
    form = rendered_form(model)
    return {
        "model_name": model_name(model),
        "revision": getattr(config, "_commit_hash", None),
        "architecture": model.cfg.architecture,
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "weight_processing": weight_processing(model),
        "d_model": d_model(model),
        "n_layers": n_layers(model),
        "template_hash": None if template is None else sha256(str(template)),
        "template_form": None if form is None else form._asdict(),
    }


def weights_hash(model: Bridge) -> str:
    """Fingerprint of the weights: names, shapes, and evenly spaced entries of each parameter."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.original_model.named_parameters()):
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLED)].to("cpu", torch.float32)
        digest.update(f"|{name}|{tuple(parameter.shape)}|".encode() + sample.numpy().tobytes())
    return digest.hexdigest()
