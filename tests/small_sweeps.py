"""A small sweep: its grid, its prompts, its judges, and the comparison of two; the fixture run starts it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

import steerlens
from steerlens import Scores, TrainConfig

QUICK = TrainConfig(epochs=1, batch_size=3)
GRID = {"layer": 1, "factor_lr": [0.1, 1], "positions": ["all", "p2+s2"]}
ASKED = {"fish": ["What about fish?", "Hi"], "towns": ["Name a town.", "Why?"]}


def score(concept: str, prompt: str, response: str) -> Scores:
    """Ratings that differ from text to text."""
    return Scores(*(sum(map(ord, concept + response[start::3])) % 5 / 2 for start in range(3)))


class Line:
    """A judge that cannot be reached for some concepts, and is the same judge whether it can or not."""

    def __init__(self, *lost: str) -> None:
        self.lost, self.calls = lost, 0

    def score(self, concept: str, prompt: str, response: str) -> Scores:
        self.calls += 1
        if concept in self.lost or prompt in self.lost:
            raise ConnectionError("no answer")
        return score(concept, prompt, response)


def same(a: pd.DataFrame, b: pd.DataFrame, without: tuple[str, ...] = ("seconds",)) -> None:
    pd.testing.assert_frame_equal(
        a.drop(columns=list(without), errors="ignore"), b.drop(columns=list(without), errors="ignore")
    )


def stored(folder: Path) -> dict[str, Any]:
    """What a directory of cells holds, apart from how long it took."""
    found: dict[str, Any] = {}
    for path in (folder / "cells").glob("[!.]*.safetensors"):  # the bytes differ: safetensors writes its header in any order
        sv = steerlens.SteeringVector.load(path)
        assert sv.history is not None
        found[path.name] = (sv, sv.direction.tolist(), sv.factor, dict(sv.provenance), sv.history.to_dict("list"))
    for path in (folder / "cells").glob("[!.]*.json"):
        found[path.name] = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "seconds"}
    return found
