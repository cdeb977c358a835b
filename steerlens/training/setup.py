"""What one training run consists of: checked settings, data, the order of batches, and the vectors at its layers."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch

from ..data import SteeringData
from ..interventions import REFT, intervention
from ..model.batches import EncodedExample, collate, encode_data
from ..model.bridge import Bridge, check_layer, check_model, d_model, device, model_name
from ..model.frozen import frozen
from ..model.identity import identity
from ..positions import PositionFunction, canonical_positions
from ..reproducibility import generator_for, software_versions
from ..steering.hooks import check_fits
from ..vector import SteeringVector
from . import scaling
from .logprobs import with_reference
from .objectives import NULL, REFERENCE, Objective, needs, objective_function, objective_name
from .parameters import Moment, Row, Site, new_site
from .scaling import TrainConfig
from .settings import Factor, Settings

Init = SteeringVector | Sequence[SteeringVector] | Mapping[int, SteeringVector] | None
"""Where training starts: one vector per layer, in the order of the layers or by layer, or nowhere in particular."""


class Shared(NamedTuple):
    """What all vectors trained together have in common."""

    layers: tuple[int, ...]
    positions: str | PositionFunction
    objective: Objective
    form: str
    config: TrainConfig
    factors: tuple[float, ...]
    """Factors to draw from; one = fixed; none = trained."""


@dataclass
class Run:
    """One data set in training, with a vector at each layer."""

    shared: Shared
    data: SteeringData
    examples: list[EncodedExample]
    sites: list[Site]
    provenance: dict[str, Any]
    seed: int

    def __post_init__(self) -> None:
        rows_per_step = self.shared.config.batch_size * self.shared.config.accumulate
        self.steps_per_epoch = math.ceil(len(self.examples) / rows_per_step)
        self.n_steps = self.steps_per_epoch * self.shared.config.epochs

    def batches(self) -> Iterator[list[EncodedExample]]:
        """The examples of each step, in a new order each epoch if shuffled."""
        config, order = self.shared.config, generator_for(self.seed, "order")
        size = config.batch_size * config.accumulate
        for _ in range(config.epochs):
            n = len(self.examples)
            indices = torch.randperm(n, generator=order).tolist() if config.shuffle else list(range(n))
            for start in range(0, n, size):
                yield [self.examples[index] for index in indices[start : start + size]]

    def record(self, step: int, loss: float, before: Sequence[Moment], grad_norms: Sequence[float]) -> list[Row]:
        """Append the history's row of a step that has just been taken, at each layer."""
        common = {"step": step, "epoch": step // self.steps_per_epoch, "loss": loss}
        decay = scaling.learning_rate_scale(step, self.n_steps)
        given = bool(self.shared.factors) and self.shared.form not in REFT
        for site, old, norm in zip(self.sites, before, grad_norms, strict=True):
            factor_lr, direction_lr = 0.0 if given else site.factor_lr, site.config.direction_lr
            rates = {"factor_lr": factor_lr * decay, "direction_lr": direction_lr * decay}
            site.history.append(common | site.measure(old, norm) | rates)
        return [site.history[-1] for site in self.sites]

    def finish(self) -> list[SteeringVector]:
        """The trained vectors, one per layer."""
        factors = self.shared.factors
        mean = sum(factors) / len(factors) if factors else None
        return [site.finish(self.shared.positions, self.data.concept, self.provenance, mean) for site in self.sites]


def prepare(
    model: Bridge,
    datasets: Mapping[str, SteeringData],
    layers: Sequence[int],
    *,
    init: Init = None,
    settings: Settings,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Run]:
    """Check everything that can be checked before work starts, and set up one run per data set.

    Args:
        changes: fields that replace those of `settings.config`, or of the published settings.

    Raises:
        ValueError, DataError: settings or data that cannot be used.
    """
    check_model(model)
    shared, source = _read_settings(model, read_layers(model, layers), settings, changes or {})
    needed = needs(shared.objective)
    starts = _read_init(model, init, shared.layers, settings.form, settings.rank)
    common = identity(model) | _description(shared, settings, source, init is not None)
    runs = {}
    for name, data in datasets.items():
        provenance = common | {"data_hash": data.hash, "n_examples": len(data)}
        examples = _encode(model, data, shared, needed)
        sites = [
            new_site(
                layer,
                settings.form,
                settings.rank,
                shared.config,
                shared.factors,
                start,
                d_model(model),
                device(model),
                site_seed(settings.seed, index),
            )
            for index, (layer, start) in enumerate(zip(shared.layers, starts, strict=True))
        ]
        runs[name] = Run(shared, data, examples, sites, provenance, settings.seed)
    return runs


def _read_settings(
    model: Bridge, layers: tuple[int, ...], settings: Settings, changes: Mapping[str, Any]
) -> tuple[Shared, str]:
    """The settings, checked, and where those of the optimiser come from."""
    if torch.is_inference_mode_enabled():
        raise ValueError("training needs gradients, which torch.inference_mode switches off: leave it first")
    if settings.config is not None and not isinstance(settings.config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(settings.config).__name__}")
    if not isinstance(settings.seed, int):
        raise ValueError(f"the seed is {settings.seed!r}; it must be a whole number")
    positions = canonical_positions(settings.positions)
    objective = objective_function(settings.objective)
    check_form(settings.form, settings.rank, needs(objective), d_model(model))
    factors = read_factors(settings.factor)
    config, source = read_config(model, positions, settings.objective, settings.config, changes)
    if config.null_factor_init is not None and NULL not in needs(objective) and settings.form != "null":
        name = objective_name(settings.objective)
        raise ValueError(f"null_factor_init is set, but the objective {name!r} has no Null intervention")
    return Shared(layers, positions, objective, settings.form, config, factors), source


def _encode(model: Bridge, data: SteeringData, shared: Shared, needed: frozenset[str]) -> list[EncodedExample]:
    """Token ids, and what the unsteered model says of them where the objective compares with it."""
    config = shared.config
    examples = encode_data(model, data, config.max_response_tokens, config.append_eos, neutral=bool(needed))
    if callable(shared.positions) and not bool(collate(model, examples).edited(shared.positions).any()):
        raise ValueError("the positions function selects no token of these examples: nothing would be trained")
    if REFERENCE not in needed:
        return examples
    with frozen(model):
        return with_reference(model, examples, config.batch_size)


def _description(shared: Shared, settings: Settings, source: str, from_vector: bool) -> dict[str, Any]:
    """How the vectors are trained, as JSON values."""
    given = isinstance(settings.factor, (str, int, float))
    return {
        "positions": shared.positions if isinstance(shared.positions, str) else "function",
        "form": shared.form,
        "rank": settings.rank,
        "objective": objective_name(settings.objective),
        "factor": settings.factor if given else list(shared.factors),
        "layers_trained_together": list(shared.layers),
        "config": asdict(shared.config),
        "config_source": source,
        "init": "given vector" if from_vector else None,
        "seed": settings.seed,
        "versions": software_versions(),
    }


def site_seed(seed: int, index: int) -> int:
    """The seed of the initial direction at the n-th layer: the run's own at the first, so that one layer is as alone."""
    return seed if index == 0 else int(torch.randint(2**62, (), generator=generator_for(seed, f"layer {index}")))


def read_layers(model: Bridge, layers: Sequence[int]) -> tuple[int, ...]:
    """The layers as a tuple; raises ValueError if there is none, one twice, or one that the model does not have."""
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise ValueError(f"layers is {layers!r}: give a list of blocks, such as [8, 10]")
    for layer in layers:
        check_layer(model, layer)
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"the layers {list(layers)} must be at least one, each once")
    return tuple(layers)


