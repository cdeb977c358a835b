"""The benchmarks of speed and memory run, and their sides give the same; what they take is nobody's business here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What benchmarks/gpu.sh writes of a tiny model on the CPU, by file."""
    out = tmp_path_factory.mktemp("out")
    told = {
        "OUT": str(out),
        "DEVICE": "cpu",
        "SHAPE": "tiny",
        "REPEATS": "1",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh")]
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*.json")}


@pytest.mark.slow
def test_every_side_gives_the_same(written: dict[str, dict[str, Any]]) -> None:
    assert set(written) == {"memory", "speed"}
    for name, n in (("memory", 3), ("speed", 17)):
        checks = written[name]["checks"]
        assert len(checks) >= n
        assert [check for check in checks if check["required"] and not check["holds"]] == []


@pytest.mark.slow
def test_every_measure_is_written(written: dict[str, dict[str, Any]]) -> None:
    for result in written.values():
        assert set(result) == {"machine", "settings", "sides", "ratios", "checks", "skipped"}
        assert {"device", "cores", "threads", "packages", "date"} <= set(result["machine"])
        assert {"torch", "transformers", "transformer-lens"} <= set(result["machine"]["packages"])
        for ratio in result["ratios"]:
            assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
            assert ratio["target"] is ratio["met"] is None  # targets are of the other shapes
    assert set(written["speed"]["sides"]) == {"step", "concepts", "generation", "evaluation", "terrarium"}
    assert set(written["memory"]["sides"]) == {"memory", "memory by concepts"}
    assert "plain passes" in written["speed"]["settings"]["path"]


@pytest.mark.slow
def test_the_table_of_machines_has_every_ratio(written: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.json" for name in written]
    for path in files:
        path.write_text(json.dumps(written[path.stem]), encoding="utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "machines.py"), *map(str, files)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 2 + sum(len(result["ratios"]) for result in written.values())
    assert all(line.count("|") == 4 for line in lines)  # measure, against, one machine
    assert not any("not measured" in line for line in lines)
