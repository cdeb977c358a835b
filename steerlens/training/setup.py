"""What one training run consists of: checked settings, data, the order of batches, and the vectors at its layers."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from ..data import SteeringData
from ..interventions import REFT, intervention
from ..model.batches import EncodedExample, encode_data
from ..model.bridge import Bridge, check_layer, check_model, d_model, device, model_name
from ..model.forward import frozen
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

Factor = str | int | float | Sequence[int | float]
"""How the factor is got: "joint" (trained), a number (fixed), or numbers from which each step draws one."""


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
            places = torch.randperm(n, generator=order).tolist() if config.shuffle else list(range(n))
            for start in range(0, n, size):
                yield [self.examples[place] for place in places[start : start + size]]

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
    *,
    layer: int | Sequence[int],
    positions: str | PositionFunction,
    objective: str | Objective,
    form: str,
    factor: Factor,
    rank: int,
    config: TrainConfig | None,
    init: SteeringVector | Sequence[SteeringVector] | None,
    seed: int,
) -> dict[str, Run]:
    """Check everything that can be checked before work starts, and set up one run per data set.

    Raises:
        ValueError, DataError: settings or data that cannot be used.
    """
    check_model(model)
    layers = read_layers(model, layer)
    if torch.is_inference_mode_enabled():
        raise ValueError("training needs gradients, which torch.inference_mode switches off: leave it first")
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}")
    if not isinstance(seed, int):
        raise ValueError(f"the seed is {seed!r}; it must be a whole number")
    positions = canonical_positions(positions)
    function = objective_function(objective)
    needed = needs(function)
    check_form(form, rank, needed, d_model(model))
    factors = read_factors(factor)
    starts = _read_init(model, init, layers, form, rank)
    if config is not None and config.null_factor_init is not None and NULL not in needed and form != "null":
        raise ValueError(f"null_factor_init is set, but the objective {objective_name(objective)!r} has no Null intervention")
    config, source = published_settings(model, positions, objective) if config is None else (config, "given by the caller")
    shared = Shared(layers, positions, function, form, config, factors)
    common = identity(model) | _description(shared, objective, factor, rank, source, init is not None, seed)
    runs = {}
    for name, data in datasets.items():
        examples = encode_data(model, data, config.max_response_tokens, config.append_eos, neutral=bool(needed))
        if REFERENCE in needed:
            with frozen(model):
                examples = with_reference(model, examples, config.batch_size)
        provenance = common | {"data_hash": data.hash, "n_examples": len(data)}
        sites = [
            new_site(at, form, rank, config, factors, start, d_model(model), device(model), site_seed(seed, place))
            for place, (at, start) in enumerate(zip(layers, starts, strict=True))
        ]
        runs[name] = Run(shared, data, examples, sites, provenance, seed)
    return runs


def _description(
    shared: Shared, objective: str | Objective, factor: Factor, rank: int, source: str, from_vector: bool, seed: int
) -> dict[str, Any]:
    """How the vectors are trained, as JSON values."""
    return {
        "positions": shared.positions if isinstance(shared.positions, str) else "function",
        "form": shared.form,
        "rank": rank,
        "objective": objective_name(objective),
        "factor": factor if isinstance(factor, (str, int, float)) else list(shared.factors),
        "layers_trained_together": list(shared.layers),
        "config": asdict(shared.config),
        "config_source": source,
        "init": "given vector" if from_vector else None,
        "seed": seed,
        "versions": software_versions(),
    }


def site_seed(seed: int, place: int) -> int:
    """The seed of the initial direction at the n-th layer: the run's own at the first, so that one layer is as alone."""
    return seed if place == 0 else int(torch.randint(2**62, (), generator=generator_for(seed, f"layer {place}")))


def read_layers(model: Bridge, layer: int | Sequence[int]) -> tuple[int, ...]:
    """The layers as a tuple; raises ValueError if there is none, one twice, or one that the model does not have."""
    if not isinstance(layer, (int, Sequence)):
        raise ValueError(f"layer {layer!r}: give a block's index, or a list of them")
    layers = tuple(layer) if isinstance(layer, Sequence) else (layer,)
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"the layers {list(layers)} must be at least one, each once")
    for one in layers:
        check_layer(model, one)
    return layers


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


def _read_init(
    model: Bridge, init: SteeringVector | Sequence[SteeringVector] | None, layers: Sequence[int], form: str, rank: int
) -> list[SteeringVector | None]:
    """The vector to start from at each layer, or None."""
    if init is None:
        return [None] * len(layers)
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


def published_settings(model: Bridge, positions: str | PositionFunction, objective: str | Objective) -> tuple[TrainConfig, str]:
    """The published settings at this model's width, and a sentence on where they come from."""
    place, goal, name = positions if isinstance(positions, str) else "p2+s2", objective_name(objective), model_name(model)
    row, width = scaling.published_row(name, place, goal), d_model(model)
    asked = {"model": (name.split("/")[-1], row.model_name), "positions": (positions, row.positions)}
    asked["objective"] = (goal, row.objective)
    missing = [f"{what} {wish if isinstance(wish, str) else 'function'}" for what, (wish, got) in asked.items() if wish != got]
    why = f"; the table has no row for {', '.join(missing)}: the nearest was taken" if missing else ""
    source = (
        f"published for {row.model_name}, {row.positions}, {row.objective} (Bao et al. 2026, Table 11), "
        f"learning rates transferred from width {row.d_model} to {width}{why}"
    )
    return scaling.transfer(row.config, row.d_model, width), source
