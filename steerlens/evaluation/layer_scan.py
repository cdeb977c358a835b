"""Which layer to steer: a vector trained at each, and what each is worth on data it has not seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..arguments import checked_call
from ..data import Prompt, SteeringData, as_data
from ..intervals import warning
from ..judges.base import Judge, check_judge
from ..model.bridge import Bridge, check_model, n_layers
from ..positions import PositionFunction
from ..reproducibility import generator_for
from ..result import Result
from ..scores import SCORES
from ..steering.generation import as_prompts, prepare
from ..training.loop import train
from ..training.objective_value import loss
from ..training.objectives import Objective, objective_name
from ..training.scaling import TrainConfig
from ..training.settings import Factor
from ..training.setup import read_layers
from ..vector import SteeringVector
from .scoring import evaluate

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class LayerScan(Result):
    """One vector per layer, and how well each does."""

    frame: pd.DataFrame
    """One row per layer: layer, held_out_loss, unsteered_loss (the same data without a vector), train_loss (last epoch), norm,
    and if judged concept_score, instruct_score, fluency_score, overall, overall_low, overall_high, n (responses), unscored.
    `attrs["objective"]` says which loss it is."""
    vectors: dict[int, SteeringVector]

    @property
    def best(self) -> int:
        """The layer with the highest overall score if judged, else with the lowest held-out loss."""
        table = self.frame.set_index("layer")
        if "overall" in table and bool(table["overall"].notna().any()):
            return int(table["overall"].idxmax())  # pyright: ignore[reportArgumentType] - the index holds layers
        return int(table["held_out_loss"].idxmin())  # pyright: ignore[reportArgumentType] - the same

    def to_frame(self) -> pd.DataFrame:
        """One row per layer; see `frame`."""
        return self.frame.copy()

    def plot(self) -> "go.Figure":
        """Held-out loss, and scores if judged, by layer."""
        from ..figures import plot_scan

        return plot_scan(self.frame, self.best, self.summary())

    def summary(self) -> str:
        """The result in a sentence."""
        row: Any = next(row for row in self.frame.to_dict("records") if row["layer"] == self.best)
        losses = f"held-out loss {row['held_out_loss']:.3f} (unsteered {row['unsteered_loss']:.3f})"
        text = f"layer {self.best} is the best of {len(self.frame)}: {losses}"
        if not pd.isna(row.get("overall")):
            few = warning(int(row["n"] - row["unscored"]))
            interval = f"95 % interval {row['overall_low']:.2f} to {row['overall_high']:.2f}{few}"
            text += f", overall {row['overall']:.2f} of 2 ({'no interval' if pd.isna(row['overall_low']) else interval})"
        return text


@checked_call
def scan_layers(
    model: Bridge,
    data: Any,
    *,
    layers: Sequence[int] | None = None,
    prompts: Sequence[Prompt] = (),
    judge: Judge | None = None,
    held_out: float = 0.25,
    positions: str | PositionFunction = "p2+s2",
    objective: str | Objective = "lang",
    form: str = "add",
    factor: Factor = "joint",
    rank: int = 1,
    config: TrainConfig | None = None,
    max_new_tokens: int = 128,
    temperature: int | float = 1.0,
    seed: int = 42,
    progress: bool = True,
) -> LayerScan:
    """Train one vector at each layer, all from the same start, and compare them on examples that were kept aside.

    Args:
        layers: which to try; None = all of the model.
        prompts, judge: if both are given, each vector is also judged for `data.concept` on these prompts, with the same
            sampling seeds at every layer. A low loss is not yet a good text: prefer this where there is a judge.
        held_out: share of the examples kept aside for the loss, 0 to 1, at least one example.
        positions, objective, form, factor, rank, config, seed, progress: as `train`.
        max_new_tokens, temperature: as `generate`.

    Raises:
        ValueError, DataError: as `train`; no layers; too few examples; a judge without prompts or without a concept.
    """
    check_model(model)
    examples = as_data(data)
    tried = list(range(n_layers(model))) if layers is None else list(layers)
    _check(model, examples, tried, prompts, judge, held_out)
    if judge is not None:
        _check_judging(model, prompts, judge, max_new_tokens, temperature)
    learned, kept = _split(examples, held_out, seed)
    settings = {"positions": positions, "objective": objective, "form": form, "factor": factor, "rank": rank, "config": config}
    rows, vectors = [], {}
    unsteered = None  # after the first training, which refuses bad settings before any work
    for layer in tried:
        sv = train(model, learned, layer=layer, seed=seed, progress=progress, **settings)
        vectors[layer] = sv
        unsteered = loss(model, None, kept, objective) if unsteered is None else unsteered
        row: dict[str, Any] = {"layer": layer, "held_out_loss": loss(model, sv, kept, objective), "unsteered_loss": unsteered}
        assert sv.history is not None
        row |= {"train_loss": float(sv.history.groupby("epoch")["loss"].mean().iloc[-1]), "norm": sv.norm}
        if judge is not None:
            row |= _judged(model, sv, str(examples.concept), prompts, judge, max_new_tokens, temperature, seed)
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame.attrs["objective"] = objective_name(objective)
    return LayerScan(frame, vectors)


def _check(
    model: Bridge, data: SteeringData, layers: Sequence[int], prompts: Sequence[Prompt], judge: Judge | None, held_out: float
) -> None:
    read_layers(model, layers)
    if not 0 < held_out < 1 or len(data) < 2:
        raise ValueError(f"held_out is {held_out!r} with {len(data)} examples: at least one is kept aside and one trained on")
    if prompts and judge is None:
        raise ValueError("prompts are there to be judged: give a judge, or leave them out")
    if judge is not None and (not prompts or data.concept is None):
        raise ValueError("a judge needs prompts, and a concept to look for: SteeringData(rows, concept=...)")


def _check_judging(
    model: Bridge, prompts: Sequence[Prompt], judge: Judge, max_new_tokens: int, temperature: int | float
) -> None:
    """Raise before the first training for what judging would stumble over after it."""
    check_judge(judge)
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature {temperature} must be at least 0 and finite")
    prepare(model, as_prompts(prompts), None, max_new_tokens, chat=True)


def _split(data: SteeringData, held_out: float, seed: int) -> tuple[SteeringData, SteeringData]:
    """Examples to train on, and examples kept aside."""
    order = torch.randperm(len(data), generator=generator_for(seed, "held out")).tolist()
    n_kept = min(max(round(held_out * len(data)), 1), len(data) - 1)
    parts = (sorted(order[n_kept:]), sorted(order[:n_kept]))
    first, second = (SteeringData([data.examples[index] for index in part], data.concept, data.metadata) for part in parts)
    return first, second


def _judged(
    model: Bridge,
    sv: SteeringVector,
    concept: str,
    prompts: Sequence[Prompt],
    judge: Judge,
    max_new_tokens: int,
    temperature: int | float,
    seed: int,
) -> dict[str, Any]:
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    evaluation = evaluate(model, sv, concept, prompts, judge, **settings)
    low, high = evaluation.interval() or (None, None)
    means = {score: evaluation.mean(score) for score in SCORES} | {"overall_low": low, "overall_high": high}
    numbers = {name: math.nan if value is None else value for name, value in means.items()}
    return numbers | {"n": len(evaluation.frame), "unscored": evaluation.unscored}
