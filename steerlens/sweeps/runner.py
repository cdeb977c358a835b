"""Many runs: settings x concepts x seeds, each cell stored when it is done, so that a sweep can be killed and goes on."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..arguments import checked_call
from ..data import Prompt, as_data
from ..evaluation.scoring import as_frame
from ..intervals import mean_interval
from ..judges.base import Judge
from ..model.bridge import Bridge
from ..result import Result
from ..scores import SCORES
from ..steering.generation import as_prompts
from ..training.scaling import TrainConfig
from ..vector import SteeringVector
from .cell import Cell, Job, Sampling, unrated
from .executors import Pool, Workers, local, on_ray
from .grid import Grid, cells_of, check_neutral
from .run_folder import Folder, agree, made_with, of_job

if TYPE_CHECKING:
    import plotly.graph_objects as go

Prompts = Mapping[Any, Sequence[Prompt]] | Callable[[Any], Sequence[Prompt]]
Retry = Literal["failed", "unscored", "none"]
NUMBERS = ("trained_factor", "norm", "loss", "steps")
"""What is recorded of a cell's vector."""
_RUN = ("n", "unscored", *NUMBERS, "seconds", "made_with", "error")
_RESPONSE = ("row", "prompt", "response", "sampling_seed", *SCORES, "error")


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Result):
    """The cells of a sweep, as far as they have run."""

    out: str
    """The directory."""
    cells: tuple[Cell, ...]
    """All that were asked for, run or not."""
    frame: pd.DataFrame
    """One row per cell that has run: key, concept, seed, one column per axis of the grid (None where a cell does not name
    it), concept_score, instruct_score, fluency_score, overall (means over the scored responses, 0 to 2; NaN if there are
    none), n (responses), unscored (those without an overall score), trained_factor, norm (of the vector), loss (mean of the
    last epoch), steps, seconds (training and judging), made_with (the same text for cells of the same code, versions, model,
    judge, data and prompts), error (the traceback of a failed cell, else None)."""
    generations: pd.DataFrame
    """One row per response: key, concept, seed, the axes, row (number of the prompt), prompt, response, sampling_seed, the
    scores (0 to 2, NaN where unscored), error (why it is unscored, else None); with a judge that writes, also replies.
    `generate` with the cell's vector, the prompt and the sampling seed gives the response again."""
    axes: tuple[str, ...]
    """The settings that the grid names."""

    @staticmethod
    def open(out: str | Path) -> "Sweep":
        """What a directory holds of all cells ever planned in it, without running anything.

        Raises:
            FileNotFoundError: no sweep has been there.
        """
        folder = Folder(out)
        manifest = folder.manifest()
        if manifest is None:
            raise FileNotFoundError(f"{out} holds no sweep: there is no manifest.json")
        return _result(folder, [Cell(**cell) for cell in manifest["plan"]])

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of the cells that failed."""
        return self.frame[self.frame["error"].notna()]

    def vector(self, key: str) -> SteeringVector:
        """The vector of a finished cell, read from its file.

        Raises:
            FileNotFoundError: the cell is not finished, or there is none of that key.
        """
        return Folder(self.out).vector(key)

    def to_frame(self) -> pd.DataFrame:
        """One row per cell that has run; see `frame`."""
        return self.frame.copy()

    def summary(self) -> str:
        """The result in a sentence or two."""
        done = self.frame[self.frame["error"].isna()]
        text = f"{len(done)} of {len(self.cells)} cells finished, {len(self.failed)} failed"
        if not done.empty:
            text += f"; {int(done['unscored'].sum())} of {int(done['n'].sum())} responses unscored"
        if self.frame["made_with"].nunique() > self.frame["concept"].nunique():
            text += "; cells of the same concept were made with different code, data, model or judge: compare made_with"
        return text

    def heatmap(
        self,
        x: str,
        y: str,
        *,
        by: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        score: str = "overall",
        level: float = 0.95,
        seed: int = 0,
    ) -> pd.DataFrame:
        """A score for every pair of values of two axes: the mean over seeds within each concept, then over concepts.

        Args:
            x, y: axes of the grid.
            by: further axes, each combination of whose values has a map of its own.
            where: axis -> the one value to look at.
            score: overall, concept_score, instruct_score, fluency_score, trained_factor, norm, loss or steps.
            level: of the interval.
            seed: of the bootstrap.

        Returns:
            One row per place, in the order of the grid: the axes of `by`, `y`, `x`, the score, low and high (bootstrap
            over concepts, whole; over seeds if there is one concept; NaN with only one of each; with few concepts
            too narrow), concepts, seeds, cells (how many the mean is made of), missing (cells asked for that failed, have
            not run or have no such score) and unscored (responses in no mean). Places with missing cells do not compare.

        Raises:
            ValueError: unknown axes or score; an axis that varies and is named nowhere, since a mean over it would hide it.
        """
        return self._means((*by, y, x), where or {}, score, level, seed)

    def plot(
        self,
        x: str | None = None,
        y: str | None = None,
        *,
        by: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        score: str = "overall",
    ) -> "go.Figure":
        """The maps of `heatmap`, one per combination of the axes in `by`; without `y` a single row.

        Without `x` and `y`: the first two axes that vary, and a map for each combination of the others that do.
        """
        from ..figures import plot_heatmap

        where = where or {}
        if x is None and y is not None:
            raise ValueError(f"y is {y!r} and x is not given: name both axes, x alone, or neither")
        if x is None:
            x, y, by = self._axes_to_draw(by, where)
        if y is None:
            table = self._means((*by, x), where, score)
            table.insert(len(by), "score", score)
            return plot_heatmap(table)
        return plot_heatmap(self.heatmap(x, y, by=by, where=where, score=score))

    def _axes_to_draw(self, by: Sequence[str], where: Mapping[str, Any]) -> tuple[str, str | None, tuple[str, ...]]:
        """Axes across and down (None: the grid has one) and those of which each combination has a map."""
        cells = [cell for cell in self.cells if all(cell.settings.get(axis) == value for axis, value in where.items())]
        varying = [axis for axis in self.axes if len({_frozen(cell.settings.get(axis)) for cell in cells}) > 1]
        free = dict.fromkeys(axis for axis in (*varying, *self.axes) if axis not in by)
        if not free:
            raise ValueError(f"by names every axis, {', '.join(by)}: leave out what stands across a map")
        x, *others = free
        return x, others[0] if others else None, (*by, *(axis for axis in others[1:] if axis in varying))

    def _means(
        self, named: Sequence[str], where: Mapping[str, Any], score: str, level: float = 0.95, seed: int = 0
    ) -> pd.DataFrame:
        """A row per combination of the values of the named axes."""
        chosen = [cell for cell in self.cells if all(cell.settings.get(axis) == v for axis, v in where.items())]
        self._check_axes(named, chosen, where, score)
        groups: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in chosen:
            groups.setdefault(tuple(_frozen(cell.settings.get(axis)) for axis in named), []).append(cell)
        known: Any = self.frame.set_index("key")
        rows = [
            dict(zip(named, values, strict=True)) | _mean_of(cells, known.reindex([c.key for c in cells]), score, level, seed)
            for values, cells in groups.items()
        ]
        return pd.DataFrame(rows)

    def _check_axes(self, named: Sequence[str], cells: Sequence[Cell], where: Mapping[str, Any], score: str) -> None:
        if unknown := [axis for axis in (*named, *where) if axis not in self.axes]:
            raise ValueError(f"the grid has no axis {', '.join(map(repr, unknown))}; it has {', '.join(self.axes)}")
        if len(set(named)) < len(named):
            raise ValueError(f"an axis is named twice: {', '.join(named)}")
        if score not in (*SCORES, *NUMBERS):
            raise ValueError(f"score {score!r} is unknown; known are {', '.join((*SCORES, *NUMBERS))}")
        if not cells:
            raise ValueError(f"no cell has {dict(where)}")
        values = {axis: {_frozen(cell.settings.get(axis)) for cell in cells} for axis in self.axes if axis not in named}
        if hidden := [f"{axis} ({', '.join(sorted(map(str, found)))})" for axis, found in values.items() if len(found) > 1]:
            raise ValueError(
                f"a mean over {', '.join(hidden)} would hide how much depends on it: name it in by=[...], or choose one value "
                "with where={...}"
            )


@checked_call
def sweep(
    model: Bridge | str | Callable[[], Bridge],
    datasets: Mapping[Any, Any],
    grid: Grid,
    judge: Judge | Callable[[], Judge],
    out: str | Path,
    *,
    prompts: Prompts,
    seeds: Sequence[int] = (42,),
    config: TrainConfig | None = None,
    max_new_tokens: int = 128,
    temperature: int | float = 1.0,
    chat: bool = True,
    batch_size: int = 16,
    executor: Literal["local", "ray"] = "local",
    n_workers: int | None = None,
    cpus_per_worker: int = 1,
    gpus_per_worker: int | float = 0,
    retry: Retry = "failed",
    on_mismatch: Literal["refuse", "keep"] = "refuse",
    progress: bool = True,
) -> Sweep:
    """Train, generate and judge every cell of settings x concepts x seeds.

    Each cell is stored in `out` as soon as it is done. Called again, by hand or after being killed at any moment, the sweep
    goes on with what is not there; the grid, the concepts and the seeds may have grown. A cell's numbers depend on the cell
    alone, so the end is the same, bit for bit on the same machine and number of threads, whatever happened on the way. A cell
    that fails is recorded with its traceback and stops nothing. The seed changes slowest and the settings fastest, so that a
    sweep that is stopped has compared the settings on the same concepts.

    Args:
        model: a TransformerBridge, a name or path for `load_model`, or a function that returns a model.
        datasets: name of each concept -> `SteeringData`, or anything it can be built from. The judge is told the data's own
            `concept`, or the name if it has none.
        grid: axis -> values, of which all combinations are taken, or a list of settings. Axes are `layer` (needed),
            `positions`, `objective`, `form`, `factor`, `rank` as in `train`, and the fields of `TrainConfig`.
        judge: as for `evaluate`, or a function that makes one. One that holds a connection or a counter should be given as a
            function when it goes to Ray.
        out: a directory, or any place that fsspec reaches ("s3://...", "memory://...").
        prompts: name -> test prompts, as a mapping or a function.
        seeds: each trains every vector afresh, and samples its responses afresh. Cells of the same seed share their random
            numbers, so that settings differ by what they do.
        config: what the grid's fields of `TrainConfig` change; None = the published settings for each cell's positions and
            objective, transferred to the model's width.
        max_new_tokens, temperature, chat, batch_size: as `generate`.
        executor: "local" = in this process. "ray" = on the Ray cluster that `ray.init` connected to, else on a local one;
            each worker loads the model itself, so `model` must be a name, path or function.
        n_workers: on Ray; None = as many as fit.
        cpus_per_worker, gpus_per_worker: what each worker takes; torch uses as many threads as CPUs.
        retry: which cells that have run are run again: "failed" ones, or "none". "unscored" also has the responses that are
            without a score (a judge that could not be reached) judged again, of cells made with the same; cells made with
            something else, kept by `on_mismatch`, are made anew. What comes out worse replaces nothing.
        on_mismatch: what to do if `out` was made with another model, judge, code, software, data, prompts or settings outside
            the grid. "refuse" is an error that names what differs. "keep" leaves finished cells as they are and makes the
            others with what is given now; `made_with` tells them apart. Of a judge is compared what
            `judges.base.judge_identity` says of it, and of steerlens the modules that decide a cell's numbers, with a judge of
            `steerlens.judges` also its own.
        progress: show a progress bar with the time left.

    Raises:
        ValueError, TypeError, DataError: arguments that cannot be used, a damaged manifest, or a mismatch, before any work
            starts.
        OSError: `out` cannot be written to.
        ImportError: ray is asked for and not installed.
    """
    for name, value, known in (
        ("executor", executor, ("local", "ray")),
        ("retry", retry, ("failed", "unscored", "none")),
        ("on_mismatch", on_mismatch, ("refuse", "keep")),
    ):
        if value not in known:
            raise ValueError(f"{name} {value!r} is unknown; use {' or '.join(map(repr, known))}")
    if max_new_tokens < 1 or batch_size < 1 or not 0 <= temperature < math.inf:
        raise ValueError(
            f"max_new_tokens {max_new_tokens} and batch_size {batch_size} must be at least 1, and temperature {temperature} "
            "at least 0"
        )
    job = Job(*_named(datasets, prompts), config, Sampling(max_new_tokens, temperature, chat, batch_size))
    cells, folder = cells_of(list(job.datasets), grid, seeds, config), Folder(out)
    settings = [cell.settings for cell in cells if cell[:2] == cells[0][:2]]
    check_neutral(job.datasets, settings)
    folder.check_writable()
    folder.manifest()
    opened: AbstractContextManager[Pool] = local(job, model, judge, settings)
    if executor == "ray":
        opened = on_ray(job, model, judge, settings, Workers(n_workers, cpus_per_worker, gpus_per_worker))
    with opened as pool:
        fingerprint = of_job(job) | dict(pool.identity)
        agree(folder, fingerprint, cells, keep=on_mismatch == "keep")
        folder.tidy()
        marks = {name: made_with(fingerprint, name) for name in job.datasets}
        _run(folder, pool, cells, marks, retry, progress)
    return _result(folder, cells)


def _named(datasets: Mapping[Any, Any], prompts: Prompts) -> tuple[dict[str, Any], dict[str, list[Prompt]]]:
    """Data and prompts by the names of the concepts, which are text."""
    if not datasets:
        raise ValueError("there are no data sets to sweep over")
    data, asked = {}, {}
    for name, rows in datasets.items():
        if str(name) in data:
            raise ValueError(f"two data sets have the same name: {str(name)!r}")
        if not callable(prompts) and name not in prompts:
            raise ValueError(f"there are no prompts for {name!r}")
        data[str(name)] = as_data(rows)
        asked[str(name)] = as_prompts(prompts(name) if callable(prompts) else prompts[name])
    return data, asked


def _run(folder: Folder, pool: Pool, cells: Sequence[Cell], marks: Mapping[str, str], retry: Retry, progress: bool) -> None:
    """Run what has not run, and store each cell when it is done."""
    past = folder.records(cell.key for cell in cells)
    todo = [cell for cell in cells if cell.key not in past or _again(past[cell.key], retry)]
    known = {cell.key: past[cell.key] for cell in todo if cell.key in past and past[cell.key]["error"] is None}
    judged = {key: record for key, record in known.items() if record["made_with"] == marks[record["concept"]]}
    n_failed = 0
    with tqdm(total=len(cells), initial=len(cells) - len(todo), desc="sweep", unit="cell", disable=not progress) as bar:
        for result in pool.results(todo, judged):
            failed = result.record["error"] is not None
            if result.key not in known or _better(result.record, known[result.key]):
                folder.store(result, marks[result.record["concept"]])
            n_failed += failed
            bar.set_postfix(failed=n_failed, refresh=False)
            bar.update()


def _again(record: Mapping[str, Any], retry: Retry) -> bool:
    if record["error"] is not None:
        return retry != "none"
    return retry == "unscored" and _missing(record)[0] > 0


def _better(record: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """A failure never replaces a result, nor does a result with more unscored rows."""
    return record["error"] is None and _missing(record) < _missing(old)


def _missing(record: Mapping[str, Any]) -> tuple[int, int]:
    """Unscored rows, and missing ratings."""
    return sum(row["overall"] is None for row in record["rows"]), sum(map(unrated, record["rows"]))


# --- records -> frames ------------------------------------------------------------------------------------------------


def _result(folder: Folder, cells: Sequence[Cell]) -> Sweep:
    records = folder.records(cell.key for cell in cells)
    axes = tuple(dict.fromkeys(name for cell in cells for name in cell.settings))
    rows, responses = [], []
    for cell in cells:
        if (record := records.get(cell.key)) is None:
            continue
        about = {"key": cell.key, "concept": cell.concept, "seed": cell.seed}
        about |= {axis: _frozen(cell.settings.get(axis)) for axis in axes}
        for index, row in enumerate(record["rows"]):
            response = {("sampling_seed" if name == "seed" else name): value for name, value in row.items()}
            responses.append(about | {"row": index} | response)
        means = {score: _mean([row[score] for row in record["rows"]]) for score in SCORES}
        counts = {"n": len(record["rows"]), "unscored": sum(row["overall"] is None for row in record["rows"])}
        numbers = {name: record["numbers"].get(name, np.nan) for name in NUMBERS}
        ends = {"seconds": sum(record["seconds"].values()), "made_with": record["made_with"], "error": record["error"]}
        rows.append(about | means | counts | numbers | ends)
    about = ("key", "concept", "seed", *axes)
    frame = pd.DataFrame(rows, columns=[*about, *SCORES, *_RUN]).astype(dict.fromkeys(SCORES, float))
    written = ["replies"] if any("replies" in row for row in responses) else []
    generations = as_frame(responses, [*about, *_RESPONSE, *written])
    return Sweep(folder.name, tuple(cells), frame, generations, axes)


def _frozen(value: Any) -> Any:
    """Lists of factors as tuples, so that rows can be grouped by them."""
    return tuple(value) if isinstance(value, list) else value


def _mean(values: Sequence[int | float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else np.nan


def _mean_of(cells: Sequence[Cell], rows: pd.DataFrame, score: str, level: float, seed: int) -> dict[str, Any]:
    """One place of a heat map; `rows` are those of the cells, empty where a cell has not run."""
    found = rows[["concept", "seed", score, "unscored"]].dropna(subset=[score])
    by_concept = found.groupby("concept", sort=False)[score].mean()
    units = by_concept if len(by_concept) > 1 else found[score]
    low, high = mean_interval(units.to_numpy(float), level, seed) or (np.nan, np.nan)
    counts = {"concepts": found["concept"].nunique(), "seeds": found["seed"].nunique(), "cells": len(found)}
    counts |= {"missing": len(cells) - len(found), "unscored": int(rows["unscored"].sum())}
    return {score: float(by_concept.mean()), "low": low, "high": high, **counts}
