"""Training: one loop for any number of vectors, each with its own data (or at its own layer), in shared forward passes.

Joint training of factor and direction is Algorithm 1 of Bao et al. 2026; a fixed factor and factor sampling (Algorithm 2)
train the direction alone. Rows of a batch carry the index of their vector, and a vector's result does not depend on which
others are trained beside it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ..data import as_data
from ..interventions import REFT, stack
from ..keywords import with_keywords
from ..model.batches import Batch, EncodedExample, in_passes, pairs
from ..model.bridge import Bridge, Hooks, check_model
from ..model.frozen import frozen
from ..model.memory import pass_tokens
from ..model.tokenizer import templated
from ..reproducibility import generator_for
from ..steering.hooks import Edit, edit_hooks, masks_of
from ..vector import SteeringVector
from . import scaling
from .callbacks import Callback, Step
from .logprobs import objective_logprobs
from .lower_half import LowerHalf, lower_half
from .objectives import needs, row_losses
from .parameters import Row, Site
from .settings import KEYWORDS, TrainSettings, divided
from .setup import Init, Run, prepare


class TrainingError(RuntimeError):
    """Training came to numbers that are not finite; no vector is returned."""


@with_keywords(KEYWORDS, several="train_layers")
def train(
    model: Bridge, data: Any, *, layer: int, init: SteeringVector | None = None, **settings: Unpack[TrainSettings]
) -> SteeringVector:
    """Train one steering vector on a frozen model.

    Args:
        model: a TransformerBridge; it is left as it came.
        data: `SteeringData`, or anything it can be built from.
        layer: 0-based block whose output is edited; for a vector at each of several see `train_layers`.
        positions: the tokens that are edited; "p2+s2" is PrOSV's choice, "all" the full-sequence vector (FSSV).
        objective: "lang", "simpo" (the scaled form), "reps", "dpo", "simpo_margin" (plain SimPO), or a function of `Logprobs`.
            All but "lang" compare with neutral responses, which the data must have.
        form: "add", "clamp", "null" (its factor is a strength that starts at 1 and moves at `null_factor_lr`), or the ReFT
            forms "loreft" and "direft" (Wu et al. 2024). The paper has no settings for these: they take the steering
            vector's, their bias in the role of the factor, and start as a vector that reads nothing.
        factor: "joint" trains it (Algorithm 1); a number fixes it; a sequence is drawn from at each step (Algorithm 2), and
            the vector is returned with the sequence's mean as its factor: select one with `select_factor`. A ReFT form
            trained jointly has factor 1.
        rank: of the ReFT forms; a steering vector has rank 1.
        config: None takes the published settings for the positions and objective, transferred to the model's width.
        epochs, batch_size, factor_lr, ...: any field of `TrainConfig`, in place of that of the config or the published
            settings; `provenance["config_source"]` says which were changed.
        init: a vector to start from instead of a random direction and `config.factor_init`.
        seed: of the initial direction, the order of the examples and the sampled factors.
        progress: show a progress bar.
        callbacks: called with a `Step` after each step.
        template_args: arguments of the chat template, besides those the model was loaded with; `provenance["template_form"]`
            has them. What is generated with the vector takes the same.

    Returns:
        The vector. Its `history` has one row per step. `loss` is that of the step's batch before the update; `factor`,
        `direction_norm`, `vector_norm` and the cosines (to the first and the previous direction) are after it; `delta1`,
        `delta2`, `delta3` are the root mean squares per coordinate of `(d factor) direction`, `factor (d direction)` and
        `(d factor)(d direction)`, the parts of the vector's update (Bao et al. 2026, Sec. 4). With a ReFT form `bias` takes
        the part of the factor in these, and `null_factor` is there if it is trained.

    Raises:
        ValueError, DataError: settings or data that cannot be used, before any work starts.
        TypeError: an unknown keyword, or a list as `layer`.
        TrainingError: the loss is not finite.
    """
    name = _name(data)
    return train_together(model, {name: data}, [layer], init, settings)[name][0]


@with_keywords(KEYWORDS)
def train_layers(
    model: Bridge, data: Any, *, layers: Sequence[int], init: Init = None, **settings: Unpack[TrainSettings]
) -> dict[int, SteeringVector]:
    """Train a steering vector at each of several layers, together: each step edits at all of them and updates all.

    Args:
        layers: 0-based blocks whose output is edited, each once.
        init: vectors to start from: one per layer, as a list in the order of the layers or as layer -> vector.

    All other arguments and the errors are those of `train`.

    Returns:
        layer -> its vector, in the order of `layers`; `steer` and `generate` apply them together as `list(trained.values())`.
    """
    name = _name(data)
    vectors = train_together(model, {name: data}, layers, init, settings)[name]
    return {vector.layer: vector for vector in vectors}


@with_keywords(KEYWORDS, several="train_layers")
def train_many(
    model: Bridge,
    datasets: Mapping[Any, Any],
    *,
    layer: int,
    init: SteeringVector | None = None,
    **settings: Unpack[TrainSettings],
) -> dict[str, SteeringVector]:
    """Train one vector per data set in shared forward passes; each comes out as `train` alone would make it.

    A step takes `batch_size` rows of every data set. All other arguments and the errors are those of `train`.
    """
    if not datasets:
        raise ValueError("there are no data sets to train on")
    if not isinstance(datasets, Mapping):
        raise TypeError(f"the datasets are of type {type(datasets).__name__}; give a mapping of names to data")
    named = {str(name): data for name, data in datasets.items()}
    if len(named) < len(datasets):
        raise ValueError(f"two data sets have the same name: {sorted(map(str, datasets))}")
    trained = train_together(model, named, [layer], init, settings)
    return {name: vectors[0] for name, vectors in trained.items()}


def _name(data: Any) -> str:
    return getattr(data, "concept", None) or "vector"


def train_together(
    model: Bridge, datasets: Mapping[str, Any], layers: Sequence[int], init: Init, settings: TrainSettings
) -> dict[str, list[SteeringVector]]:
    """Vectors for every data set at every layer, in shared passes: name -> its vectors, in the order of the layers."""
    chosen, changes = divided(settings)
    examples = {name: as_data(data) for name, data in datasets.items()}
    check_model(model)
    with templated(model, chosen.template_args):
        runs = prepare(model, examples, layers, init=init, settings=chosen, changes=changes)
        return _loop(model, runs, chosen.progress, chosen.callbacks)


# --- the loop -------------------------------------------------------------------------------------------------------


def _loop(
    model: Bridge, runs: Mapping[str, Run], progress: bool, callbacks: Sequence[Callback]
) -> dict[str, list[SteeringVector]]:
    """Adam on every vector at once; a run whose steps are done sits out."""
    listed = list(runs.items())
    trained = [(*pair, run.n_steps) for _, run in listed for site in run.sites for pair in site.trained()]
    optimizer = torch.optim.Adam([{"params": [parameter]} for parameter, _, _ in trained])
    batches = [run.batches() for _, run in listed]
    draws = [generator_for(run.seed, "factor") for _, run in listed]
    bar = tqdm(total=max(run.n_steps for _, run in listed), desc="train", disable=not progress)
    with bar, frozen(model), torch.enable_grad():
        lower = _lower_half(model, [run for _, run in listed])
        for step in range(bar.total):
            active = [index for index, (_, run) in enumerate(listed) if step < run.n_steps]
            optimizer.zero_grad(set_to_none=True)
            chosen = [listed[index][1] for index in active]
            for index, run in zip(active, chosen, strict=True):
                _draw_factor(run, draws[index])
            losses = backward(model, chosen, [next(batches[index]) for index in active], lower)
            _check_finite(step, losses, [listed[index] for index in active])
            before = [[site.moment() for site in run.sites] for run in chosen]
            for group, (_, rate, n_steps) in zip(optimizer.param_groups, trained, strict=True):
                group["lr"] = rate * scaling.learning_rate_scale(min(step, n_steps), n_steps)
            norms = [[site.clip() for site in run.sites] for run in chosen]
            optimizer.step()
            for index, run, value, old, norm in zip(active, chosen, losses, before, norms, strict=True):
                rows = run.record(step, value, old, norm)
                for site, row in zip(run.sites, rows, strict=True):
                    _call_back(callbacks, listed[index][0], run, site, row)
            bar.update()
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.3f}", factor=f"{float(chosen[0].sites[0].factor.detach()):.2f}")
    return {name: run.finish() for name, run in listed}


def _lower_half(model: Bridge, runs: Sequence[Run]) -> LowerHalf | None:
    """What lies below the lowest edited layer, of every row that will be trained on."""
    rows = pairs([example for run in runs for example in run.examples])
    layer = min(runs[0].shared.layers)
    return lower_half(model, rows, layer, pass_tokens(model, layer))


def _call_back(callbacks: Sequence[Callback], name: str, run: Run, site: Site, row: Row) -> None:
    for callback in callbacks:
        rows = site.moment().directions.cpu()
        callback(Step(name, run.n_steps, row, site.layer, rows if site.form in REFT else rows[0]))


def _draw_factor(run: Run, generator: torch.Generator) -> None:
    """Factor sampling (Algorithm 2): each step draws one of the given factors."""
    if len(run.shared.factors) > 1:
        drawn = int(torch.randint(len(run.shared.factors), (), generator=generator))
        for site in run.sites:
            site.factor = torch.tensor(run.shared.factors[drawn], device=site.factor.device)


def backward(
    model: Bridge, runs: Sequence[Run], batches: Sequence[list[EncodedExample]], lower: LowerHalf | None = None
) -> list[float]:
    """Gradients of each run's mean loss over its batch; returns the losses.

    Sums go backward pass by pass and are divided by their whole weight at the end, so that accumulation over several
    passes gives exactly the gradient of one large batch.
    """
    config = runs[0].shared.config
    totals = torch.zeros(2, len(runs), dtype=torch.float64)
    for part in range(config.accumulate):
        part_rows = slice(part * config.batch_size, (part + 1) * config.batch_size)
        rows = [(index, example) for index, batch in enumerate(batches) for example in batch[part_rows]]
        for alike in _by_length(rows, pass_tokens(model, min(runs[0].shared.layers))):
            totals += _backward_pass(model, runs, alike, lower)
    for run, weight in zip(runs, totals[1].tolist(), strict=True):
        for parameter, _ in (pair for site in run.sites for pair in site.trained()):
            if parameter.grad is not None:
                parameter.grad /= weight
    return (totals[0] / totals[1]).tolist()


def _by_length(rows: Sequence[tuple[int, EncodedExample]], most: int) -> Iterator[list[tuple[int, EncodedExample]]]:
    """Rows of like length together, so that little of a pass is padding. A pass has at most so many tokens, however
    many vectors there are, which bounds memory; the sums over passes are exact."""
    return in_passes(sorted(rows, key=lambda row: row[1].length), most, lambda row: row[1].length)


def _backward_pass(
    model: Bridge, runs: Sequence[Run], rows: Sequence[tuple[int, EncodedExample]], lower: LowerHalf | None
) -> Tensor:
    """A forward and backward pass over rows of (run index, example); summed losses and weights of each run."""
    shared = runs[0].shared
    index = torch.tensor([number for number, _ in rows], device=runs[0].sites[0].direction.device)

    def hooks_for(batch: Batch, example: Tensor, form: str | None) -> Hooks:
        edits = []
        for layer, *sites in zip(shared.layers, *(run.sites for run in runs), strict=True):
            weights = stack([site.weights() if form is None else site.null_weights() for site in sites])
            edits.append(Edit(layer, shared.positions, form or shared.form, weights, index[example]))
        return edit_hooks(edits, masks_of(batch))

    needed = needs(shared.objective)
    logprobs = objective_logprobs(model, [example for _, example in rows], needed, hooks_for, lower)
    losses = row_losses(shared.objective, logprobs)
    losses.loss.sum().backward()
    return _sum_by_run(torch.stack([losses.loss, losses.weight]).detach(), index, len(runs))


def _sum_by_run(values: Float[Tensor, "kind batch"], index: Tensor, n_runs: int) -> Float[Tensor, "kind vector"]:
    member = rearrange(index.cpu(), "batch -> batch 1") == torch.arange(n_runs)
    return values.double().cpu() @ member.double()


def _check_finite(step: int, losses: Sequence[float], runs: Sequence[tuple[str, Run]]) -> None:
    for value, (name, run) in zip(losses, runs, strict=True):
        grads = [p.grad for site in run.sites for p, _ in site.trained() if p.grad is not None]
        if not math.isfinite(value) or not all(bool(grad.isfinite().all()) for grad in grads):
            site = run.sites[0]
            raise TrainingError(
                f"{name}: the loss is {value} with gradients that are not all finite at step {step} of {run.n_steps}, factor "
                f"{float(site.factor.detach()):.4g}, direction norm {float(site.direction.detach().norm()):.4g}, settings "
                f"{run.shared.config}: try smaller factor_init and factor_lr"
            )
