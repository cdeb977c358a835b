"""Every public function, called with wrong values in place of its model, vector, data and so on, says what is wrong."""

import inspect
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from unchecked import without_type_checks

import steerlens
from steerlens import SteeringError

WRONG: dict[str, Any] = {
    "None": None, "7": 7, "-1": -1, "1.5": 1.5, "nan": math.nan, "[]": [], "[7]": [7], "''": "", "{}": {}, "class": int,
    "function": len, "object": object(),
}  # fmt: skip
NUMBERS = {"7", "-1", "1.5"}
NOT_NUMBERS = {*WRONG} - NUMBERS
ARGUMENTS: dict[str, set[str]] = {
    "model": {*WRONG},
    "sv": {*WRONG} - {"None", "[]"},
    "steer": {*WRONG} - {"None", "[]"},
    "data": {*WRONG},
    "prompts": {*WRONG} - {"''"},
    "prompt": {*WRONG} - {"''"},
    "texts": {*WRONG} - {"''"},
    "responses": {*WRONG} - {"None"},
    "response": {*WRONG} - {"None"},
    "attacked": {*WRONG} - {"None"},
    "questions": {*WRONG},
    "examples": {*WRONG},
    "layer": {*WRONG} - {"7"} | {"99"},
    "layers": {*WRONG} - {"[7]", "None"},
    "positions": {*WRONG} - {"function", "class"},
    "seed": NOT_NUMBERS | {"1.5"},
    "seeds": {*WRONG} - {"[7]"},
    "batch_size": {*WRONG} - {"7"},
    "max_new_tokens": {*WRONG} - {"7"},
    "temperature": NOT_NUMBERS | {"-1"},
    "factor": NOT_NUMBERS - {"None"},
    "kl": NOT_NUMBERS | {"-1"},
    "factors": {*WRONG} - {"[7]"},
    "scales": {*WRONG} - {"[7]"},
    "judge": {*WRONG},
    "concept": {*WRONG} - {"''"},
    "instruction": {*WRONG} - {"''"},
    "out": {*WRONG},
    "path": {*WRONG} - {"''"},
    "directory": {*WRONG} - {"''"},
    "name_or_path": {*WRONG},
    "dtype": {*WRONG} - {"None"},
    "datasets": {*WRONG},
    "grid": {*WRONG},
    "vectors": {*WRONG},
    "vectors_by_seed": {*WRONG},
    "direction": {*WRONG},
    "sae": {*WRONG},
    "source": {*WRONG},
    "feature": {*WRONG} - {"7"} | {"99"},
    "statistics": {*WRONG} - {"None"},
    "tasks": {*WRONG},
    "what": {*WRONG},
    "held_out": {*WRONG},
    "widths": {*WRONG},
    "steps": {*WRONG} - {"7"},
    "top": {*WRONG} - {"7"},
    "k": {*WRONG} - {"7"},
    "ks": {*WRONG} - {"[7]"},
    "n_random": {*WRONG} - {"7"},
    "splits": {*WRONG} - {"7"},
    "scale": NOT_NUMBERS,
    "prompt_lengths": {*WRONG} - {"None", "[7]"},
    "limit": {*WRONG} - {"None", "7"},
    "template_args": {*WRONG} - {"None", "{}", "[]"},
    "gguf_file": {*WRONG} - {"None"},
    "config": {*WRONG} - {"None"},
    "epochs": {*WRONG} - {"7"},
    "title": {*WRONG} - {"None", "''"},
    "utility": {*WRONG} - {"function", "class"},
    "score": {*WRONG} - {"function", "class"},
    "concepts": {*WRONG} - {"None"},
    "instructions": {*WRONG} - {"None"},
}
"""Argument -> which values are wrong for it, in every function that does not say otherwise."""
RIGHT: dict[str, set[str]] = {
    "generate(seed)": {"[7]"},
    "evaluate(seed)": {"[7]"},
    **{
        f"{name}(batch_size)": {"None"}
        for name in ("generate", "evaluate", "axbench", "select_factor", "select_factors", "suppression")
    },
    "explain_speed(layer)": {"None"},
    "with_neutral(batch_size)": {"None"},
    "from_direction(concept)": {"None"},
    "SteeringData(concept)": {"None"},
    "sae_direction(feature)": {"99"},
    "SteeringVector(layer)": {"99"},
    "SteeringVector(direction)": {"[7]"},
    "suppression(attacked)": {"class", "function"},
    "sweep(prompts)": {"class", "function"},
    "axbench(prompts)": {"None"},
    "axbench(out)": {"None"},
    "report(prompts)": {"None"},
    "report(sae)": {"None"},
    "token_effects(response)": {"''"},
    "attention_effects(responses)": {"''"},
    "feature_effects(responses)": {"''"},
}
"""Function(argument) -> which of these values it can be called with after all, or of functions fail as the user's own."""
ALLOWED = (ValueError, TypeError, SteeringError, OSError)
NOT_ALLOWED = (AssertionError, UnboundLocalError)
KNOWN: set[str] = set()
"""Calls whose answer is not clear yet."""


