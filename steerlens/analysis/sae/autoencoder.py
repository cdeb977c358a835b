"""A sparse autoencoder as a value: what it reads, what it writes, and where it belongs."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from ...arguments import is_whole
from ...model.numbers import NotFiniteError
from ...result import html_facts
from .hook_points import layer_of as layer_of

ACTIVATIONS = ("relu", "topk", "jumprelu")
RAW = "raw"
"""Weight processing of a model as Hugging Face has it, as `steerlens.model.identity.identity` names it."""
NEURONPEDIA = "https://www.neuronpedia.org"


class SAEError(ValueError):
    """Not a sparse autoencoder that can be read without guessing, or one of other coordinates than what it meets."""


@dataclass(frozen=True, eq=False)
class SAE:
    """A sparse autoencoder of the residual stream: `activation((h - [b_dec]) W_enc + b_enc) W_dec + b_dec`.

    None in a field about its origin means unknown; comparisons then ask who takes responsibility.

    Raises:
        SAEError: shapes that do not go together, numbers that are not finite, an unknown activation or one without what it
            needs, a k or a layer that is not a whole number in range, or a layer and a hook name that contradict each other.
    """

    W_enc: Float[Tensor, "d_model d_sae"]
    """A column per feature: what it reads."""
    W_dec: Float[Tensor, "d_sae d_model"]
    """A row per feature: what it writes; of any length."""
    b_enc: Float[Tensor, " d_sae"]
    b_dec: Float[Tensor, " d_model"]
    activation: str = "relu"
    """"relu", "topk" (the `k` largest, of those above 0) or "jumprelu" (those above 0 and above `threshold`)."""
    k: int | None = None
    threshold: Float[Tensor, " d_sae"] | None = None
    apply_b_dec_to_input: bool = False
    """Whether b_dec is subtracted before encoding."""
    model_name: str | None = None
    layer: int | None = None
    """0-based block whose output it reads and writes."""
    hook_name: str | None = None
    weight_processing: str | None = None
    """"raw", or what was done to the model's weights before it was trained."""
    normalisation: str | None = None
    """"none", or what is done to a residual before encoding, which nothing here does."""
    neuronpedia_id: str | None = None
    """Such as "gemma-2-2b/20-gemmascope-res-16k"."""
    source: str | None = None
    """Where it was read from."""

    def __post_init__(self) -> None:
        store = object.__setattr__
        for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
            tensor = getattr(self, name)
            if tensor is not None:
                store(self, name, tensor.detach().float())
        _check_tensors(self)
        _check_activation(self)
        if self.layer is not None and (not is_whole(self.layer) or self.layer < 0):
            raise SAEError(f"layer is {self.layer!r}; it must be a block's index, counted from 0")
        read = None if self.hook_name is None else layer_of(self.hook_name)
        if self.layer is not None and self.hook_name is not None and read != self.layer:
            where = "not after a block" if read is None else f"after block {read}"
            raise SAEError(f"layer {self.layer} contradicts the hook point {self.hook_name!r}, which is {where}")
        store(self, "layer", self.layer if self.hook_name is None else read)
        if self.hook_name is None and self.layer is not None:
            store(self, "hook_name", f"blocks.{self.layer}.hook_resid_post")

    @property
    def d_model(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    def encode(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_sae"]:
        """Activations of all features, float32, on the device of the weights.

        Raises:
            NotFiniteError: the residual stream, or what is read from it, holds NaN or infinite numbers.
        """
        hidden = hidden.to(self.W_enc.device, torch.float32)
        if not bool(hidden.isfinite().all()):
            raise NotFiniteError(
                "the residual stream that the SAE is to read is not finite: use a smaller factor, or load the model in "
                "bfloat16 or float32"
            )
        centred = hidden - self.b_dec if self.apply_b_dec_to_input else hidden
        before = centred @ self.W_enc + self.b_enc
        if not bool(before.isfinite().all()):
            raise NotFiniteError("activations of the SAE are not finite: its weights or the residual stream are too large")
        if self.activation == "topk":
            assert self.k is not None
            largest = before.topk(self.k, dim=-1)
            return torch.zeros_like(before).scatter(-1, largest.indices, largest.values.relu())
        acts = before.relu()
        return acts if self.threshold is None else acts * (before > self.threshold)

    def decode(self, acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_model"]:
        """The residual stream that activations stand for."""
        return acts.to(self.W_dec.device, torch.float32) @ self.W_dec + self.b_dec

    def url(self, feature: SupportsIndex) -> str | None:
        """The feature's page at Neuronpedia, or None where no page of this very autoencoder is known.

        Raises:
            SAEError: there is no such feature.
        """
        index = operator.index(feature)
        if isinstance(feature, bool) or not 0 <= index < self.d_sae:
            raise SAEError(f"feature {feature!r} does not exist: there are features 0 to {self.d_sae - 1}")
        return None if self.neuronpedia_id is None else f"{NEURONPEDIA}/{self.neuronpedia_id}/{index}"

    def __repr__(self) -> str:
        kind = self.activation if self.k is None else f"{self.activation} k={self.k}"
        origin = f"model_name={self.model_name!r}, hook_name={self.hook_name!r}, weight_processing={self.weight_processing!r}"
        origin += f", normalisation={self.normalisation!r}"
        return f"SAE({self.d_sae} features of d_model={self.d_model}, {kind}, {origin}, source={self.source!r})"

    def _repr_html_(self) -> str:
        kind = self.activation if self.k is None else f"{self.activation}, k = {self.k}"
        names = ("model_name", "hook_name", "weight_processing", "normalisation", "neuronpedia_id", "source")
        facts = {name: getattr(self, name) for name in names}
        facts = {
            name: "unknown" if value is None else value
            for name, value in facts.items()
            if value is not None or name in names[:4]
        }
        return html_facts("SAE", f"{self.d_sae} features of {self.d_model} dimensions, {kind}.", facts)


def _check_tensors(sae: SAE) -> None:
    if sae.W_dec.ndim != 2:
        raise SAEError(f"W_dec has shape {tuple(sae.W_dec.shape)}; it must be (d_sae, d_model)")
    d_sae, d_model = sae.W_dec.shape
    wanted = {"W_enc": (d_model, d_sae), "b_enc": (d_sae,), "b_dec": (d_model,), "threshold": (d_sae,)}
    for name, shape in (wanted | {"W_dec": (d_sae, d_model)}).items():
        tensor = getattr(sae, name)
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise SAEError(f"{name} has shape {tuple(tensor.shape)}; beside W_dec {(d_sae, d_model)} it must be {shape}")
        if not tensor.isfinite().all():
            raise SAEError(f"{name} holds NaN or infinite numbers")


def _check_activation(sae: SAE) -> None:
    if sae.activation not in ACTIVATIONS:
        raise SAEError(f"activation {sae.activation!r} is unknown; known: {', '.join(ACTIVATIONS)}")
    for name, value, owner in (("k", sae.k, "topk"), ("threshold", sae.threshold, "jumprelu")):
        if (value is not None) != (sae.activation == owner):
            wrong = f"needs {name}" if value is None else f"has no {name}"
            raise SAEError(f"the activation {sae.activation!r} {wrong}")
    if sae.k is not None and not is_whole(sae.k):
        raise SAEError(f"k is {sae.k!r}; it must be a whole number")
    if sae.k is not None and not 1 <= sae.k <= sae.d_sae:
        raise SAEError(f"k is {sae.k}; there are {sae.d_sae} features")


# --- coordinates --------------------------------------------------------------------------------------------------------

REASONS = {
    "model": "features of another model are other features",
    "layer": "each layer has coordinates of its own",
    "hook": "this is not the residual stream after a block",
    "weight_processing": "processed weights have other coordinates",
    "normalisation": "its features read something else than the residual stream",
}


def check_sae(sae: Any) -> None:
    """Raise TypeError for anything that is not an SAE."""
    if not isinstance(sae, SAE):
        raise TypeError(f"expected an SAE, got {type(sae).__name__}: load it with load_sae")


def check_coordinates(
    sae: SAE, origin: Mapping[str, object], whose: str, width: int, allow: object = (), ignore: tuple[str, ...] = ()
) -> None:
    """Raise SAEError unless an autoencoder speaks of the residual stream of `whose` ("the vector", "the model").

    Args:
        origin: what is known about it: model, layer, weight_processing (None = unknown).
        width: its d_model, which must be the autoencoder's.
        allow: reasons (keys of `REASONS`) for which the caller takes responsibility.
        ignore: reasons that do not matter here.
    """
    # pyright does not narrow a Literal by isinstance(..., str)
    allowed = {allow} if isinstance(allow, str) else set(allow)  # pyright: ignore[reportArgumentType]
    if unknown := allowed - set(REASONS):
        raise SAEError(f"allow={sorted(map(str, unknown))}: there are only {', '.join(REASONS)}")
    if sae.d_model != width:
        raise SAEError(f"the SAE has d_model {sae.d_model}, {whose} {width}: they are of different models")
    hook_known = sae.hook_name is None or sae.layer is not None
    pairs = {
        "model": (_base(sae.model_name), _base(origin.get("model"))),
        "layer": (sae.layer if hook_known else "n/a", origin.get("layer") if hook_known else "n/a"),
        "hook": ("residual", "residual") if hook_known else (sae.hook_name, "the residual stream after a block"),
        "weight_processing": (sae.weight_processing, origin.get("weight_processing")),
        "normalisation": (sae.normalisation, "none"),
    }
    for reason, (theirs, ours) in pairs.items():
        if reason in allowed or reason in ignore or (theirs == ours and theirs is not None):
            continue
        texts = ["unknown" if value is None else repr(value) for value in (theirs, ours)]
        argument = {"model": "model_name", "hook": "layer"}.get(reason, reason)
        remedy = f"If you know it: load_sae(..., {argument}=...). " if theirs is None else ""
        raise SAEError(
            f"{reason}: the SAE has {texts[0]}, {whose} {texts[1]}; {REASONS[reason]}. {remedy}"
            f"If you know better: allow=({reason!r},)"
        )


def _base(name: object) -> str | None:
    """A model's name without its owner."""
    return None if name is None else str(name).rstrip("/").split("/")[-1].lower()
