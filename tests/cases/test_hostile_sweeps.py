"""Rows of the list of hostile input and faults that a sweep's folder meets."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_sweeps import same, score

from steerlens import ScriptedJudge, Sweep
from steerlens.evaluation.axbench.run_folder import begin, folder_at
from steerlens.run_folder import RunFolder


@pytest.mark.parametrize("ends", [".json", ".safetensors"])
def test_hostile_08_a_record_of_another_cell(ends: str, run: Callable[..., Sweep], tmp_path: Path) -> None:
    first = run()
    files = sorted(path for path in (tmp_path / "sweep" / "cells").glob(f"*{ends}"))
    files[1].write_bytes(files[0].read_bytes())
    judge = ScriptedJudge(score)
    assert len(Sweep.open(tmp_path / "sweep").frame) == len(first.frame) - 1
    same(run(judge=judge).frame, first.frame)
    assert len(judge.calls) == 2  # one cell of two prompts


def test_hostile_08_a_record_with_other_settings(run: Callable[..., Sweep], tmp_path: Path) -> None:
    first = run()
    path = next((tmp_path / "sweep" / "cells").glob("*.json"))
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "settings": {**record["settings"], "factor_lr": 7}}))
    assert len(Sweep.open(tmp_path / "sweep").frame) == len(first.frame) - 1


PLANNER = """
import sys, time
from pathlib import Path
from steerlens.sweeps.cell import Cell
from steerlens.sweeps.run_folder import Folder, agree
out, number = sys.argv[1:]
Path(out, f"ready-{number}").touch()
while not Path(out, "go").exists():
    time.sleep(0.001)
for turn in range(20):
    fingerprint = {"code": "x", "data": {number: "d"}, "prompts": {number: "p"}}
    agree(Folder(Path(out, "sweep")), fingerprint, [Cell(number, turn, {"layer": 1})], keep=False)
"""


def test_hostile_10_two_processes_that_plan_at_the_same_instant(tmp_path: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", PLANNER, str(tmp_path), str(number)]) for number in range(3)]
    while len(list(tmp_path.glob("ready-*"))) < 3:
        assert all(process.poll() is None for process in started)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [process.wait(60) for process in started] == [0, 0, 0]
    manifest = json.loads((tmp_path / "sweep" / "manifest.json").read_bytes())
    assert len(manifest["plan"]) == 60
    assert set(manifest["fingerprints"][-1]["data"]) == {"0", "1", "2"}


def test_hostile_17_a_clock_ahead_deletes_nothing_of_others(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "cells").mkdir()
    fresh, old = tmp_path / "cells" / ".a.json.x", tmp_path / "cells" / ".b.json.y"
    for path in (fresh, old):
        path.touch()
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    RunFolder(tmp_path, "cells").tidy("cells/*.json")
    assert fresh.exists() and not old.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells"]


@pytest.mark.parametrize("out", [None, 7, "", int])
def test_hostile_15_a_sweep_without_a_folder(out: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match="out"):
        RunFolder(out, "cells")
    assert not list(tmp_path.iterdir())


def test_hostile_17_axbench_tidies_what_was_left_long_ago(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    begin(folder, {"method": "prosv"})
    names = (".generations.parquet.a", "concepts/.3.parquet.b", "vectors/.3.safetensors.c", "vectors/.3.json.d")
    old = [tmp_path / name for name in names]
    fresh = tmp_path / "concepts" / ".4.parquet.e"
    for path in (*old, fresh):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for path in old:
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    begin(folder, {"method": "prosv"})
    assert [path for path in (*old, fresh) if path.exists()] == [fresh]