Calls = dict[str, tuple[Callable[..., Any], dict[str, Any]]]


def calls() -> Calls:
    """Name -> function and arguments that it can be called with; those without a default are all there."""
    model = steerlens.load_model("terrarium")
    data = steerlens.SteeringData([{"prompt": "Hi", "response": "Sea."}, {"prompt": "Ho", "response": "Sea!"}], concept="sea")
    sv = steerlens.from_direction(model, torch.ones(model.cfg.d_model), layer=1, factor=1.0)
    return _making(model, data, sv) | _measuring(model, data, sv) | _looking(model, sv)


def _making(model: Any, data: Any, sv: Any) -> Calls:
    s: Any = steerlens
    quick = {"seed": 0, "config": s.TrainConfig(epochs=1, batch_size=2), "progress": False}
    few = {"max_new_tokens": 2}
    generated = few | {"temperature": 1.0, "seed": 0, "batch_size": 1, "template_args": None}
    return {
        "generate": (s.generate, {"model": model, "prompts": ["Hi"], "steer": sv} | generated),
        "with_neutral": (s.with_neutral, {"model": model, "data": data} | generated),
        "steer": (lambda **given: s.steer(**given).__enter__(), {"model": model, "sv": sv, "scale": 1, "prompt_lengths": None}),
        "hook": (s.hook, {"sv": sv}),
        "train": (s.train, {"model": model, "data": data, "layer": 1, "template_args": None, "positions": "p1"} | quick),
        "train_layers": (s.train_layers, {"model": model, "data": data, "layers": [1]} | quick),
        "train_many": (s.train_many, {"model": model, "datasets": {"sea": data}, "layer": 1} | quick),
        "extract": (s.extract, {"model": model, "data": data, "layer": 1, "batch_size": 2}),
        "extract_layers": (s.extract_layers, {"model": model, "data": data, "layers": [1]}),
        "from_direction": (
            s.from_direction,
            {"model": model, "direction": sv.direction, "layer": 1, "factor": 1.0, "concept": "sea"},
        ),
        "sae_direction": (s.sae_direction, {"sae": s.load_sae("terrarium"), "feature": 1}),
        "SteeringVector": (s.SteeringVector, {"direction": [1.0], "factor": 1.0, "layer": 1, "positions": "all"}),
        "SteeringData": (s.SteeringData, {"examples": [{"prompt": "a", "response": "b"}], "concept": "sea"}),
        "audit": (s.audit, {"model": model, "steer": sv, "prompts": ["Hi"]} | few),
        "collect": (s.collect, {"model": model, "data": ["Hi"], "layers": [1], "batch_size": 2}),
        "loss": (s.loss, {"model": model, "sv": sv, "data": data, "batch_size": 2}),
        "load_model": (s.load_model, {"name_or_path": "terrarium", "dtype": None, "gguf_file": None, "template_args": None}),
        "explain_speed": (s.explain_speed, {"model": model, "layer": 1}),
        "load_sae": (s.load_sae, {"source": "terrarium"}),
        "forbid": (s.forbid, {"concept": "sea", "instruction": "Hi"}),
        "read_axbench": (s.read_axbench, {"directory": "folder"}),
        "read_suppression": (s.read_suppression, {"path": "file.csv"}),
        "SteeringVector.load": (s.SteeringVector.load, {"path": "file.safetensors"}),
        "Sweep.open": (s.Sweep.open, {"out": "folder"}),
        "AxBenchResult.open": (s.AxBenchResult.open, {"out": "folder"}),
    }


