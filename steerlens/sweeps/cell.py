"""One cell of a sweep: a vector trained with some settings on one concept and seed, and what its responses scored.

A cell's result follows from the cell, the data, the prompts, the model and the judge alone: not from the order of the cells,
nor from what ran before it, nor from where it runs.
"""

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import pandas as pd

from ..data import Prompt, SteeringData
from ..evaluation.scoring import evaluate, judge_rows
from ..judges.base import Judge
from ..model.bridge import Bridge
from ..reproducibility import json_digest, row_seeds
from ..scores import SCORES
from ..training.loop import train
from ..training.scaling import TrainConfig
from ..training.setup import published_settings
from ..vector import SteeringVector

SCHEMA = 1
TRAIN_AXES = ("layer", "positions", "objective", "form", "factor", "rank")
"""Arguments of `train` that a grid may vary."""
CONFIG_AXES = tuple(field.name for field in fields(TrainConfig))
"""Fields of `TrainConfig` that a grid may vary."""
ROW = ("prompt", "response", "seed", *SCORES, "error")
"""What is recorded of each response; with a judge that writes, also replies."""
RECORD = ("schema", "key", "concept", "seed", "settings", "error", "numbers", "seconds", "rows")
"""What is recorded of each cell; on disk, also what it was made with."""


class Cell(NamedTuple):
    """What is trained: it names the cell."""

    concept: str
    """The name of its data set."""
    seed: int
    """Of the training and of the sampled responses: cells that differ in settings alone share their random numbers."""
    settings: Mapping[str, Any]
    """Arguments of `train` and fields of `TrainConfig`, as JSON values."""

    @property
    def key(self) -> str:
        """Name of the cell's files: the same for the same cell, whatever the order of its settings."""
        slug = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in self.concept.lower())
        name = json_digest([self.concept, self.seed, dict(self.settings)])[:16]
        return f"{slug[:40].strip('-')}-{self.seed}-{name}"


class Sampling(NamedTuple):
    """How responses are sampled; as `generate`."""

    max_new_tokens: int
    temperature: int | float
    chat: bool
    batch_size: int


@dataclass(frozen=True)
class Job:
    """What all cells of a sweep share, apart from the model and the judge."""

    datasets: Mapping[str, SteeringData]
    prompts: Mapping[str, list[Prompt]]
    config: TrainConfig | None
    """What the settings of a cell change; None = the published settings of its positions and objective."""
    sampling: Sampling


class Result(NamedTuple):
    """A cell that has run."""

    key: str
    record: Mapping[str, Any]
    """JSON values: concept, seed, settings, error (a traceback or None), numbers of the vector, seconds, rows."""
    vector: SteeringVector | None
    """None where none was trained: the cell failed, or its stored responses were judged again."""


def run_cell(model: Bridge, judge: Judge, job: Job, cell: Cell, past: Mapping[str, Any] | None = None) -> Result:
    """Train, generate and judge. Whatever goes wrong is the cell's result too; only an interrupt comes through.

    Args:
        past: the cell's record, of whose responses only the unscored ones are to be judged again.
    """
    record = {"schema": SCHEMA, "key": cell.key, "concept": cell.concept, "seed": cell.seed, "settings": dict(cell.settings)}
    start = time.perf_counter()
    try:
        if past is not None:
            rows = _judged_again(judge, job, cell, past["rows"])
            seconds = {**past["seconds"], "judge": past["seconds"]["judge"] + time.perf_counter() - start}
            return Result(cell.key, {**past, "rows": rows, "seconds": seconds}, None)
        sv, numbers = _trained(model, job, cell)
        trained = time.perf_counter()
        rows = _judged(model, judge, job, cell, sv)
    except Exception:
        return Result(cell.key, record | failure(traceback.format_exc(), time.perf_counter() - start), None)
    seconds = {"train": trained - start, "judge": time.perf_counter() - trained}
    return Result(cell.key, record | {"error": None, "numbers": numbers, "seconds": seconds, "rows": rows}, sv)


def failure(error: str, seconds: float) -> dict[str, Any]:
    """What is recorded of a cell that failed."""
    return {"error": error, "numbers": {}, "seconds": {"train": seconds, "judge": 0.0}, "rows": []}


def _trained(model: Bridge, job: Job, cell: Cell) -> tuple[SteeringVector, dict[str, float]]:
    chosen = {name: value for name, value in cell.settings.items() if name in TRAIN_AXES}
    changed = {name: value for name, value in cell.settings.items() if name in CONFIG_AXES}
    base = job.config
    if base is None:
        base, _ = published_settings(model, chosen.get("positions", "p2+s2"), chosen.get("objective", "lang"))
    data, config = job.datasets[cell.concept], replace(base, **changed)
    sv = train(model, data, config=config, seed=cell.seed, progress=False, **chosen)
    assert sv.history is not None
    loss = float(sv.history.groupby("epoch")["loss"].mean().iloc[-1])
    return sv, {"trained_factor": sv.factor, "norm": sv.norm, "loss": loss, "steps": len(sv.history)}


def _judged(model: Bridge, judge: Judge, job: Job, cell: Cell, sv: SteeringVector) -> list[dict[str, Any]]:
    prompts = job.prompts[cell.concept]
    seeds = row_seeds(cell.seed, len(prompts))
    return _listed(evaluate(model, sv, _asked(job, cell), prompts, judge, seed=seeds, **job.sampling._asdict()).frame)


def _judged_again(judge: Judge, job: Job, cell: Cell, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with new verdicts on the unscored ones; one that is no better than the old verdict does not replace it."""
    unscored = [index for index, row in enumerate(rows) if row["overall"] is None]
    prompts, responses, seeds = ([rows[index][name] for index in unscored] for name in ("prompt", "response", "seed"))
    judged = judge_rows(judge, [_asked(job, cell)] * len(unscored), prompts, responses, seeds)
    mended = [dict(row) for row in rows]
    for index, new in zip(unscored, _listed(pd.DataFrame(judged).astype(dict.fromkeys(SCORES, float))), strict=True):
        if unrated(new) <= unrated(rows[index]):
            mended[index] = new
    if any("replies" in row for row in mended):
        mended = [{**row, "replies": row.get("replies")} for row in mended]
    return mended


def unrated(row: Mapping[str, Any]) -> int:
    """How many of a row's scores are missing."""
    return sum(row[score] is None for score in SCORES)


def _asked(job: Job, cell: Cell) -> str:
    """What the judge is told to look for."""
    return job.datasets[cell.concept].concept or cell.concept


def _listed(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Judged rows as JSON values."""
    columns = [name for name in (*ROW, "replies") if name in frame]
    return [{name: _plain(row[name]) for name in columns} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    """A JSON value: unknown is null, never NaN."""
    return None if pd.isna(value) or (isinstance(value, float) and not math.isfinite(value)) else value
