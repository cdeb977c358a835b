"""A sweep that is killed again and again, and the same sweep undisturbed; a process of its own, started by test_sweep_resuming.

    python tests/killed.py FOLDER KILLS SEED        prints a report as JSON

Everything is imported and the model booted once; each attempt is a fork, so that a kill costs no start.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from tiny import make_bench

import steerlens
from steerlens import Scores, ScriptedJudge, TrainConfig
from steerlens.sweeps.run_folder import code_hash

TEXTS = ("It is the air, the air!", "Rome", "Fish; and then some more fish.", "Good day to you.", "Seven or so")
CONCEPTS = ("fish", "towns", "air", "numbers")
GRID = {"layer": [1, 2], "positions": ["all", "p2+s2"], "factor_lr": [0.1, 1]}
SEEDS = (1, 2)
MOMENTS = ("any", "working", "writing")


def score(concept: str, prompt: str, response: str) -> Scores:
    """Numbers that differ from text to text; some responses are left unscored."""
    numbers = [sum(map(ord, concept + response[start::3])) % 5 / 2 for start in range(3)]
    return Scores(numbers[0] if sum(map(ord, response)) % 3 else None, numbers[1], numbers[2])


def run(model: Any, out: Path) -> None:
    data = {name: steerlens.SteeringData([{"prompt": f"Say {name} {i}.", "response": text} for i, text in enumerate(TEXTS)])
            for name in CONCEPTS}  # fmt: skip
    prompts = {name: [f"What about {name}?", "Hi"] for name in CONCEPTS}
    config = TrainConfig(epochs=1, batch_size=3)
    settings = {"seeds": SEEDS, "config": config, "max_new_tokens": 4, "progress": False}
    steerlens.sweep(model, data, GRID, ScriptedJudge(score), out, prompts=prompts, **settings)


def attempt(model: Any, out: Path) -> int:
    """Start the sweep in a fork."""
    child = os.fork()
    if child == 0:
        try:
            run(model, out)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child


def finished(out: Path) -> dict[str, int]:
    """Finished cells and when they were written, each checked to be whole."""
    times = {}
    for path in (out / "cells").glob("[!.]*.json"):
        assert json.loads(path.read_bytes())["error"] is None
        steerlens.SteeringVector.load(path.with_suffix(".safetensors"))
        times[path.stem] = path.stat().st_mtime_ns
    return times


def kill_at(child: int, out: Path, moment: str, further: int, delay: float) -> bool:
    """Kill the fork; was it still running?

    Moments: "any" = so many seconds after its start; "working" = so many seconds after it has begun with the cells and finished
    so many further ones; "writing" = after that too, and at the first sight of a half-written file.
    """
    begun, before = _written(out), _count(out)

    def seen(condition: Callable[[], bool], pause: float) -> bool:
        while not condition():
            if os.waitpid(child, os.WNOHANG)[0] != 0:
                return False
            time.sleep(pause)
        return True

    alive = moment == "any" or seen(lambda: _written(out) != begun and _count(out) >= before + further, 0.001)
    time.sleep(delay)
    if not alive or (moment == "writing" and not seen(lambda: bool(list((out / "cells").glob(".*"))), 0)):
        return False
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def _written(out: Path) -> int:
    """When the manifest was written last: every attempt does so before its first cell."""
    path = out / "manifest.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def _count(out: Path) -> int:
    return len(list((out / "cells").glob("[!.]*.json")))


def main() -> None:
    folder, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), Random(int(sys.argv[3]))
    torch.set_num_threads(1)
    code_hash()  # once, for all forks
    model = make_bench("gemma2", folder / "model").model
    start = time.perf_counter()
    whole, child = folder / "whole", attempt(model, folder / "whole")
    assert os.waitpid(child, 0)[1] == 0
    one = (time.perf_counter() - start) / len(finished(whole))
    killed, seen, counts = folder / "killed", {}, []
    (killed / "cells").mkdir(parents=True)
    for number in range(kills):
        child = attempt(model, killed)
        if not kill_at(child, killed, MOMENTS[number % 3], rng.choice((0, 1, 2)), rng.uniform(0, 2 * one)):
            break
        now = finished(killed)
        lost = [key for key, when in seen.items() if now.get(key) != when]
        assert not lost, f"lost or done again: {lost}"
        seen |= now
        counts.append(len(now))
    leftovers = len(list((killed / "cells").glob(".*")))
    child = attempt(model, killed)
    assert os.waitpid(child, 0)[1] == 0
    again = [key for key, when in seen.items() if finished(killed)[key] != when]
    print(json.dumps({"kills": len(counts), "counts": counts, "leftovers": leftovers, "again": again, "seconds_per_cell": one}))


if __name__ == "__main__":
    main()
