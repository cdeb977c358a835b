"""What one vector's training consists of: checked settings, data, parameters, the order of batches, and its record."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from . import scaling
from .data import SteeringData
from .interventions import intervention
from .likelihood import EncodedExample, encode_data, with_reference
from .model import Bridge, check_layer, check_model, d_model, device, frozen, hook_name, identity, model_name
from .objectives import REFERENCE, Objective, needs, objective_function, objective_name
from .positions import PositionFunction, canonical_positions
from .scaling import TrainConfig
from .steering import check_fits
from .vector import SteeringVector

Factor = str | int | float | Sequence[int | float]
"""How the factor is got: "joint" (trained), a number (fixed), or numbers from which each step draws one."""


class Shared(NamedTuple):
    """What all vectors trained together have in common."""

    layer: int
    positions: str | PositionFunction
    objective: Objective
    form: str
    config: TrainConfig
    factors: tuple[float, ...]
    """Factors to draw from; one = fixed; none = trained."""


@dataclass
class Run:
    """One vector in training: its data, parameters and record."""

    shared: Shared
    data: SteeringData
    examples: list[EncodedExample]
    direction: Tensor
    factor: Tensor
    provenance: dict[str, Any]
    seed: int
    first: Tensor = field(init=False)
    history: list[dict[str, int | float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = self.direction.detach().clone()
        rows_per_step = self.shared.config.batch_size * self.shared.config.accumulate
        self.steps_per_epoch = math.ceil(len(self.examples) / rows_per_step)
        self.n_steps = self.steps_per_epoch * self.shared.config.epochs

    def batches(self) -> Iterator[list[EncodedExample]]:
        """The examples of each step, in a new order each epoch if shuffled."""
        config, order = self.shared.config, generator_for(self.seed, "order")
        size = config.batch_size * config.accumulate
        for _ in range(config.epochs):
            n = len(self.examples)
            places = torch.randperm(n, generator=order).tolist() if config.shuffle else list(range(n))
            for start in range(0, n, size):
                yield [self.examples[place] for place in places[start : start + size]]

    def record(self, step: int, loss: float, before: tuple[Tensor, float], grad_norm: float) -> dict[str, int | float]:
        """Append the history's row of a step that has just been taken."""
        direction, factor = self.direction.detach(), float(self.factor.detach())
        change, factor_change = direction - before[0], factor - before[1]
        spread = math.sqrt(direction.numel())
        decay = scaling.learning_rate_scale(step, self.n_steps)
        config = self.shared.config
        row = {
            "step": step,
            "epoch": step // self.steps_per_epoch,
            "loss": loss,
            "factor": factor,
            "direction_norm": float(direction.norm()),
            "vector_norm": abs(factor) * float(direction.norm()),
            "direction_grad_norm": grad_norm,
            "factor_grad": 0.0 if self.factor.grad is None else float(self.factor.grad),
            "delta1": abs(factor_change) * float(before[0].norm()) / spread,
            "delta2": abs(before[1]) * float(change.norm()) / spread,
            "delta3": abs(factor_change) * float(change.norm()) / spread,
            "cos_init": _cosine(direction, self.first),
            "cos_prev": _cosine(direction, before[0]),
            "factor_lr": 0.0 if self.shared.factors else config.factor_lr * decay,
            "direction_lr": config.direction_lr * decay,
        }
        self.history.append(row)
        return row

    def finish(self) -> SteeringVector:
        """The trained vector."""
        shared = self.shared
        factor = sum(shared.factors) / len(shared.factors) if shared.factors else float(self.factor.detach())
        return SteeringVector(
            self.direction.detach(),
            factor,
            shared.layer,
            shared.positions,
            shared.form,
            self.data.concept,
            self.provenance["model_name"],
            self.provenance,
            pd.DataFrame(self.history).astype({"step": int, "epoch": int}),
        )


