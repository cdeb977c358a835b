"""What runs the cells of a sweep: this process, or workers on a Ray cluster. The only module that imports ray.

A worker is given cells and hands back results; only the process that called `sweep` writes files, so a sweep may lie on that
machine's disk while its workers are elsewhere.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from ..judges.base import Judge
from ..model.bridge import Bridge
from ..model.loading import load_model
from .cell import SCHEMA, Cell, Job, Result, failure, run_cell
from .grid import check_settings
from .run_folder import of_model

DEATHS = 3
"""Workers that may die one after the other, without a cell finished between them, before the sweep stops."""


Records = Mapping[str, Mapping[str, Any]]
"""Key of a cell -> its record."""
Settings = Sequence[Mapping[str, Any]]


class Pool(NamedTuple):
    """Something that runs cells."""

    identity: Mapping[str, Any]
    """Fingerprints of its model and judge."""
    results: Callable[[Sequence[Cell], Records], Iterator[Result]]
    """Cells, and the records of those that are only to be judged again -> results, in the order in which they finish."""


class Workers(NamedTuple):
    """How many workers on Ray, and what each takes."""

    n: int | None
    """None = as many as the cluster has room for."""
    cpus: int
    """Of each worker; torch computes with as many threads."""
    gpus: int | float
    """Of each worker; a fraction lets several share one."""


@contextmanager
def local(job: Job, model: Any, judge: Any, settings: Settings) -> Iterator[Pool]:
    """Cells one after the other, in this process."""
    asked, loaded = made_judge(judge), made_model(model)
    check_settings(loaded, settings, job.config)

    def results(cells: Sequence[Cell], past: Records) -> Iterator[Result]:
        return (run_cell(loaded, asked, job, cell, past.get(cell.key)) for cell in cells)

    yield Pool(of_model(loaded, asked), results)


def made_model(model: Any) -> Bridge:
    """The model itself, or loaded by its name, or made by a function."""
    if isinstance(model, str):
        return load_model(model)
    made: Any = model if isinstance(model, torch.nn.Module) or not callable(model) else model()
    return made


def made_judge(judge: Any) -> Judge:
    """The judge itself, or made by a function or a class."""
    made = judge() if isinstance(judge, type) or (callable(judge) and not isinstance(judge, Judge)) else judge
    if not isinstance(made, Judge):
        raise TypeError(f"the judge is {type(made).__name__}, without a method score(concept, prompt, response)")
    return made


# --- Ray --------------------------------------------------------------------------------------------------------------


class _Worker:
    """A model, a judge, and the data of a sweep, in a process of their own."""

    def __init__(self, job: Job, model: Any, judge: Any, settings: Settings, threads: int) -> None:
        torch.set_num_threads(threads)
        self._job, self._model, self._judge = job, made_model(model), made_judge(judge)
        check_settings(self._model, settings, job.config)
        self._identity = of_model(self._model, self._judge)

    def identity(self) -> Mapping[str, Any]:
        return self._identity

    def run(self, cell: Cell, past: Mapping[str, Any] | None) -> Result:
        return run_cell(self._model, self._judge, self._job, cell, past)


@contextmanager
def on_ray(job: Job, model: Any, judge: Any, settings: Settings, workers: Workers) -> Iterator[Pool]:
    """Cells on the Ray cluster that this process is connected to; without one, on a local one, which is closed again.

    Raises:
        ImportError: ray is not installed.
        TypeError: a model that is already loaded, which cannot be sent to workers.
        ValueError: more workers than the cluster has room for; workers whose models or judges differ.
    """
    if not isinstance(model, str) and (isinstance(model, torch.nn.Module) or not callable(model)):
        raise TypeError(
            f'executor="ray" loads the model in each worker: give a name, a path, or a function without arguments that '
            f"returns a model, not a {type(model).__name__}"
        )
    ray = _imported()
    ours = not ray.is_initialized()
    if ours:
        n_cpus = None if workers.n is None else workers.n * workers.cpus
        ray.init(num_cpus=n_cpus, include_dashboard=False, log_to_driver=False)
    alive: list[Any] = []
    try:
        n = _count(ray.cluster_resources(), workers)
        kind = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(_Worker)
        shared = ray.put(job)

        def start() -> Any:
            alive.append(kind.remote(shared, model, judge, settings, workers.cpus))
            return alive[-1]

        first = [start() for _ in range(n)]
        identities = ray.get([worker.identity.remote() for worker in first])
        if any(identity != identities[0] for identity in identities):
            raise ValueError(f"the workers do not have the same model and judge: {identities}")
        yield Pool(identities[0], lambda cells, past: _results(ray, first, start, cells, past))
    finally:
        for worker in alive:
            ray.kill(worker)
        if ours:
            ray.shutdown()


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError('executor="ray" needs ray: pip install "steerlens[ray]"') from error
    return ray


def _count(resources: Mapping[str, float], workers: Workers) -> int:
    """How many workers are started."""
    room = [int(resources.get("CPU", 0) // workers.cpus)]
    room += [int(resources.get("GPU", 0) // workers.gpus)] if workers.gpus else []
    if min(room) < (workers.n or 1):
        each = f"{workers.cpus} CPUs and {workers.gpus} GPUs"
        has = f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
        raise ValueError(f"{workers.n or 1} workers of {each} each do not fit on the cluster, which has {has}")
    return workers.n or min(room)


def _results(
    ray: Any, workers: Sequence[Any], start: Callable[[], Any], cells: Sequence[Cell], past: Records
) -> Iterator[Result]:
    """Keep every worker busy with one cell. A worker that dies costs its cell, which is recorded, and is replaced."""
    waiting, busy, deaths = list(reversed(cells)), {}, 0
    idle = list(workers)
    while waiting or busy:
        while idle and waiting:
            worker, cell = idle.pop(), waiting.pop()
            busy[worker.run.remote(cell, past.get(cell.key))] = (worker, cell, time.perf_counter())
        (done, *_), _ = ray.wait(list(busy), num_returns=1)
        worker, cell, since = busy.pop(done)
        try:
            result = ray.get(done)
        except ray.exceptions.RayError as error:
            deaths += 1
            if deaths >= DEATHS:
                raise RuntimeError(f"{deaths} workers died one after the other: {error}") from error
            lost = failure(f"the worker died: {error}", time.perf_counter() - since)
            result = Result(cell.key, {"schema": SCHEMA, "key": cell.key, **cell._asdict()} | lost, None)
            idle.append(start())
        else:
            deaths = 0
            idle.append(worker)
        yield result
