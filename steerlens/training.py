"""Training: one loop for any number of vectors, each with its own data, in shared forward passes.

Joint training of factor and direction is Algorithm 1 of Bao et al. 2026; a fixed factor and factor sampling (Algorithm 2)
train the direction alone. Rows of a batch carry the index of their vector, and a vector's result does not depend on which
others are trained beside it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from . import scaling
from .data import as_data
from .interventions import edit_tokens
from .likelihood import Batch, EncodedExample, encode_data, objective_logprobs, with_reference
from .model import Bridge, Hooks, frozen, hook_name
from .objectives import REFERENCE, Objective, needs, objective_function, row_losses
from .positions import PositionFunction, position_mask
from .runs import Factor, Run, generator_for, prepare
from .scaling import TrainConfig
from .steering import check_fits, edits_for_all
from .vector import SteeringVector

PASS_TOKENS = 2048
"""Tokens, padding counted, in one forward and backward pass: it bounds memory; the sums over passes are exact."""


class Step(NamedTuple):
    """What a callback is told after each step of each vector."""

    name: str
    n_steps: int
    row: Mapping[str, int | float]
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
    rank: int = 1,
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
        objective: "lang", "simpo" (the scaled form), "reps", "dpo", "simpo_margin" (plain SimPO), or a function of `Logprobs`.
            All but "lang" compare with neutral responses, which the data must have.
        form: "add" or "clamp".
        factor: "joint" trains it (Algorithm 1); a number fixes it; a sequence is drawn from at each step (Algorithm 2), and
            the vector is returned with the sequence's mean as its factor.
        rank: 1; a steering vector has no other.
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
    settings = {"layer": layer, "positions": positions, "objective": objective, "form": form, "factor": factor, "rank": rank}
    runs = prepare(model, {name: as_data(data)}, config=config, init=init, seed=seed, **settings)
    return _loop(model, runs, progress, callbacks)[name]


def train_many(
    model: Bridge,
    datasets: Mapping[Any, Any],
    *,
    layer: int,
    positions: str | PositionFunction = "p2+s2",
    objective: str | Objective = "lang",
    form: str = "add",
    factor: Factor = "joint",
    rank: int = 1,
    config: TrainConfig | None = None,
    init: SteeringVector | None = None,
    seed: int = 42,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> dict[str, SteeringVector]:
    """Train one vector per data set in shared forward passes; each comes out as `train` alone would make it.

    A step takes `config.batch_size` rows of every data set. Arguments and errors as `train`.
    """
    if not datasets:
        raise ValueError("there are no data sets to train on")
    settings = {"layer": layer, "positions": positions, "objective": objective, "form": form, "factor": factor, "rank": rank}
    listed = {str(name): as_data(data) for name, data in datasets.items()}
    if len(listed) < len(datasets):
        raise ValueError(f"two data sets have the same name: {sorted(map(str, datasets))}")
    return _loop(model, prepare(model, listed, config=config, init=init, seed=seed, **settings), progress, callbacks)


def loss(
    model: Bridge, sv: SteeringVector | None, data: Any, objective: str | Objective = "lang", *, batch_size: int = 12
) -> float:
    """Mean objective over the data with a vector on (None = unsteered), without training.

    Raises:
        ValueError, DataError: as `train`.
    """
    function = objective_function(objective)
    if sv is not None:
        check_fits(model, sv)
    needed = needs(function)
    encoded = encode_data(model, as_data(data), neutral=bool(needed))

    def hooks_for(batch: Batch, place: Tensor, form: str | None) -> Hooks:
        hooks = []
        for edit in edits_for_all([] if sv is None else [sv if form is None else sv.replace(form=form, factor=1.0)]):
            mask = position_mask(edit.positions, batch.prompt_mask, batch.token_mask)
            hooks.append((hook_name(edit.layer), lambda hidden, hook, e=edit, m=mask: e.apply(hidden, m)))
        return hooks

    total = weight = 0.0
    with torch.no_grad(), frozen(model):
        if REFERENCE in needed:
            encoded = with_reference(model, encoded, batch_size)
        for start in range(0, len(encoded), batch_size):
            part = encoded[start : start + batch_size]
            rows = row_losses(function, objective_logprobs(model, part, needed, hooks_for))
            total += float(rows.loss.double().sum())
            weight += float(rows.weight.double().sum())
    return total / weight


# --- the loop -------------------------------------------------------------------------------------------------------


def _loop(model: Bridge, runs: Mapping[str, Run], progress: bool, callbacks: Sequence[Callback]) -> dict[str, SteeringVector]:
    """Adam on every vector at once; a vector whose steps are done sits out."""
    listed = list(runs.items())
    optimizer = torch.optim.Adam([{"params": [p]} for _, run in listed for p in (run.direction, run.factor) if p.requires_grad])
    rates = [rate for _, run in listed for rate in _base_rates(run)]
    batches = [run.batches() for _, run in listed]
    draws = [generator_for(run.seed, "factor") for _, run in listed]
    bar = tqdm(total=max(run.n_steps for _, run in listed), desc="train", disable=not progress)
    with bar, frozen(model), torch.enable_grad():
        for step in range(bar.total):
            active = [place for place, (_, run) in enumerate(listed) if step < run.n_steps]
            optimizer.zero_grad(set_to_none=True)
            chosen = [listed[place][1] for place in active]
            for place, run in zip(active, chosen, strict=True):
                _draw_factor(run, draws[place])
            losses = backward(model, chosen, [next(batches[place]) for place in active])
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


def _base_rates(run: Run) -> list[tuple[float, int]]:
    """Learning rate and number of steps of each of the run's trained parameters, in the optimizer's order."""
    config = run.shared.config
    rates = [(config.direction_lr, run.n_steps)]
    return rates if run.shared.factors else [*rates, (config.factor_lr, run.n_steps)]


def _draw_factor(run: Run, generator: torch.Generator) -> None:
    """Factor sampling (Algorithm 2): each step draws one of the given factors."""
    if len(run.shared.factors) > 1:
        drawn = int(torch.randint(len(run.shared.factors), (), generator=generator))
        run.factor = torch.tensor(run.shared.factors[drawn], device=run.factor.device)


def backward(model: Bridge, runs: Sequence[Run], batches: Sequence[list[EncodedExample]]) -> list[float]:
    """Gradients of each run's mean loss over its batch; returns the losses.

    Sums go backward pass by pass and are divided by their whole weight at the end, so that accumulation over several
    passes gives exactly the gradient of one large batch.
    """
    config = runs[0].shared.config
    totals = torch.zeros(2, len(runs), dtype=torch.float64)
    for part in range(config.accumulate):
        place = slice(part * config.batch_size, (part + 1) * config.batch_size)
        rows = [(index, example) for index, batch in enumerate(batches) for example in batch[place]]
        for some in _by_length(rows):
            totals += _backward_pass(model, runs, some)
    for run, weight in zip(runs, totals[1].tolist(), strict=True):
        for parameter in (run.direction, run.factor):
            if parameter.grad is not None:
                parameter.grad /= weight
    return (totals[0] / totals[1]).tolist()


def _by_length(rows: Sequence[tuple[int, EncodedExample]]) -> Iterator[list[tuple[int, EncodedExample]]]:
    """Rows of like length together, so that little of a pass is padding, and no pass grows with the number of vectors."""
    some: list[tuple[int, EncodedExample]] = []
    for row in sorted(rows, key=lambda row: row[1].length):
        if some and (len(some) + 1) * row[1].length > PASS_TOKENS:
            yield some
            some = []
        some.append(row)
    if some:
        yield some


def _backward_pass(model: Bridge, runs: Sequence[Run], rows: Sequence[tuple[int, EncodedExample]]) -> Tensor:
    """A forward and backward pass over rows of (run index, example); summed losses and weights of each run."""
    shared = runs[0].shared
    index = torch.tensor([number for number, _ in rows], device=runs[0].direction.device)
    directions, factors = torch.stack([run.direction for run in runs]), torch.stack([run.factor for run in runs])

    def hooks_for(batch: Batch, place: Tensor, form: str | None) -> Hooks:
        mask = position_mask(shared.positions, batch.prompt_mask, batch.token_mask)
        v, alpha = directions[index[place]], factors[index[place]]
        alpha = alpha if form is None else torch.ones_like(alpha)

        def edit(hidden: Tensor, hook: Any) -> Tensor:
            here = hidden.device
            return edit_tokens(hidden, mask.to(here), v.to(here), alpha.to(here), form or shared.form)

        return [(hook_name(shared.layer), edit)]

    needed = needs(shared.objective)
    logprobs = objective_logprobs(model, [example for _, example in rows], needed, hooks_for)
    losses = row_losses(shared.objective, logprobs)
    losses.loss.sum().backward()
    return _sum_by_run(torch.stack([losses.loss, losses.weight]).detach(), index, len(runs))


def _sum_by_run(values: Float[Tensor, "kind batch"], index: Tensor, n_runs: int) -> Float[Tensor, "kind vector"]:
    member = rearrange(index.cpu(), "batch -> batch 1") == torch.arange(n_runs)
    return values.double().cpu() @ member.double()


def _clip(run: Run) -> float:
    """Clip the direction's gradient, never the factor's (clipping both as one lets the factor's dwarf it)."""
    limit = run.shared.config.grad_clip
    return float(torch.nn.utils.clip_grad_norm_([run.direction], math.inf if limit is None else limit))


def _check_finite(step: int, losses: Sequence[float], runs: Sequence[tuple[str, Run]]) -> None:
    for value, (name, run) in zip(losses, runs, strict=True):
        grads = [p.grad for p in (run.direction, run.factor) if p.grad is not None]
        if not math.isfinite(value) or not all(bool(grad.isfinite().all()) for grad in grads):
            raise TrainingError(
                f"{name}: the loss is {value} with gradients that are not all finite at step {step} of {run.n_steps}, factor "
                f"{float(run.factor.detach()):.4g}, direction norm {float(run.direction.detach().norm()):.4g}, settings "
                f"{run.shared.config}: try smaller factor_init and factor_lr"
            )
