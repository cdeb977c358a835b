"""Sweeps elsewhere: on other file systems, by workers and on Ray, all with the same numbers."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_sweeps import same, score, stored

from steerlens import ScriptedJudge, Sweep
from steerlens.sweeps import cell as cells
from steerlens.sweeps import executors as pools


def test_a_sweep_may_lie_on_any_file_system(run: Callable[..., Sweep]) -> None:
    pytest.importorskip("fsspec")
    here, there = run("here"), run("memory://steerlens-sweep")
    same(here.frame, there.frame)
    key = here.frame["key"].iloc[0]
    assert here.vector(key) == there.vector(key)
    judge = ScriptedJudge(score)
    same(run("memory://steerlens-sweep", judge=judge).frame, there.frame, without=())
    assert not judge.calls
    assert Sweep.open("memory://steerlens-sweep").summary() == here.summary()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        there.vector("no-such-cell")


def test_model_and_judge_may_be_made_by_functions(run: Callable[..., Sweep], model: Any) -> None:
    same(run("made", model=lambda: model, judge=lambda: ScriptedJudge(score)).frame, run("given").frame)
    with pytest.raises(TypeError, match="the judge is int"):
        run("third", judge=lambda: 3)


def test_a_loaded_model_is_not_sent_to_workers(run: Callable[..., Sweep]) -> None:
    with pytest.raises(TypeError, match="loads the model in each worker: give a name, a path, or a function"):
        run(executor="ray")


def test_more_workers_than_the_cluster_has_room_for_are_refused() -> None:
    has = {"CPU": 4.0, "GPU": 1.0}
    assert pools._count(has, pools.Workers(None, 1, 0)) == 4
    assert pools._count(has, pools.Workers(None, 2, 0.25)) == 2
    assert pools._count(has, pools.Workers(3, 1, 0.25)) == 3
    with pytest.raises(ValueError, match=r"2 workers of 1 CPUs and 1 GPUs each do not fit .* has 4 CPUs and 1 GPUs"):
        pools._count(has, pools.Workers(2, 1, 1))


def test_a_worker_that_dies_costs_its_cell_and_is_replaced() -> None:
    class Died(Exception):
        pass

    class Reference:
        def __init__(self, outcome: Any) -> None:
            self.outcome = outcome

    def worker(*deadly: str) -> Any:
        def remote(cell: cells.Cell, past: Any) -> Any:
            outcome = Died("killed by signal 9") if cell.concept in deadly else cells.Result(cell.key, {"error": None}, None)
            return Reference(outcome)

        return SimpleNamespace(run=SimpleNamespace(remote=remote))

    def get(done: Any) -> Any:
        if isinstance(done.outcome, Died):
            raise done.outcome
        return done.outcome

    def wait(refs: list[Any], num_returns: int) -> Any:
        return refs[:num_returns], refs[num_returns:]

    ray = SimpleNamespace(wait=wait, get=get, exceptions=SimpleNamespace(RayError=Died))
    todo = [cells.Cell(concept, 1, {"layer": 1}) for concept in "abcde"]
    started: list[Any] = []

    def start() -> Any:
        started.append(worker("b"))
        return started[-1]

    found = {result.key: result.record["error"] for result in pools._results(ray, [worker("b", "c")], start, todo, {})}
    assert set(found) == {cell.key for cell in todo}
    assert [error for error in found.values() if error] == ["the worker died: killed by signal 9"]
    assert len(started) == 1
    with pytest.raises(RuntimeError, match="3 workers died one after the other: killed by signal 9"):
        list(pools._results(ray, [worker(*"abcde")], lambda: worker(*"abcde"), todo, {}))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_numbers(run: Callable[..., Sweep], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from tiny import make_hf, save_tokenizer

    folder = str(tmp_path / "model")
    make_hf("gemma2").save_pretrained(folder)
    save_tokenizer(Path(folder))

    def judge() -> Any:
        from steerlens import Scores, ScriptedJudge

        def rate(concept: str, prompt: str, response: str) -> Scores:
            return Scores(*(sum(map(ord, concept + response[start::3])) % 5 / 2 for start in range(3)))

        return ScriptedJudge(rate)

    settings = {"model": folder, "judge": judge, "seeds": (7, 8)}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        there = run("ray", executor="ray", n_workers=2, **settings)
        assert ray.is_initialized()  # the user's cluster is left alone
    finally:
        ray.shutdown()
    here = run("local", **settings)
    assert len(here.frame) == 16
    assert here.failed.empty
    same(there.frame, here.frame)
    same(there.generations, here.generations)
    assert stored(tmp_path / "ray") == stored(tmp_path / "local")
    more = run("ray", executor="ray", n_workers=1, **(settings | {"seeds": (7, 8, 9)}))  # goes on, on a cluster of its own
    assert len(more.frame) == 24
    assert not ray.is_initialized()