def check_form(form: str, rank: int, needed: frozenset[str], width: int) -> None:
    intervention(form)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank {rank!r}: it must be a whole number of at least 1")
    if rank > width:
        raise ValueError(f"rank {rank}: the residual stream has {width} dimensions")
    if form not in REFT and rank != 1:
        raise ValueError(
            f"rank {rank!r}: a steering vector of form {form!r} has rank 1; {' and '.join(sorted(REFT))} have others"
        )
    if form == "null" and NULL in needed:
        raise ValueError('the form "null" is itself the Null intervention: this objective is for the forms "add" and "clamp"')
    if form in REFT and NULL in needed:
        raise ValueError(f'the form {form!r} has no Null intervention, which this objective needs: use objective="simpo"')


def _read_init(model: Bridge, init: Init, layers: Sequence[int], form: str, rank: int) -> list[SteeringVector | None]:
    """The vector to start from at each layer, or None."""
    if init is None:
        return [None] * len(layers)
    if isinstance(init, Mapping):
        if missing := [layer for layer in layers if layer not in init]:
            raise ValueError(f"init has vectors for the layers {list(init)}, and none for {missing}")
        vectors = [init[layer] for layer in layers]
    else:
        vectors = [init] if isinstance(init, SteeringVector) else list(init)
    if len(vectors) != len(layers):
        raise ValueError(f"init has {len(vectors)} vectors for {len(layers)} layers")
    for vector in vectors:
        check_fits(model, vector)
        if (form in REFT or vector.form in REFT) and (vector.form, vector.rank) != (form, rank):
            raise ValueError(f"init has form {vector.form!r} and rank {vector.rank}; form {form!r} of rank {rank} is trained")
    return list(vectors)


