"""The steering vector: an immutable value with an algebra and a one-file format.

`vector = factor * direction` (alpha * v in Bao et al. 2026) is added to, or clamped in, the residual stream after block
`layer`, at the tokens named by `positions`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from .files import write_atomically
from .interventions import DIRECTED, REFT, Weights, intervention
from .positions import canonical_positions
from .result import html_facts
from .vector_file import FIELDS, check_history, content_of, kept_values, packed, unpacked
from .vector_file import ReadOnly as ReadOnly
from .vector_file import VectorFileError as VectorFileError

if TYPE_CHECKING:
    import plotly.graph_objects as go

_TENSORS = ("direction", "read", "bias")
_HISTORY_ATTRS = ("config_source", "objective")
"""What a history says of itself, in `attrs`, from the provenance."""
ORTHONORMAL = 1e-4
"""How far U^T U of a LoReFT may be from the identity."""


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector:
    """A direction, its factor, and where they act.

    The forms "loreft" and "direft" have a rank: `direction` holds their output directions as rows, `read` and `bias` what is
    written along them, and `factor` multiplies the whole edit.

    Two vectors are equal when they do the same: the same form, layer, positions and model name, and the same `vector` (form
    "add") or direction and factor (other forms, which look at both). `2 * v`, `-v`, `v / 2`, `a + b` and `a - b` work on
    `vector`; sums need the same layer, positions, form "add" and model.

    Raises:
        ValueError: a direction that is empty, of the wrong shape or not finite; a factor that is not finite; a layer
            below 0; unknown positions or form; a clamp without direction; a LoReFT whose rows are not orthonormal; a concept,
            a provenance or a history that no file could hold.
    """

    direction: Float[Tensor, " d_model"] | Float[Tensor, "rank d_model"]
    """v, stored as float32 on the CPU: a copy of what is given, of which reading gives a copy too.
    loreft: U^T, orthonormal rows; direft: V^T."""
    factor: int | float
    """alpha."""
    layer: int
    """0-based block whose output is edited: `blocks.{layer}.hook_resid_post` (HF's hidden_states[layer + 1])."""
    positions: str | Callable[[Tensor], Tensor] = "p2+s2"
    form: str = "add"
    concept: str | None = None
    model_name: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, as JSON values: revision, dtype, weight_processing, d_model, hook_point, template_hash,
    data_hash, objective, config, seed, versions, ... Empty for a vector built by hand."""
    history: pd.DataFrame | None = None
    """One row per training step; see `steerlens.train`. A copy of what is given, whose `attrs` say where the settings are from
    ("config_source") and what the loss is ("objective")."""
    read: Float[Tensor, "rank d_model"] | None = None
    """W^T of loreft and direft: what is read from the residual stream."""
    bias: Float[Tensor, " rank"] | None = None
    """b of loreft and direft."""

    def __post_init__(self) -> None:
        intervention(self.form)
        direction, read, bias = (_own_copy(name, getattr(self, name)) for name in _TENSORS)
        if direction is None:
            raise ValueError("the direction is None; it must be one row of d_model numbers")
        _check_shapes(self.form, direction, read, bias)
        _check_kept(self)
        if isinstance(self.factor, bool) or not _finite(self.factor):
            raise ValueError(f"the factor is {self.factor!r}; it must be finite")
        if not (self.factor * direction).norm().isfinite():
            raise ValueError(f"factor {self.factor:.4g} times the direction has no finite norm in float32")
        if isinstance(self.layer, bool) or not _finite(self.layer) or int(self.layer) != self.layer or self.layer < 0:
            raise ValueError(f"the layer is {self.layer!r}; it must be a block's index, counted from 0")
        if self.form in DIRECTED and not direction.any():
            raise ValueError(f"the form {self.form!r} needs a direction that is not zero")
        store = object.__setattr__
        store(self, "direction", direction)
        store(self, "read", read)
        store(self, "bias", bias)
        store(self, "factor", float(self.factor))
        store(self, "layer", int(self.layer))
        store(self, "positions", canonical_positions(self.positions))
        store(self, "provenance", kept_values(self.provenance, "the provenance"))
        if self.history is not None:
            history = self.history.copy()
            history.attrs |= {name: self.provenance[name] for name in _HISTORY_ATTRS if name in self.provenance}
            store(self, "history", history)

    @property
    def vector(self) -> Float[Tensor, " d_model"]:
        """`factor * direction`; of a ReFT form the constant part of its edit, `factor * U b`."""
        return self.factor * (self.direction if self.bias is None else self.bias @ self.direction)

    @property
    def norm(self) -> float:
        """Euclidean norm of `vector`, in the units of the residual stream."""
        return float(self.vector.norm())

    @property
    def d_model(self) -> int:
        return self.direction.shape[-1]

    @property
    def rank(self) -> int:
        """Number of output directions: 1, or the rank of a ReFT form."""
        return self.direction.shape[0] if self.direction.ndim == 2 else 1

    @property
    def weights(self) -> Weights:
        """The tensors that the form computes with."""
        return Weights(self.direction.view(self.rank, self.d_model), torch.tensor(self.factor), self.read, self.bias)

    def scaled(self, scale: int | float) -> "SteeringVector":
        """The same direction with `scale` times the factor."""
        return replace(self, factor=self.factor * scale)

    def replace(self, **changes: Any) -> "SteeringVector":
        """A copy with some fields changed, such as `sv.replace(positions="all")`."""
        return replace(self, **changes)

    def steer(
        self, model: Any, *, scale: int | float = 1.0, prompt_lengths: Sequence[int] | None = None
    ) -> AbstractContextManager[None]:
        """`steerlens.steer(model, self, scale=scale, prompt_lengths=prompt_lengths)`."""
        from .steering.hooks import steer  # the one import against the flow: a method of convenience

        return steer(model, self, scale=scale, prompt_lengths=prompt_lengths)

    def summary(self) -> str:
        """A sentence: where it acts, how large it is, and how it was made."""
        name = "A vector" if self.concept is None else f"{self.concept!r}, a vector"
        model = "" if self.model_name is None else f" of {self.model_name}"
        acts = f"of form {self.form!r} at {self._positions_text()} after block {self.layer}{model}"
        parts = [f"{name} {acts}: factor {self.factor:.4g}, norm {self.norm:.4g}"]
        if made := _how_made(self.provenance):
            parts.append(made)
        if (loss := self._last_loss()) is not None:
            parts.append(f"loss {loss:.4g} in the last epoch")
        return f"{'; '.join(parts)}."

    def to_frame(self) -> pd.DataFrame:
        """The history, one row per step of training; an empty frame if there is none."""
        return pd.DataFrame() if self.history is None else self.history.copy()

    def plot(self) -> "go.Figure":
        """Loss, factor, norm and turning of the direction, step by step.

        Raises:
            ValueError: the vector has no history.
        """
        if self.history is None:
            raise ValueError("the vector has no history to plot: only `train`, `train_layers` and `train_many` keep one")
        from .figures import plot_history

        subject = "vector" if self.concept is None else f"vector of {escape(repr(self.concept), quote=False)}"
        return plot_history(self.history, f"How the {subject} was trained")

    def _repr_html_(self) -> str:
        source, _, changed = str(self.provenance.get("config_source", "")).partition(", changed: ")
        facts: dict[str, object] = {
            "concept": self.concept,
            "model": self.model_name,
            "layer": self.layer,
            "hook point": self.provenance.get("hook_point", f"blocks.{self.layer}.hook_resid_post"),
            "positions": self._positions_text(),
            "form": self.form,
            "rank": self.rank if self.form in REFT else None,
            "factor": self.factor,
            "norm": self.norm,
            "d_model": self.d_model,
            "made by": self.provenance.get("made_by"),
            "method": self.provenance.get("method"),
            "objective": self.provenance.get("objective"),
            "data": _data_text(self.provenance),
            "config source": source or None,
            "changed from it": changed or None,
            "seed": self.provenance.get("seed"),
            "loss, mean of the last epoch": self._last_loss(),
        }
        known = {name: value for name, value in facts.items() if value is not None}
        return html_facts("SteeringVector", self.summary(), known)

    def _positions_text(self) -> str:
        return self.positions if isinstance(self.positions, str) else "positions of a function"

    def _last_loss(self) -> float | None:
        """Mean over the batches of the last epoch."""
        if self.history is None or not {"epoch", "loss"} <= set(self.history) or self.history.empty:
            return None
        last = self.history["epoch"] == self.history["epoch"].max()
        return float(self.history.loc[last, "loss"].mean())

    def __mul__(self, scale: int | float) -> "SteeringVector":
        return self.scaled(scale) if isinstance(scale, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, scale: int | float) -> "SteeringVector":
        return self.scaled(1 / scale) if isinstance(scale, (int, float)) else NotImplemented

    def __neg__(self) -> "SteeringVector":
        return self.scaled(-1.0)

    def __add__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combine(other, 1.0)

    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combine(other, -1.0)

    def __repr__(self) -> str:
        numbers = f"factor={self.factor:.4g}, norm={self.norm:.4g}, d_model={self.d_model}"
        rank = f", rank={self.rank}" if self.form in REFT else ""
        acts = f"layer={self.layer}, positions={self.positions!r}, form={self.form!r}{rank}"
        return f"SteeringVector({self.concept!r}, {numbers}, {acts}, model_name={self.model_name!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        if self._acts_at() != other._acts_at():
            return False
        return all(torch.equal(mine, theirs) for mine, theirs in zip(self._acting(), other._acting(), strict=True))

    def __hash__(self) -> int:
        return hash((*self._acts_at(), *(tuple(tensor.flatten().tolist()) for tensor in self._acting())))

    def save(self, path: str | Path) -> Path:
        """Write one `.safetensors` file, atomically: tensors, everything about them as JSON, and a checksum of both.

        Raises:
            ValueError: the positions are a function, which no file can hold, or the name does not end in .safetensors.
        """
        target = Path(path)
        if target.suffix != ".safetensors":
            raise ValueError(f"{target.name}: name the file *.safetensors")
        if callable(self.positions):
            raise ValueError("positions are a function, which a file cannot hold; replace(positions=...) with text first")
        tensors = {name: tensor for name in _TENSORS if (tensor := getattr(self, name)) is not None}
        fields = {name: getattr(self, name) for name in FIELDS}
        write_atomically(target, packed(fields, dict(self.provenance), self.history, tensors))
        return target

    @staticmethod
    def load(path: str | Path) -> "SteeringVector":
        """Read a file written by `save`. Nothing is unpickled.

        Raises:
            FileNotFoundError: there is no such file.
            TypeError: something else than a path.
            VectorFileError: the file is damaged, truncated, not a steerlens vector, or of a later schema; it is not a file.
        """
        if not isinstance(path, (str, Path)):
            raise TypeError(f"the path is {path!r:.60}; it must be that of a vector's file")
        try:
            return SteeringVector(**unpacked(content_of(Path(path))))
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError):
            raise
        except VectorFileError as error:
            raise VectorFileError(f"{path}: {error}") from error.__cause__
        except Exception as error:  # whatever a mutated file provokes in a parser is one kind of error to the caller
            raise VectorFileError(f"{path}: not an intact steerlens vector ({type(error).__name__}: {error})") from error

    def _acts_at(self) -> tuple[Any, ...]:
        return (self.form, self.rank, self.layer, self.positions, self.model_name)

    def _acting(self) -> list[Tensor]:
        """The tensors that decide what the edit does."""
        if self.form == "add":
            return [self.vector]
        return [tensor for tensor in self.weights if tensor is not None]

    def _combine(self, other: "SteeringVector", sign: float) -> "SteeringVector":
        if not isinstance(other, SteeringVector):
            return NotImplemented
        for name in ("form", "layer", "positions", "model_name", "d_model"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"cannot add vectors of different {name}: {mine!r} and {theirs!r}")
        if self.form != "add":
            raise ValueError(f"vectors of form {self.form!r} have no sum; apply them together: steer(model, [a, b])")
        concepts = dict.fromkeys(concept for concept in (self.concept, other.concept) if concept)
        joined = (" + " if sign > 0 else " - ").join(concepts) or None
        return SteeringVector(
            self.vector + sign * other.vector, 1.0, self.layer, self.positions, self.form, joined, self.model_name
        )


def _how_made(provenance: Mapping[str, Any]) -> str:
    """How a vector was made, as far as its provenance says; empty if it says nothing."""
    data = _data_text(provenance)
    source = "" if data is None else f" on {data}"
    if "objective" in provenance:
        return f"trained with {provenance['objective']!r}{source}"
    if "method" in provenance:
        return f"made by {provenance['method']!r}{source}"
    return ""


def _data_text(provenance: Mapping[str, Any]) -> str | None:
    """How many examples it was made from, if any."""
    if "n_examples" in provenance:
        return f"{provenance['n_examples']} examples"
    if "n_positive" in provenance:
        return f"{provenance['n_positive']} texts with the concept and {provenance['n_negative']} without"
    return None


class _Copied:
    """A field that holds a tensor and gives copies of it, so that nothing done to one in place changes the vector."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, sv: SteeringVector | None, kind: type) -> Tensor | None:
        tensor = None if sv is None else sv.__dict__[self._name]
        return tensor.clone() if isinstance(tensor, Tensor) else tensor

    def __set__(self, sv: SteeringVector, tensor: Any) -> None:  # by the constructor alone: the dataclass is frozen
        sv.__dict__[self._name] = tensor


for _name in _TENSORS:
    setattr(SteeringVector, _name, _Copied(_name))


def _own_copy(name: str, tensor: Any) -> Tensor | None:
    if tensor is None:
        return None
    try:
        given = torch.as_tensor(tensor)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the {name} is of type {type(tensor).__name__}; it must be a tensor of real numbers") from error
    if given.layout != torch.strided or given.is_meta or given.is_quantized or given.is_nested:
        kind = "meta" if given.is_meta else str(given.layout if given.layout != torch.strided else given.dtype)
        raise ValueError(f"the {name} is a tensor of another kind ({kind}): give a dense one with numbers")
    if given.is_complex() or given.dtype == torch.bool:
        raise ValueError(f"the {name} holds {given.dtype} entries; it must hold real numbers")
    return given.detach().to("cpu", torch.float32).clone()


def _finite(number: Any) -> bool:
    """Whether it is a number, and finite."""
    try:
        return not isinstance(number, str) and math.isfinite(number)
    except (TypeError, OverflowError, ValueError, RuntimeError):
        return False


def _check_kept(sv: SteeringVector) -> None:
    """Raise ValueError for what could not be saved and loaded again."""
    for name in ("concept", "model_name"):
        value = getattr(sv, name)
        if not isinstance(value, str | None):
            raise ValueError(f"the {name} is {value!r:.80}; it must be text or None")
    if not isinstance(sv.provenance, Mapping):
        raise ValueError(f"the provenance is of type {type(sv.provenance).__name__}; it must hold JSON values by name")
    try:
        json.dumps(kept_values(sv.provenance, "the provenance"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the provenance must hold JSON values by name: {error}") from error
    if sv.history is None:
        return
    if not isinstance(sv.history, pd.DataFrame):
        raise ValueError(f"the history is of type {type(sv.history).__name__}; it must be a DataFrame")
    check_history(sv.history)


def _check_shapes(form: str, direction: Tensor, read: Tensor | None, bias: Tensor | None) -> None:
    """Raise ValueError unless the tensors are those of the form, finite, and of shapes that go together."""
    shape = tuple(direction.shape)
    if form not in REFT:
        if direction.ndim != 1 or direction.numel() == 0:
            raise ValueError(f"the direction has shape {shape}; it must be one row of d_model numbers")
        if read is not None or bias is not None:
            raise ValueError(f"read and bias belong to {' and '.join(sorted(REFT))}, not to the form {form!r}")
    elif read is None or bias is None:
        raise ValueError(f"the form {form!r} needs read (rank, d_model) and bias (rank,) beside its direction")
    elif direction.ndim != 2 or direction.numel() == 0 or read.shape != shape or tuple(bias.shape) != shape[:1]:
        raise ValueError(
            f"the form {form!r} needs direction and read of shape (rank, d_model) and bias of shape (rank,), got {shape}, "
            f"{tuple(read.shape)}, {tuple(bias.shape)}"
        )
    for name, tensor in (("direction", direction), ("read", read), ("bias", bias)):
        if tensor is not None and not tensor.isfinite().all():
            raise ValueError(f"the {name} holds NaN or infinite entries")
    if form == "loreft" and float((direction @ direction.T - torch.eye(len(direction))).abs().max()) > ORTHONORMAL:
        raise ValueError(
            "the rows of a LoReFT's direction must be orthonormal; steerlens.interventions.orthonormal makes them so"
        )
