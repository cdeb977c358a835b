"""Training: one loop for any number of vectors, each with its own data, in shared forward passes.

Joint training of factor and direction is Algorithm 1 of Bao et al. 2026; a fixed factor and factor sampling (Algorithm 2)
train the direction alone. Rows of a batch carry the index of their vector, and a vector's result does not depend on which
others are trained beside it.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from . import scaling
from .data import SteeringData, as_data
from .interventions import edit_tokens, intervention
from .likelihood import EncodedExample, collate, encode_data, response_logprobs
from .model import Bridge, check_layer, d_model, device, frozen, hook_name, identity, model_name
from .objectives import Logprobs, Objective, objective_function, objective_name, row_losses
from .positions import PositionFunction, canonical_positions, position_mask
from .scaling import TrainConfig
from .steering import check_fits, edits_for_all
from .vector import SteeringVector

Factor = str | float | Sequence[float]
"""How the factor is got: "joint" (trained), a number (fixed), or numbers from which each step draws one."""


class Step(NamedTuple):
    """What a callback is told after each step of each vector."""

    name: str
    n_steps: int
    row: Mapping[str, float]
    """The step's row of the history."""


Callback = Callable[[Step], None]


class TrainingError(RuntimeError):
    """Training came to numbers that are not finite; no vector is returned."""