def prepare(
    model: Bridge,
    datasets: Mapping[str, SteeringData],
    *,
    layer: int,
    positions: str | PositionFunction,
    objective: str | Objective,
    form: str,
    factor: Factor,
    rank: int,
    config: TrainConfig | None,
    init: SteeringVector | None,
    seed: int,
) -> dict[str, Run]:
    """Check everything that can be checked before work starts, and set up one run per data set.

    Raises:
        ValueError, DataError: settings or data that cannot be used.
    """
    check_model(model)
    check_layer(model, layer)
    intervention(form)
    if rank != 1:
        raise ValueError(f"rank {rank!r}: a steering vector of form {form!r} has rank 1")
    if torch.is_inference_mode_enabled():
        raise ValueError("training needs gradients, which torch.inference_mode switches off: leave it first")
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}")
    positions = canonical_positions(positions)
    function = objective_function(objective)
    needed = needs(function)
    factors = _read_factors(factor)
    if init is not None:
        check_fits(model, init)
    config, source = published_settings(model, positions, objective) if config is None else (config, "given by the caller")
    shared = Shared(layer, positions, function, form, config, factors)
    common = identity(model) | {
        "hook_point": hook_name(layer),
        "layer": layer,
        "positions": positions if isinstance(positions, str) else "function",
        "form": form,
        "objective": objective_name(objective),
        "factor": factor if isinstance(factor, (str, int, float)) else list(factors),
        "config": asdict(config),
        "config_source": source,
        "init": None if init is None else "given vector",
        "seed": seed,
        "versions": _versions(),
    }
    runs = {}
    for name, data in datasets.items():
        examples = encode_data(model, data, config.max_response_tokens, config.append_eos, neutral=bool(needed))
        if REFERENCE in needed:
            with frozen(model):
                examples = with_reference(model, examples, config.batch_size)
        provenance = common | {"data_hash": data.hash, "n_examples": len(data)}
        direction, start = _initial(shared, init, d_model(model), seed)
        direction = direction.to(device(model)).requires_grad_()
        alpha = torch.tensor(start, device=device(model), requires_grad=not factors)
        runs[name] = Run(shared, data, examples, direction, alpha, provenance, seed)
    return runs


def _initial(shared: Shared, init: SteeringVector | None, width: int, seed: int) -> tuple[Tensor, float]:
    """alpha_0 and v_0 (Algorithm 1, line 1)."""
    if init is not None:
        return init.direction.clone(), shared.factors[0] if shared.factors else init.factor
    direction = scaling.initial_direction(shared.config, width, generator_for(seed, "direction"))
    return direction, shared.factors[0] if shared.factors else scaling.initial_factor(shared.config, width)


def _read_factors(factor: Factor) -> tuple[float, ...]:
    """The factors to draw from; none if the factor is trained."""
    if isinstance(factor, str):
        if factor != "joint":
            raise ValueError(f'factor {factor!r} is unknown; use "joint", a number, or a sequence of numbers')
        return ()
    listed = tuple(map(float, factor)) if isinstance(factor, Sequence) else (float(factor),)
    if not listed or not all(map(math.isfinite, listed)):
        raise ValueError(f"the factors {listed} must be at least one finite number")
    return listed


def published_settings(model: Bridge, positions: str | PositionFunction, objective: str | Objective) -> tuple[TrainConfig, str]:
    """The published settings at this model's width, and a sentence on where they come from."""
    place = positions if isinstance(positions, str) else "p2+s2"
    row = scaling.published_row(model_name(model), place, objective_name(objective))
    width = d_model(model)
    source = (
        f"published for {row.model_name}, {row.positions}, {row.objective} (Bao et al. 2026, Table 11), "
        f"learning rates transferred from width {row.d_model} to {width}"
    )
    return scaling.transfer(row.config, row.d_model, width), source


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """A generator of its own for each purpose, so that methods which draw more do not shift the others."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def _versions() -> dict[str, str]:
    found = {}
    for package in ("steerlens", "torch", "transformer-lens", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that was not installed
            found[package] = "unknown"
    return found
