"""What importing costs and loads, in fresh processes, and the public names."""

import inspect
import json
import pydoc
import statistics
import subprocess
import sys
import time
from typing import Any

import pytest

import steerlens


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def loaded_after(code: str) -> set[str]:
    return set(json.loads(run("-c", f"{code}; import sys, json; print(json.dumps(sorted(sys.modules)))")))


HEAVY = {"transformer_lens", "transformers", "plotly", "circuitsvis", "pandas", "datasets", "ray"}


def test_importing_loads_nothing_heavy() -> None:
    assert "torch" in loaded_after("import torch")
    assert not loaded_after("import steerlens") & HEAVY
    assert not loaded_after("import steerlens.cli") & (HEAVY | {"torch"})


def test_using_the_core_loads_no_model_library() -> None:
    names = "SteeringVector, TrainConfig, train, steer, generate, evaluate, audit"
    assert not loaded_after(f"from steerlens import {names}") & {"transformer_lens", "plotly", "circuitsvis"}


@pytest.mark.slow
def test_importing_costs_little_more_than_torch() -> None:
    """Taken in turns, so that both see the same machine."""
    torch_alone, with_steerlens = [], []
    for _ in range(3):
        torch_alone.append(seconds("-c", "import torch"))
        with_steerlens.append(seconds("-c", "import torch, steerlens"))
    assert statistics.median(with_steerlens) - statistics.median(torch_alone) < 0.3


def test_help_answers_at_once() -> None:
    assert statistics.median(seconds("-m", "steerlens.cli", "--help") for _ in range(3)) < 1
    assert "train" in run("-m", "steerlens.cli", "--help")


def test_public_names_resolve() -> None:
    assert len(set(steerlens.__all__)) == len(steerlens.__all__)
    for name in (*steerlens.__all__, *steerlens.UNLISTED):
        assert getattr(steerlens, name) is not None
    assert set(dir(steerlens)) == set(steerlens.__all__)
    with pytest.raises(AttributeError, match="module 'steerlens' has no attribute 'trian'"):
        steerlens.trian  # noqa: B018


def test_what_is_listed_is_what_people_type() -> None:
    """The verbs first; the classes of results and a judge's questions stay importable, and out of the way."""
    verbs = [name for name in steerlens.__all__[1:] if name.islower()]
    assert steerlens.__all__[1 : len(verbs) + 1] == verbs == sorted(verbs)
    typed = {"accuracy", "load_sae", "forbid", "train_layers", "extract_layers", "DataError", "TrainingError", "Step"}
    assert typed <= set(dir(steerlens))
    assert not steerlens.UNLISTED & set(dir(steerlens))
    from steerlens import BatchJudge, Question, Verdict

    assert Question is steerlens.judges.base.Question and Verdict and BatchJudge  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", ["train", "train_layers", "train_many", "extract", "extract_layers"])
def test_help_shows_every_keyword(name: str) -> None:
    """And no keyword is without a type."""
    parameters = dict(inspect.signature(getattr(steerlens, name)).parameters)
    assert not [parameter for parameter in parameters.values() if parameter.kind is parameter.VAR_KEYWORD]
    keywords = {key: value for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert {"layers" if name.endswith("layers") else "layer", "positions", "factor", "batch_size"} <= set(keywords)
    assert all(value.annotation not in (value.empty, Any) for value in keywords.values())
    text = pydoc.plain(pydoc.render_doc(getattr(steerlens, name)))
    assert f"{name}(model: " in text and "positions: str | " in text