def train(
    model: Bridge,
    data: Any,
    *,
    layer: int,
    positions: str | PositionFunction = "p2+s2",
    objective: str | Objective = "lang",
    form: str = "add",
    factor: Factor = "joint",
    config: TrainConfig | None = None,
    init: SteeringVector | None = None,
    seed: int = 42,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> SteeringVector:
    """Train one steering vector on a frozen model.

    Args:
        model: a TransformerBridge; it is left as it came.
        data: `SteeringData`, or anything it can be built from.
        layer: 0-based block whose output is edited.
        positions: the tokens that are edited; "p2+s2" is PrOSV's choice, "all" the full-sequence vector (FSSV).
        objective: "lang", or a function of `Logprobs`.
        form: "add" or "clamp".
        factor: "joint" trains it (Algorithm 1); a number fixes it; a sequence is drawn from at each step (Algorithm 2), and
            the vector is returned with the sequence's mean as its factor.
        config: None takes the published settings for the positions and objective, transferred to the model's width.
        init: a vector to start from instead of a random direction and `config.factor_init`.
        seed: of the initial direction, the order of the examples and the sampled factors.
        progress: show a progress bar.
        callbacks: called with a `Step` after each step.

    Returns:
        The vector; its `history` has one row per step. `loss` is that of the step's batch before the update; `factor`,
        `direction_norm`, `vector_norm` and the cosines (to the first and the previous direction) are after it; `delta1`,
        `delta2`, `delta3` are the root mean squares per coordinate of `(d factor) direction`, `factor (d direction)` and
        `(d factor)(d direction)`, the parts of the vector's update (Bao et al. 2026, Sec. 4).

    Raises:
        ValueError, DataError: settings or data that cannot be used, before any work starts.
        TrainingError: the loss is not finite.
    """
    name = getattr(data, "concept", None) or "vector"
    settings = {"layer": layer, "positions": positions, "objective": objective, "form": form, "factor": factor}
    runs = _prepare(model, {name: as_data(data)}, config=config, init=init, seed=seed, **settings)
    return _loop(model, runs, progress, callbacks)[name]


def train_many(
    model: Bridge,
    datasets: Mapping[str, Any],
    *,
    layer: int,
    positions: str | PositionFunction = "p2+s2",
    objective: str | Objective = "lang",
    form: str = "add",
    factor: Factor = "joint",
    config: TrainConfig | None = None,
    init: SteeringVector | None = None,
    seed: int = 42,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> dict[str, SteeringVector]:
    """Train one vector per data set in shared forward passes; each comes out as `train` alone would make it.

    A pass holds `config.batch_size` rows of every data set. Arguments and errors as `train`.
    """
    if not datasets:
        raise ValueError("there are no data sets to train on")
    settings = {"layer": layer, "positions": positions, "objective": objective, "form": form, "factor": factor}
    listed = {str(name): as_data(data) for name, data in datasets.items()}
    return _loop(model, _prepare(model, listed, config=config, init=init, seed=seed, **settings), progress, callbacks)


def loss(model: Bridge, sv: SteeringVector | None, data: Any, objective: str | Objective = "lang", *, batch_size: int = 12) -> float:
    """Mean objective over the data with a vector on (None = unsteered), without training.

    Raises:
        ValueError, DataError: as `train`.
    """
    function = objective_function(objective)
    if sv is not None:
        check_fits(model, sv)
    encoded = encode_data(model, as_data(data))
    total = weight = 0.0
    with torch.no_grad(), frozen(model):
        for start in range(0, len(encoded), batch_size):
            batch = collate(model, encoded[start : start + batch_size])
            hooks = []
            for edit in edits_for_all([] if sv is None else [sv]):
                mask = position_mask(edit.positions, batch.prompt_mask, batch.token_mask)
                hooks.append((hook_name(edit.layer), lambda hidden, hook, e=edit, m=mask: e.apply(hidden, m)))
            rows = row_losses(function, Logprobs(response_logprobs(model, batch, hooks)))
            total += float(rows.loss.double().sum())
            weight += float(rows.weight.double().sum())
    return total / weight


# --- one run per vector ---------------------------------------------------------------------------------------------


class _Shared(NamedTuple):
    """What all vectors trained together have in common."""

    layer: int
    positions: str | PositionFunction
    objective: Objective
    form: str
    config: TrainConfig
    factors: tuple[float, ...]
    """Factors to draw from; one = fixed; none = trained."""


@dataclass
class _Run:
    """One vector in training: its data, parameters and record."""

    shared: _Shared
    data: SteeringData
    examples: list[EncodedExample]
    direction: Tensor
    factor: Tensor
    provenance: dict[str, Any]
    seed: int
    first: Tensor = field(init=False)
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = self.direction.detach().clone()
        rows_per_step = self.shared.config.batch_size * self.shared.config.accumulate
        self.steps_per_epoch = math.ceil(len(self.examples) / rows_per_step)
        self.n_steps = self.steps_per_epoch * self.shared.config.epochs

    def batches(self) -> Iterator[list[EncodedExample]]:
        """The examples of each step, in a new order each epoch if shuffled."""
        config, order = self.shared.config, _generator(self.seed, "order")
        size = config.batch_size * config.accumulate
        for _ in range(config.epochs):
            n = len(self.examples)
            places = torch.randperm(n, generator=order).tolist() if config.shuffle else list(range(n))
            for start in range(0, n, size):
                yield [self.examples[place] for place in places[start : start + size]]

    def record(self, step: int, loss: float, before: tuple[Tensor, float], grad_norm: float) -> dict[str, float]:
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


def _prepare(
    model: Bridge,
    datasets: Mapping[str, SteeringData],
    *,
    layer: int,
    positions: str | PositionFunction,
    objective: str | Objective,
    form: str,
    factor: Factor,
    config: TrainConfig | None,
    init: SteeringVector | None,
    seed: int,
) -> dict[str, _Run]:
    """Check everything that can be checked before work starts, and set up one run per data set."""
    check_layer(model, layer)
    intervention(form)
    positions = canonical_positions(positions)
    function = objective_function(objective)
    factors = _factors(factor)
    if init is not None:
        check_fits(model, init)
    config, source = _settings(model, positions, objective) if config is None else (config, "given by the caller")
    shared = _Shared(layer, positions, function, form, config, factors)
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
        examples = encode_data(model, data, config.max_response_tokens, config.append_eos)
        provenance = common | {"data_hash": data.hash, "n_examples": len(data)}
        direction, start = _initial(shared, init, d_model(model), seed)
        direction = direction.to(device(model)).requires_grad_()
        alpha = torch.tensor(start, device=device(model), requires_grad=not factors)
        runs[name] = _Run(shared, data, examples, direction, alpha, provenance, seed)
    return runs


def _initial(shared: _Shared, init: SteeringVector | None, width: int, seed: int) -> tuple[Tensor, float]:
    """alpha_0 and v_0 (Algorithm 1, line 1)."""
    if init is not None:
        return init.direction.clone(), shared.factors[0] if shared.factors else init.factor
    direction = scaling.initial_direction(shared.config, width, _generator(seed, "direction"))
    return direction, shared.factors[0] if shared.factors else scaling.initial_factor(shared.config, width)


def _factors(factor: Factor) -> tuple[float, ...]:
    """The factors to draw from; none if the factor is trained."""
    if isinstance(factor, str):
        if factor != "joint":
            raise ValueError(f'factor {factor!r} is unknown; use "joint", a number, or a sequence of numbers')
        return ()
    listed = tuple(map(float, factor)) if isinstance(factor, Sequence) else (float(factor),)
    if not listed or not all(map(math.isfinite, listed)):
        raise ValueError(f"the factors {listed} must be at least one finite number")
    return listed


def _settings(model: Bridge, positions: str | PositionFunction, objective: str | Objective) -> tuple[TrainConfig, str]:
    """The published settings at this model's width, and a sentence on where they come from."""
    place = positions if isinstance(positions, str) else "p2+s2"
    row = scaling.published_row(model_name(model), place, objective_name(objective))
    width = d_model(model)
    source = (
        f"published for {row.model_name}, {row.positions}, {row.objective} (Bao et al. 2026, Table 11), "
        f"learning rates transferred from width {row.d_model} to {width}"
    )
    return scaling.transfer(row.config, row.d_model, width), source


# --- the loop -------------------------------------------------------------------------------------------------------


def _loop(
    model: Bridge, runs: Mapping[str, _Run], progress: bool, callbacks: Sequence[Callback]
) -> dict[str, SteeringVector]:
    """Adam on every vector at once; a vector whose steps are done sits out."""
    listed = list(runs.items())
    optimizer = torch.optim.Adam([{"params": [p]} for _, run in listed for p in (run.direction, run.factor) if p.requires_grad])
    rates = [rate for _, run in listed for rate in _base_rates(run)]
    batches = [run.batches() for _, run in listed]
    draws = [_generator(run.seed, "factor") for _, run in listed]
    bar = tqdm(total=max(run.n_steps for _, run in listed), desc="train", disable=not progress)
    with bar, frozen(model), torch.enable_grad():
        for step in range(bar.total):
            active = [place for place, (_, run) in enumerate(listed) if step < run.n_steps]
            optimizer.zero_grad(set_to_none=True)
            chosen = [listed[place][1] for place in active]
            for place, run in zip(active, chosen, strict=True):
                _draw_factor(run, draws[place])
            losses = _backward(model, chosen, [next(batches[place]) for place in active])
            _check_finite(step, losses, [listed[place] for place in active])
            before = [(run.direction.detach().clone(), float(run.factor.detach())) for run in chosen]
            for group, (rate, n_steps) in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scaling.learning_rate_scale(min(step, n_steps), n_steps)
            norms = [_clip(run) for run in chosen]
            optimizer.step()
            for place, run, value, old, norm in zip(active, chosen, losses, before, norms, strict=True):
                row = run.record(step, value, old, norm)
                for callback in callbacks:
                    callback(Step(listed[place][0], run.n_steps, row))
            bar.update()
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.3f}", factor=f"{float(chosen[0].factor.detach()):.2f}")
    return {name: run.finish() for name, run in listed}


def _base_rates(run: _Run) -> list[tuple[float, int]]:
    """Learning rate and number of steps of each of the run's trained parameters, in the optimizer's order."""
    config = run.shared.config
    rates = [(config.direction_lr, run.n_steps)]
    return rates if run.shared.factors else [*rates, (config.factor_lr, run.n_steps)]


def _draw_factor(run: _Run, generator: torch.Generator) -> None:
    """Factor sampling (Algorithm 2): each step draws one of the given factors."""
    if len(run.shared.factors) > 1:
        drawn = int(torch.randint(len(run.shared.factors), (), generator=generator))
        run.factor = torch.tensor(run.shared.factors[drawn], device=run.factor.device)


def _backward(model: Bridge, runs: Sequence[_Run], batches: Sequence[list[EncodedExample]]) -> list[float]:
    """Gradients of each run's mean loss over its batch; returns the losses.

    Sums go backward pass by pass and are divided by their whole weight at the end, so that accumulation over several
    passes gives exactly the gradient of one large batch.
    """
    config = runs[0].shared.config
    totals = torch.zeros(2, len(runs), dtype=torch.float64)
    for part in range(config.accumulate):
        place = slice(part * config.batch_size, (part + 1) * config.batch_size)
        rows = [(index, example) for index, batch in enumerate(batches) for example in batch[place]]
        if rows:
            totals += _backward_pass(model, runs, rows)
    for run, weight in zip(runs, totals[1].tolist(), strict=True):
        for parameter in (run.direction, run.factor):
            if parameter.grad is not None:
                parameter.grad /= weight
    return (totals[0] / totals[1]).tolist()


def _backward_pass(model: Bridge, runs: Sequence[_Run], rows: Sequence[tuple[int, EncodedExample]]) -> Tensor:
    """One forward and backward pass over rows of (run index, example); summed losses and weights of each run."""
    shared = runs[0].shared
    batch = collate(model, [example for _, example in rows])
    index = torch.tensor([number for number, _ in rows], device=batch.tokens.device)
    mask = position_mask(shared.positions, batch.prompt_mask, batch.token_mask)
    directions = torch.stack([run.direction for run in runs])[index]
    factors = torch.stack([run.factor for run in runs])[index]

    def edit(hidden: Tensor, hook: Any) -> Tensor:
        here = hidden.device
        return edit_tokens(hidden, mask.to(here), directions.to(here), factors.to(here), shared.form)

    logprobs = response_logprobs(model, batch, [(hook_name(shared.layer), edit)])
    losses = row_losses(shared.objective, Logprobs(logprobs))
    losses.loss.sum().backward()
    return _sum_by_run(torch.stack([losses.loss, losses.weight]).detach(), index, len(runs))


def _sum_by_run(values: Float[Tensor, "kind batch"], index: Tensor, n_runs: int) -> Float[Tensor, "kind vector"]:
    member = rearrange(index.cpu(), "batch -> batch 1") == torch.arange(n_runs)
    return values.double().cpu() @ member.double()


def _clip(run: _Run) -> float:
    """Clip the direction's gradient, never the factor's (clipping both as one lets the factor's dwarf it)."""
    limit = run.shared.config.grad_clip
    return float(torch.nn.utils.clip_grad_norm_([run.direction], math.inf if limit is None else limit))


def _check_finite(step: int, losses: Sequence[float], runs: Sequence[tuple[str, _Run]]) -> None:
    for value, (name, run) in zip(losses, runs, strict=True):
        grads = [p.grad for p in (run.direction, run.factor) if p.grad is not None]
        if not math.isfinite(value) or not all(bool(grad.isfinite().all()) for grad in grads):
            raise TrainingError(
                f"{name}: the loss is {value} with gradients that are not all finite at step {step} of {run.n_steps}, factor "
                f"{float(run.factor.detach()):.4g}, direction norm {float(run.direction.detach().norm()):.4g}, settings "
                f"{run.shared.config}: try smaller factor_init and factor_lr"
            )


def _generator(seed: int, purpose: str) -> torch.Generator:
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
