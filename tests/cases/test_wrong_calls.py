"""Every public function, called with wrong values in place of its model, vector, data and so on, says what is wrong."""

import math
from collections.abc import Callable
from typing import Any

import torch
from unchecked import without_type_checks

import steerlens
from steerlens import SteeringError

WRONG: dict[str, Any] = {
    "None": None, "7": 7, "-1": -1, "1.5": 1.5, "nan": math.nan, "[]": [], "[7]": [7], "''": "", "{}": {}, "class": int,
    "function": len, "object": object(),
}  # fmt: skip
ARGUMENTS: dict[str, set[str]] = {
    "model": {*WRONG},
    "sv": {*WRONG} - {"None", "[]"},
    "steer": {*WRONG} - {"None", "[]"},
    "data": {*WRONG},
    "prompts": {*WRONG} - {"''"},
    "examples": {*WRONG},
    "layer": {*WRONG} - {"7"} | {"99"},
    "layers": {*WRONG} - {"[7]", "None"},
    "positions": {*WRONG} - {"function", "class"},
    "seed": {"None", "1.5", "nan", "[]", "''", "{}", "class", "function", "object"},
    "batch_size": {*WRONG} - {"7"},
    "max_new_tokens": {*WRONG} - {"7"},
    "judge": {*WRONG},
    "out": {*WRONG} - {"''"},
    "datasets": {*WRONG},
    "grid": {*WRONG},
}
"""Argument -> which values are wrong for it."""
ALLOWED = (ValueError, TypeError, SteeringError, OSError)
NOT_ALLOWED = (AssertionError, UnboundLocalError)
KNOWN: set[str] = set()
"""Calls whose answer is not clear yet."""


def calls() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Name -> function and arguments that it can be called with."""
    model = steerlens.load_model("terrarium")
    data = steerlens.SteeringData([{"prompt": "Hi", "response": "Sea."}, {"prompt": "Ho", "response": "Sea!"}], concept="sea")
    ones = torch.ones(model.cfg.d_model)
    sv = steerlens.from_direction(model, ones, layer=1, factor=1.0)
    quick = {"seed": 0, "config": steerlens.TrainConfig(epochs=1, batch_size=2), "progress": False}
    judge, few = steerlens.ScriptedJudge(lambda *texts: steerlens.Scores(1.0, 1.0, 1.0)), {"max_new_tokens": 2}
    s: Any = steerlens
    return {
        "generate": (s.generate, {"model": model, "prompts": ["Hi"], "steer": sv, "seed": 0, "batch_size": 1} | few),
        "steer": (lambda **given: s.steer(**given).__enter__(), {"model": model, "sv": sv}),
        "train": (s.train, {"model": model, "data": data, "layer": 1, "positions": "p1"} | quick),
        "train_layers": (s.train_layers, {"model": model, "data": data, "layers": [1]} | quick),
        "train_many": (s.train_many, {"model": model, "datasets": {"sea": data}, "layer": 1} | quick),
        "extract": (s.extract, {"model": model, "data": data, "layer": 1}),
        "extract_layers": (s.extract_layers, {"model": model, "data": data, "layers": [1]}),
        "from_direction": (s.from_direction, {"model": model, "direction": ones, "layer": 1, "factor": 1.0}),
        "evaluate": (s.evaluate, {"model": model, "sv": sv, "concept": "sea", "prompts": ["Hi"], "judge": judge} | few),
        "audit": (s.audit, {"model": model, "steer": sv, "prompts": ["Hi"]} | few),
        "collect": (s.collect, {"model": model, "data": ["Hi"], "layers": [1]}),
        "mean_kl": (s.mean_kl, {"model": model, "sv": sv, "prompts": ["Hi"]} | few),
        "calibrate": (s.calibrate, {"model": model, "sv": sv, "prompts": ["Hi"], "kl": 0.01} | few),
        "loss": (s.loss, {"model": model, "sv": sv, "data": data}),
        "accuracy": (s.accuracy, {"model": model, "sv": sv, "questions": s.terrarium.utility_questions(2)} | few),
        "side_effects": (s.side_effects, {"model": model, "sv": sv, "prompts": ["Hi"]} | few),
        "SteeringVector": (s.SteeringVector, {"direction": [1.0], "factor": 1.0, "layer": 1, "positions": "all"}),
        "SteeringData": (s.SteeringData, {"examples": [{"prompt": "a", "response": "b"}]}),
    }  # fmt: skip


def answers() -> list[str]:
    """What is not clear, one line each; run without the tests' type checks, as users run it."""
    values = WRONG | {"99": 99}
    found = []
    for name, (function, given) in calls().items():
        for argument, wrong in ARGUMENTS.items():
            if argument not in given:
                continue
            for text in sorted(wrong):
                if (name, text) == ("SteeringVector", "99"):  # without a model any layer is one
                    continue
                if problem := _problem(function, given | {argument: values[text]}):
                    found.append(f"{name}({argument}={text}): {problem}")
    return found


def _problem(function: Callable[..., Any], given: dict[str, Any]) -> str | None:
    try:
        function(**given)
    except Exception as error:
        bad = isinstance(error, NOT_ALLOWED) or not isinstance(error, ALLOWED) or "unexpected keyword" in str(error)
        unclear = len(str(error)) < 15 or "object is not" in str(error)
        return f"{type(error).__name__}: {error}"[:150] if bad or unclear else None
    return "silent"


def test_wrong_calls_are_answered() -> None:
    unclear = without_type_checks("test_wrong_calls", "answers")
    assert [line for line in unclear if line.partition("): ")[0] + ")" not in KNOWN] == []