def _measuring(model: Any, data: Any, sv: Any) -> Calls:
    s: Any = steerlens
    judge = s.ScriptedJudge(lambda *texts: s.Scores(1.0, 1.0, 1.0))
    few = {"max_new_tokens": 2, "batch_size": 2}
    sampled = few | {"seed": 0, "temperature": 1.0}
    quick = {"config": s.TrainConfig(epochs=1, batch_size=2), "progress": False}
    judged = {"model": model, "prompts": ["Hi"], "judge": judge} | sampled
    attacked = {"concept": "sea", "attacked": ["Hi, no sea."], "scales": [1]}
    swept = {
        "model": model,
        "datasets": {"sea": data},
        "grid": {"layer": 1},
        "prompts": {"sea": ["Hi"]},
        "out": "run",
        "seeds": [7],
    }
    measured = {"utility": lambda *_: 1.0, "concept": "sea", "prompts": ["Hi"], "scales": [1], "score": judge}
    axbench = {
        "model": model,
        "data": {"sea": data},
        "prompts": {"sea": ["Hi"]},
        "concepts": None,
        "method": "prosv",
        "layer": 1,
    }
    return {
        "evaluate": (s.evaluate, judged | {"sv": sv, "template_args": None, "concept": "sea"}),
        "mean_kl": (s.mean_kl, {"model": model, "sv": sv, "prompts": ["Hi"], "responses": None} | few),
        "calibrate": (s.calibrate, {"model": model, "sv": sv, "prompts": ["Hi"], "kl": 0.01} | few),
        "accuracy": (s.accuracy, {"model": model, "sv": sv, "questions": s.terrarium.utility_questions(2)} | few),
        "side_effects": (s.side_effects, {"model": model, "sv": sv, "prompts": ["Hi"], "scales": [1]} | few),
        "select_factor": (s.select_factor, judged | {"sv": sv, "concept": "sea", "factors": [1.0], "splits": 2}),
        "select_factors": (s.select_factors, judged | {"vectors": {"sea": sv}, "prompts": {"sea": ["Hi"]}, "factors": [1.0]}),
        "scan_layers": (
            s.scan_layers,
            {
                "model": model,
                "data": data,
                "layers": [1],
                "held_out": 0.5,
                "seed": 0,
                "positions": "p1",
                "prompts": ["Hi"],
                "judge": judge,
                "max_new_tokens": 2,
                "temperature": 1.0,
            }
            | quick,
        ),
        "frontier": (s.frontier, {"model": model, "vectors": {"a": sv}} | measured | sampled),
        "harness_scores": (
            s.harness_scores,
            {"model": model, "sv": sv, "tasks": {"task": "x"}, "limit": 1, "batch_size": 2, "seed": 0},
        ),
        "suppression": (s.suppression, judged | {"sv": sv} | attacked),
        "sweep": (s.sweep, swept | {"judge": judge} | few | {"temperature": 1.0} | quick),
        "axbench": (s.axbench, axbench | {"judge": judge, "out": "run"} | sampled | quick),
    }


def _looking(model: Any, sv: Any) -> Calls:
    s: Any = steerlens
    a = s.analysis
    few = {"max_new_tokens": 2, "batch_size": 2}
    sae, asked = a.load_sae("terrarium"), {"model": model, "sv": sv, "prompts": ["Hi"]}
    inside = sv.replace(layer=sae.layer)
    return {
        "explore": (s.explore, {"model": model, "sv": sv, "prompt": "Hi", "max_new_tokens": 2, "temperature": 0.0, "seed": 0}),
        "report": (
            s.report,
            {
                "what": sv,
                "path": "page.html",
                "model": model,
                "prompts": ["Hi"],
                "sae": sae,
                "title": None,
                "statistics": None,
                "max_new_tokens": 2,
                "seed": 0,
            },
        ),
        "token_effects": (a.token_effects, {"model": model, "sv": sv, "prompt": "Hi", "response": None, "top": 2} | few),
        "position_effects": (a.position_effects, asked | {"responses": None, "seed": 0} | few),
        "drift": (a.drift, asked | {"seed": 0} | few),
        "attention_effects": (a.attention_effects, asked | {"responses": None, "layers": [1], "seed": 0} | few),
        "compare_to_sae": (a.compare_to_sae, {"sv": inside, "sae": sae, "statistics": None, "k": 2, "n_random": 7, "seed": 0}),
        "feature_effects": (a.feature_effects, asked | {"sv": inside, "sae": sae, "responses": None, "top": 2} | few),
        "effect_recovery": (
            a.effect_recovery,
            asked | {"sv": inside, "sae": sae, "responses": None, "ks": [1], "n_random": 7, "seed": 0} | few,
        ),
        "readout": (a.readout, {"model": model, "sv": sv, "k": 2, "statistics": None, "n_random": 7, "seed": 0}),
        "residual_statistics": (
            a.residual_statistics,
            {"model": model, "texts": ["Hi there"] * 3, "layer": 1, "responses": None, "batch_size": 2},
        ),
        "cosine_map": (a.cosine_map, {"vectors": {"a": sv, "b": -sv}, "statistics": None, "n_random": 7, "seed": 0}),
        "stability": (a.stability, {"vectors_by_seed": {1: sv, 2: -sv}, "statistics": None, "n_random": 7, "seed": 0}),
        "sizes": (a.sizes, {"vectors": sv, "statistics": None, "seed": 0}),
        "dynamics": (a.dynamics, {"vectors": sv}),
        "coordinate_check": (a.coordinate_check, {"widths": [64], "steps": 7, "positions": "p1", "seeds": [7]}),
    }


