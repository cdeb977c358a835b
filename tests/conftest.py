"""Shared models and data. steerlens is imported inside fixtures, after jaxtyping's import hook is in place."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
import typecheck
from tiny import ARCHITECTURES, MARKS, WIDTH, Bench, make_bench

jaxtyping.jaxtyped = typecheck.jaxtyped  # before steerlens is imported

# these models are too small for a second thread to pay, and two threads on a busy core wait for each other
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start, notebooks among them

PROMPTS = (
    "Why is the sky blue?",
    "Name a town.",
    "Tell me, please, in a few words, what cats eat on Sundays.",
    "Hi",
    "x + y = ?",
)
RESPONSES = ("It is the air, the air!", "Rome", "Fish; and then some more fish.", "Good day to you.", "Seven or so")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, notebooks before all: of two processes none is left with a long one at the end."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, "notebook_runs" not in item.name))


@pytest.fixture(scope="session")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    """architecture -> its bench, made once."""
    made: dict[tuple[str, bool], Bench] = {}

    def get(architecture: str, template: bool = True) -> Bench:
        key = (architecture, template)
        if key not in made:
            made[key] = make_bench(architecture, tmp_path_factory.mktemp(architecture), template=template)
        return made[key]

    return get


@pytest.fixture(params=ARCHITECTURES)
def bench(request: pytest.FixtureRequest, benches: Callable[..., Bench]) -> Bench:
    return benches(request.param)


@pytest.fixture
def gemma(benches: Callable[..., Bench]) -> Bench:
    return benches("gemma2")


@pytest.fixture
def model(gemma: Bench) -> Any:
    return gemma.model


@pytest.fixture
def make_vector() -> Callable[..., Any]:
    """A seeded vector of the tiny models' width, large beside their residual streams."""
    import steerlens

    def make(seed: int = 0, factor: float = 3.0, layer: int = 1, **fields: Any) -> Any:
        direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
        return steerlens.SteeringVector(direction, factor, layer, **fields)

    return make


@pytest.fixture
def data() -> Any:
    import steerlens

    rows = [{"prompt": p, "response": r} for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    return steerlens.SteeringData(rows, concept="fish")


@pytest.fixture
def datasets(data: Any) -> dict[str, Any]:
    """Two concepts, for a sweep."""
    import steerlens

    other = [{"prompt": f"{example.prompt} And?", "response": example.response[::-1]} for example in data]
    return {"fish": data, "towns": steerlens.SteeringData(other)}


@pytest.fixture
def run(model: Any, datasets: dict[str, Any], tmp_path: Path) -> Callable[..., Any]:
    """A small sweep with some arguments changed."""
    from small_sweeps import ASKED, GRID, QUICK, score

    import steerlens

    def start(out: Any = "sweep", **changes: Any) -> Any:
        given = {"model": model, "datasets": datasets, "grid": GRID, "judge": steerlens.ScriptedJudge(score), "prompts": ASKED}
        given |= {"config": QUICK, "seeds": (7,), "max_new_tokens": 4, "progress": False} | changes
        place = out if "://" in str(out) else tmp_path / out
        return steerlens.sweep(out=place, **given)

    return start


@pytest.fixture
def sae() -> Any:
    """Random features whose encoder is not the decoder, for the tiny models."""
    from random_sae import LAYER, N, randn

    from steerlens.analysis import SAE

    weights = {"W_enc": randn(WIDTH, N, seed=2) / 7, "W_dec": randn(N, WIDTH, seed=1), "b_enc": randn(N, seed=3)}
    place = {"model_name": "someone/Tiny-Gemma2", "layer": LAYER, "weight_processing": "raw", "normalisation": "none"}
    return SAE(**weights, b_dec=randn(WIDTH, seed=4), apply_b_dec_to_input=True, **place, source="random")


def rows_of(model: Any, data: Any) -> list[tuple[list[int], list[int]]]:
    """Token ids of data, as the oracle takes them; the template is written out here."""
    tokenizer = model.tokenizer
    start = MARKS[model.cfg.model_name.removeprefix("tiny-")][0] or ""
    rows = []
    for example in data:
        text = f"{start}<start_of_turn>user\n{example.prompt}<end_of_turn>\n<start_of_turn>model\n"
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, example.response)]
        rows.append((ids[0], ids[1]))
    return rows