def read_factors(factor: Factor) -> tuple[float, ...]:
    """The factors to draw from; none if the factor is trained."""
    unknown = f'factor {factor!r} is unknown; use "joint", a number, or a sequence of numbers'
    if isinstance(factor, str) and factor == "joint":
        return ()
    if isinstance(factor, (str, bool)):
        raise ValueError(unknown)
    try:
        listed = tuple(map(float, factor)) if isinstance(factor, Iterable) else (float(factor),)
    except (TypeError, ValueError) as error:
        raise ValueError(unknown) from error
    if not listed or not all(map(math.isfinite, listed)):
        raise ValueError(f"the factors {listed} must be at least one finite number")
    return listed


def read_config(
    model: Bridge,
    positions: str | PositionFunction,
    objective: str | Objective,
    config: TrainConfig | None,
    changes: Mapping[str, Any],
) -> tuple[TrainConfig, str]:
    """The config, or the published one if it is None, with some fields replaced, and a sentence on where it comes from."""
    if config is None:
        base, source = published_settings(model, positions, objective)
    else:
        base, source = config, "given by the caller"
    if not changes:
        return base, source
    return replace(base, **changes), f"{source}, changed: {', '.join(changes)}"


def published_settings(model: Bridge, positions: str | PositionFunction, objective: str | Objective) -> tuple[TrainConfig, str]:
    """The published settings at this model's width, and a sentence on where they come from."""
    wanted = {
        "model": model_name(model).split("/")[-1],
        "positions": positions if isinstance(positions, str) else "function",
        "objective": objective_name(objective),
    }
    known_positions = positions if isinstance(positions, str) else "p2+s2"
    row, width = scaling.published_row(model_name(model), known_positions, wanted["objective"]), d_model(model)
    found = {"model": row.model_name, "positions": row.positions, "objective": row.objective}
    missing = [f"{name} {value}" for name, value in wanted.items() if value != found[name]]
    why = f"; the table has no row for {', '.join(missing)}: the nearest was taken" if missing else ""
    source = (
        f"published for {row.model_name}, {row.positions}, {row.objective} (Bao et al. 2026, Table 11), "
        f"learning rates transferred from width {row.d_model} to {width}{why}"
    )
    return scaling.transfer(row.config, row.d_model, width), source
