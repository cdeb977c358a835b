"""Layer scans: rows as train and loss give them one by one, the same examples kept aside, and which layer is best."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from conftest import PROMPTS, RESPONSES
from tiny import LAYERS, WIDTH

import steerlens
from steerlens import LayerScan, Scores, ScriptedJudge, SteeringData, SteeringVector, TrainConfig
from steerlens.evaluation import layer_scan

QUICK = TrainConfig(epochs=2, batch_size=2, factor_init=0.1, direction_init=2.0, factor_lr=0.3, direction_lr=0.03)
COLUMNS = ["layer", "held_out_loss", "unsteered_loss", "train_loss", "norm"]
SCORES = ["concept_score", "instruct_score", "fluency_score", "overall"]
ASKED = ["Name a fish.", "Why?"]


def scan(model: Any, data: Any, **changes: Any) -> LayerScan:
    settings = {"layers": [0, 2], "held_out": 0.4, "config": QUICK, "max_new_tokens": 6, "progress": False}
    return steerlens.scan_layers(model, data, **settings | changes)


def good(overall: float) -> Scores:
    return Scores(overall, overall, overall)


class Call(NamedTuple):
    """What one vector was trained on, or measured on."""

    layer: int | None
    data: SteeringData


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Call]]:
    """The data of every call of train and loss, which are carried out."""
    made: dict[str, list[Call]] = {"train": [], "loss": []}

    def train(model: Any, data: Any, *, layer: int, **settings: Any) -> Any:
        made["train"].append(Call(layer, data))
        return steerlens.train(model, data, layer=layer, **settings)

    def loss(model: Any, sv: Any, data: Any, objective: Any) -> float:
        made["loss"].append(Call(None if sv is None else sv.layer, data))
        return steerlens.loss(model, sv, data, objective)

    monkeypatch.setattr(layer_scan, "train", train)
    monkeypatch.setattr(layer_scan, "loss", loss)
    return made


# --- without a judge --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"positions": "all", "form": "clamp", "factor": 2, "seed": 7},
        {"form": "loreft", "rank": 2, "objective": "simpo"},
    ],
    ids=["defaults", "clamp", "loreft"],
)
def test_a_row_is_what_train_and_loss_give_alone(model: Any, calls: dict[str, list[Call]], settings: dict[str, Any]) -> None:
    rows = zip(PROMPTS, RESPONSES, RESPONSES[::-1], strict=True)
    data = SteeringData([{"prompt": p, "response": r, "neutral": n} for p, r, n in rows])
    found = scan(model, data, **settings)
    (unsteered, *_), (trained, *_) = calls["loss"], calls["train"]
    objective = settings.get("objective", "lang")
    assert found.frame.attrs["objective"] == objective
    assert list(found.frame.columns) == COLUMNS and found.frame["layer"].tolist() == list(found.vectors) == [0, 2]
    for row in found.frame.to_dict("records"):
        layer: Any = row["layer"]
        sv = steerlens.train(model, trained.data, layer=layer, config=QUICK, progress=False, **settings)
        assert found.vectors[layer] == sv and sv.layer == layer
        assert row["held_out_loss"] == steerlens.loss(model, sv, unsteered.data, objective)
        assert row["unsteered_loss"] == steerlens.loss(model, None, unsteered.data, objective)
        assert sv.history is not None
        assert row["train_loss"] == pytest.approx(sv.history["loss"].tail(2).mean()), "two batches are an epoch"
        assert row["norm"] == sv.norm
    assert found.frame["held_out_loss"].nunique() == 2


@pytest.mark.parametrize(("held_out", "n_kept"), [(0.01, 1), (0.25, 1), (0.4, 2), (0.6, 3), (0.99, 4)])
def test_the_same_examples_are_kept_aside_at_every_layer(
    model: Any, data: SteeringData, calls: dict[str, list[Call]], held_out: float, n_kept: int
) -> None:
    scan(model, data, held_out=held_out, layers=[2, 0, 1])
    assert [call.layer for call in calls["train"]] == [2, 0, 1]
    assert [call.layer for call in calls["loss"]] == [None, 2, 0, 1]
    assert len({call.data.hash for call in calls["train"]}) == len({call.data.hash for call in calls["loss"]}) == 1
    learned, kept = calls["train"][0].data, calls["loss"][0].data
    assert (len(learned), len(kept)) == (5 - n_kept, n_kept)
    assert {*learned, *kept} == {*data} and not {*learned} & {*kept}
    assert learned.concept == kept.concept == "fish"


def test_the_seed_decides_which_are_kept_aside(model: Any, data: SteeringData, calls: dict[str, list[Call]]) -> None:
    for seed in (1, 1, 2, 3, 4):
        scan(model, data, layers=[1], seed=seed)
    first, again, *others = [call.data.hash for call in calls["loss"] if call.layer is None]
    assert first == again and set(others) != {first}


def test_all_layers_unless_told_and_all_from_the_same_start(model: Any, data: SteeringData) -> None:
    found = scan(model, data.examples, layers=None, config=replace(QUICK, factor_lr=0.0, direction_lr=0.0))
    assert found.frame["layer"].tolist() == [sv.layer for sv in found.vectors.values()] == list(range(LAYERS))
    first, *others = found.vectors.values()
    assert all(sv.replace(layer=0) == first for sv in others)


def test_the_best_layer_has_the_lowest_loss(model: Any, data: SteeringData) -> None:
    found = scan(model, data, layers=[3, 1])
    losses = dict(zip(found.frame["layer"], found.frame["held_out_loss"], strict=True))
    assert found.best == min(losses, key=lambda layer: losses[layer])
    unsteered = found.frame["unsteered_loss"][0]
    expected = f"layer {found.best} is the best of 2: held-out loss {min(losses.values()):.3f} (unsteered {unsteered:.3f})"
    assert found.summary() == expected


@pytest.mark.slow
@pytest.mark.parametrize("planted", [0, 3])
def test_the_layer_that_wrote_the_data_is_found(benches: Callable[..., Any], planted: int) -> None:
    """Greedy responses of a model steered at the first or last layer: the scan ends there or next to it.

    Over 18 such scans (three architectures, three seeds) it was that layer in 15 and its neighbour in 3.
    """
    model = benches("llama").model
    words = "sky town cat fish rain gold snow fox bread tea war sea sun moon tree road king bird milk song lamp door wolf ship"
    prompts = [f"Tell me of {word}s." for word in words.split()]
    sv = SteeringVector(torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)), 3.0, planted, positions="all")
    responses = steerlens.generate(model, prompts, sv, max_new_tokens=12, temperature=0)
    data = [{"prompt": p, "response": r} for p, r in zip(prompts, responses, strict=True) if r.strip()]
    config = TrainConfig(epochs=16, factor_init=0.5, direction_init=5.0, factor_lr=0.2, direction_lr=0.1)
    found = scan(model, data, layers=None, positions="all", held_out=0.25, config=config)
    losses = found.frame["held_out_loss"].tolist()
    assert abs(found.best - planted) <= 1
    assert losses[planted] < losses[3 - planted] - 0.2
    assert losses[planted] < found.frame["unsteered_loss"][0] - 0.2


# --- with a judge -----------------------------------------------------------------------------------------------------


def test_judged_columns_are_those_of_evaluate(model: Any, data: SteeringData) -> None:
    def by_text(concept: str, prompt: str, response: str) -> Scores:
        return Scores(0.5 + sum(map(ord, prompt + response)) % 97 / 97, 1, 2)

    judge = ScriptedJudge(by_text)
    found = scan(model, data, judge=judge, prompts=ASKED, seed=5)
    assert list(found.frame.columns) == [*COLUMNS, *SCORES, "overall_low", "overall_high", "n", "unscored"]
    assert [call[:2] for call in judge.calls] == [("fish", prompt) for prompt in ASKED] * 2
    for row in found.frame.to_dict("records"):
        layer: Any = row["layer"]
        alone = steerlens.evaluate(model, found.vectors[layer], "fish", ASKED, ScriptedJudge(by_text), max_new_tokens=6, seed=5)
        assert [row[score] for score in SCORES] == [alone.mean(score) for score in SCORES]
        assert (row["overall_low"], row["overall_high"], row["unscored"]) == (*(alone.interval() or ()), 0)
    plain = scan(model, data, seed=5)
    pd.testing.assert_frame_equal(found.frame[COLUMNS], plain.frame)


@pytest.mark.parametrize("scores", [(1.0, 0.5), (0.5, 1.0)])
def test_the_best_layer_has_the_highest_score_if_judged(model: Any, data: SteeringData, scores: tuple[float, float]) -> None:
    """Whichever has the lower loss: the losses of both cases are the same."""
    judge = ScriptedJudge([good(score) for score in scores for _ in ASKED])
    found = scan(model, data, judge=judge, prompts=ASKED)
    assert found.frame["overall"].tolist() == list(scores)
    assert found.best == [0, 2][scores.index(1.0)]
    assert found.summary().startswith(f"layer {found.best} is the best of 2: held-out loss")
    assert found.summary().endswith("overall 1.00 of 2 (95 % interval 1.00 to 1.00, too few to trust it)")


def test_unscored_layers_are_never_the_best_by_score(model: Any, data: SteeringData) -> None:
    fail = RuntimeError("no reply")
    for script, best in (([fail, fail, good(0), fail], 2), ([good(0), fail, fail, fail], 0)):
        found = scan(model, data, judge=ScriptedJudge(script), prompts=ASKED)
        unscored = dict(zip(found.frame["layer"], found.frame["unscored"], strict=True))
        assert found.best == best and unscored == {best: 1, 2 - best: 2}
        assert math.isnan(found.frame["overall"][1 - best // 2])


def test_nothing_scored_is_compared_by_loss(model: Any, data: SteeringData) -> None:
    plain = scan(model, data)
    found = scan(model, data, judge=ScriptedJudge([RuntimeError("no reply")] * 4), prompts=ASKED)
    assert found.best == plain.best and found.summary() == plain.summary()
    assert found.frame["unscored"].tolist() == [2, 2]
    assert found.frame[[*SCORES, "overall_low", "overall_high"]].isna().all(axis=None)
    assert found.frame["overall"].dtype == float


# --- refused before any work ------------------------------------------------------------------------------------------

JUDGE = ScriptedJudge([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": []}, r"the layers \[\] must be at least one"),
        ({"layers": [1, 2, 1]}, r"the layers \[1, 2, 1\] must be at least one, each once"),
        ({"layers": [1, LAYERS]}, f"layer {LAYERS}"),
        ({"layers": [-1]}, "layer -1"),
        ({"held_out": 0.0}, "held_out is 0.0 with 5 examples"),
        ({"held_out": 1.0}, "held_out is 1.0 with 5 examples"),
        ({"held_out": math.nan}, "held_out is nan"),
        ({"judge": JUDGE}, "a judge needs prompts"),
    ],
)
def test_refused(model: Any, data: SteeringData, calls: dict[str, list[Call]], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan(model, data, **changes)
    assert not any(calls.values()) and not JUDGE.calls


def test_a_judge_needs_a_concept_and_a_split_two_examples(model: Any, data: SteeringData, calls: dict[str, list[Call]]) -> None:
    with pytest.raises(ValueError, match="a concept to look for"):
        scan(model, data.examples, judge=JUDGE, prompts=ASKED)
    with pytest.raises(ValueError, match="with 1 examples"):
        scan(model, data.examples[:1])
    assert not any(calls.values())