def test_every_public_function_is_called() -> None:
    called = {name for name in calls() if "." not in name}
    public = {name for name in steerlens.__all__ if inspect.isfunction(getattr(steerlens, name))}
    public |= {name for name in steerlens.analysis.__all__ if inspect.isfunction(getattr(steerlens.analysis, name))}
    assert public <= called


def answers() -> list[str]:
    """What is not clear, one line each; run without the tests' type checks, as users run it."""
    values = WRONG | {"99": 99}
    found = []
    for name, (function, given) in calls().items():
        for argument, wrong in ARGUMENTS.items():
            if argument not in given:
                continue
            for text in sorted(wrong - RIGHT.get(f"{name}({argument})", set())):
                with _watched() as seen:
                    problem = _problem(function, given | {argument: values[text]})
                if problem := problem or "; ".join(seen):
                    found.append(f"{name}({argument}={text}): {problem}")
    return found


@contextmanager
def _watched() -> Iterator[list[str]]:
    """In an empty folder: what was done before the answer came, a pass of a model or a file."""
    seen: list[str] = []
    counted = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: seen.append("a pass") if not seen else None)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        yield seen
        seen += [f"made {path.name}" for path in Path(folder).rglob("*")]
    counted.remove()


UNCLEAR = ("object is not", "not supported between", "cannot be interpreted", "unsupported operand", "has no attribute",
           "must be real number", "invalid literal", "has no len", "unhashable", "expected str", "argument must be",
           "arguments", "got an unexpected", "positional", "a string or")  # fmt: skip


def _problem(function: Callable[..., Any], given: dict[str, Any]) -> str | None:
    try:
        function(**given)
    except Exception as error:
        bad = isinstance(error, NOT_ALLOWED) or not isinstance(error, ALLOWED) or "unexpected keyword" in str(error)
        unclear = len(str(error)) < 15 or any(words in str(error) for words in UNCLEAR)
        return f"{type(error).__name__}: {error}"[:150] if bad or unclear else None
    return "silent"


def test_wrong_calls_are_answered() -> None:
    unclear = without_type_checks("test_wrong_calls", "answers")
    assert [line for line in unclear if line.partition("): ")[0] + ")" not in KNOWN] == []


@pytest.mark.parametrize("lengths", [[1.5], [math.nan], ["1"], [True], [None], [], [0], 1, "12", {1: 2}])
def test_hostile_15_prompt_lengths_that_are_no_whole_numbers(lengths: Any, model: Any, make_vector: Any) -> None:
    with (
        pytest.raises((TypeError, ValueError), match="prompt_lengths"),
        steerlens.steer(model, make_vector(), prompt_lengths=lengths),
    ):
        pass


@pytest.mark.parametrize("out", [None, 7, [], {}])
def test_hostile_15_a_run_without_a_folder_makes_none(out: Any, datasets: Any, model: Any, tmp_path: Path) -> None:
    prompts = {name: ["Hi"] for name in datasets}
    with chdir(tmp_path):
        judge = steerlens.ScriptedJudge([])
        with pytest.raises(TypeError, match="out is"):
            steerlens.sweep(model, datasets, {"layer": 1}, judge, out, prompts=prompts)
        if out is not None:
            with pytest.raises(TypeError, match="out is"):
                steerlens.axbench(model, datasets, judge=judge, layer=1, prompts=prompts, out=out)
    assert not list(tmp_path.iterdir())
