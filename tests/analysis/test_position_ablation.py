"""Slots left out and alone against the plain model, planted slots, and shares with their intervals."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROMPTS, RESPONSES, rows_of
from naive import at_places, look_inside, naive_kl
from oracle import edited_places
from tiny import Bench

import steerlens
from steerlens import SteeringVector
from steerlens.analysis import effect_recovery, load_sae
from steerlens.analysis.position_ablation import position_effects
from steerlens.analysis.token_groups import GROUPS
from steerlens.evaluation.calibration import mean_kl
from steerlens.intervals import estimate
from steerlens.steering.recording import noise

P, R = list(PROMPTS), list(RESPONSES)


def table(effects: Any, mode: str) -> pd.DataFrame:
    frame = effects.to_frame()
    return frame[frame["mode"] == mode].set_index("slot")


Places = Callable[[int, int], list[int]]
"""(prompt tokens, all tokens) -> places"""


def effect(bench: Bench, rows: Any, sv: Any, more: Places, less: Places) -> tuple[float, float]:
    """Mean KL and gain in log-probability per response token, from editing one set of places rather than another."""
    kl, gain, count = 0.0, 0.0, 0
    for prompt, response in rows:
        ids, n = [*prompt, *response], len(prompt)
        a, b = (
            look_inside(bench, ids, [at_places(sv, places(n, len(ids)))]).logits[n - 1 : -1].double() for places in (more, less)
        )
        kl += float(naive_kl(a, b).sum())
        gain += sum(float((x.log_softmax(-1) - y.log_softmax(-1))[token]) for x, y, token in zip(a, b, response, strict=True))
        count += len(response)
    return kl / count, gain / count


SLOTS = {"p1": lambda n, _: [0], "p2": lambda n, _: [1], "s2": lambda n, _: [n - 2], "s1": lambda n, _: [n - 1]}


@pytest.mark.parametrize("form", ["add", "clamp"])
def test_slots_agree_with_the_plain_model(bench: Bench, data: Any, make_vector: Callable[..., Any], form: str) -> None:
    sv, rows = make_vector(factor=2.0, form=form), rows_of(bench.model, data)[1:4]
    effects = position_effects(bench.model, sv, P[1:4], R[1:4], batch_size=2)
    nothing: Any = lambda n, total: []  # noqa: E731
    everything: Any = lambda n, total: edited_places(sv.positions, n, total)  # noqa: E731
    whole = effect(bench, rows, sv, everything, nothing)
    assert (effects.kl.value, effects.logprob.value) == pytest.approx(whole, rel=2e-3, abs=1e-5)
    assert effects.n_tokens == sum(map(len, R[1:4])) and effects.n_prompts == 3
    assert list(table(effects, "alone").index) == list(SLOTS) == list(table(effects, "left out").index)
    for slot, places in SLOTS.items():

        def without(n: int, total: int, out: Any = places) -> list[int]:
            return sorted(set(everything(n, total)) - set(out(n, total)))

        for mode, more, less in (("left out", everything, without), ("alone", places, nothing)):
            kl, gain = effect(bench, rows, sv, more, less)
            mine = table(effects, mode).loc[slot].to_dict()
            assert (mine["kl"], mine["logprob"]) == pytest.approx((kl, gain), rel=2e-3, abs=1e-5)
            assert mine["kl_share"] == pytest.approx(mine["kl"] / effects.kl.value)
            assert mine["n_edited"] == 3


def test_a_slot_that_is_not_edited_has_exactly_no_effect(bench: Bench, make_vector: Callable[..., Any]) -> None:
    effects = position_effects(bench.model, make_vector(), P, R, slots=["p3", "s1", "s3", "response"], batch_size=2)
    for mode in ("left out", "alone"):
        mine = table(effects, mode)
        assert (mine.loc[["p3", "s3", "response"], ["kl", "kl_share", "logprob", "kl_low", "kl_high", "n_edited"]] == 0).all(
            axis=None
        )
        assert mine["kl"].to_dict()["s1"] > 0


def test_an_only_slot_is_the_whole(bench: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(positions="s1")
    effects = position_effects(bench.model, sv, P, R)
    for mode in ("left out", "alone"):
        mine = table(effects, mode).loc["s1"].to_dict()
        assert (mine["kl"], mine["kl_share"], mine["logprob"]) == (effects.kl.value, 1, effects.logprob.value)
        assert (mine["kl_share_low"], mine["kl_share_high"]) == (1, 1)
    assert effects.kl.value == pytest.approx(mean_kl(bench.model, sv, P, responses=R), rel=1e-4)


def test_the_slots_of_a_region_are_its_groups(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    """A function that edits one group is found out by leaving out groups."""
    first: Any = lambda mask: (mask.long().cumsum(-1) == 1) & mask  # noqa: E731
    effects = position_effects(gemma.model, make_vector(positions=first), P, R, slots=GROUPS)
    for mode in ("left out", "alone"):
        mine = table(effects, mode)
        assert mine["kl_share"].to_list() == [1, 0, 0, 0, 0] and mine["n_edited"].to_list() == [5, 0, 0, 0, 0]
    prompt = position_effects(gemma.model, make_vector(positions="prompt", factor=0.3), P, R)
    assert list(table(prompt, "alone").index) == list(GROUPS[:4])
    assert table(prompt, "alone").loc["instruction", "n_edited"] == sum(map(len, P))
    bare = position_effects(gemma.model, make_vector(positions="prompt", factor=0.3), P, R, chat=False)
    assert list(table(bare, "alone").index) == ["bos", "instruction"]


def test_where_a_prompt_is_short_a_token_has_one_slot(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    """<bos> H i under p2+s2: the prefix wins, so nothing is left for s2."""
    effects = position_effects(gemma.model, make_vector(), "Hi", "No", chat=False)
    for mode in ("left out", "alone"):
        assert table(effects, mode)["n_edited"].to_dict() == {"p1": 1, "p2": 1, "s2": 0, "s1": 1}
        assert table(effects, mode).loc["s2", "kl"] == 0


def test_slots_name_their_token_where_it_is_the_same(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    effects = position_effects(
        gemma.model, make_vector(positions="p4+s2"), ["Hi", "Ho", "No"], ["a", "b", "c"], slots=["p1", "p4", "s1"]
    )
    tokens = table(effects, "alone")["token"]
    assert tokens["p1"] == "<bos>" and tokens["s1"] == "\n"
    far = position_effects(gemma.model, make_vector(positions="p9"), ["Hi", "No"], ["a", "b"], slots=["p8", "p1"])
    assert pd.isna(table(far, "alone")["token"]["p8"])


def test_batches_order_and_seed(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector()
    numbers = ["kl", "kl_share", "logprob"]
    whole = position_effects(gemma.model, sv, P, R, slots=["p1", "s1"])
    for other in (
        position_effects(gemma.model, sv, P, R, slots=["p1", "s1"], batch_size=2),
        position_effects(gemma.model, sv, P[::-1], R[::-1], slots=["p1", "s1"]),
    ):
        np.testing.assert_allclose(whole.frame[numbers], other.frame[numbers], rtol=1e-3, atol=1e-6)
    again, reseeded = (position_effects(gemma.model, sv, P, R, slots=["p1", "s1"], seed=seed) for seed in (0, 1))
    assert again.frame.equals(whole.frame) and not reseeded.frame.equals(whole.frame)
    assert whole.by_prompt["prompt"].to_list() == [0, 1, 2, 3, 4] * 4
    sums = whole.by_prompt[whole.by_prompt["slot"] == "s1"].groupby("mode")[["kl", "n_tokens"]].sum()
    assert sums["kl"]["alone"] / sums["n_tokens"]["alone"] == pytest.approx(table(whole, "alone").loc["s1", "kl"])


def test_what_is_measured_on(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector()
    partly = position_effects(gemma.model, sv, ["Name a town.", "Hi"], ["", "No"])
    alone = position_effects(gemma.model, sv, ["Hi"], ["No"])
    assert partly.n_prompts == 1 and partly.frame.equals(alone.frame)
    assert alone.frame["kl_low"].isna().all() and "one prompt, no interval" in alone.summary()
    greedy = position_effects(gemma.model, sv, P[:2], max_new_tokens=5)
    assert 0 < greedy.n_tokens <= 10
    assert greedy.logprob.value > 0, "the steered greedy tokens are likelier under steering"


def test_an_effect_that_is_rounding_is_refused(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"is rounding in float32 \(below 1e-06\): .*use a larger factor$"):
        position_effects(gemma.model, make_vector(factor=1e-5), P, R)


def test_rounding_depends_on_the_dtype() -> None:
    """What the rounding of bfloat16 alone moves is an effect in float32, and measured rightly there."""
    sae = load_sae("terrarium")
    direction = torch.randn(sae.d_model, generator=torch.Generator().manual_seed(0))
    sv = SteeringVector(direction, 0.008, 2, "all")
    for dtype, floor, refused in ((torch.float32, 1e-6, False), (torch.float16, 5e-5, True), (torch.bfloat16, 2e-3, True)):
        model = steerlens.load_model("terrarium", dtype=dtype)
        assert noise(model) == floor
        calls: list[Callable[[], Any]] = [
            lambda model=model: position_effects(model, sv, ["Name a town."], ["Rome it is."], slots=["s1"]),
            lambda model=model: effect_recovery(model, sv, sae, ["Name a town."], ["Rome it is."], ks=(1,), n_random=1),
        ]
        for call in calls:
            if refused:
                words = f"is rounding in {str(dtype)[6:]} .*a larger factor, or load the model with dtype=torch.float32"
                with pytest.raises(ValueError, match=words):
                    call()
            else:
                assert 1e-6 < call().kl.value < 5e-5


def test_taking_a_direction_away_is_an_effect(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    """A clamp with factor 0 is an ablation."""
    effects = position_effects(gemma.model, make_vector(factor=0.0, form="clamp", positions="s1"), P, R)
    assert effects.kl.value > 1e-4 and table(effects, "alone").loc["s1", "kl_share"] == 1


def test_the_summary_names_the_slots(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    effects = position_effects(gemma.model, make_vector(), P, R)
    out, alone = table(effects, "left out")["kl_share"], table(effects, "alone")["kl_share"]
    words = effects.summary()
    assert f"Leaving out {out.idxmax()} takes away the most, {out.max():.3g} (95 % interval" in words
    assert f"{alone.idxmax()} does the most alone, {alone.max():.3g}" in words
    assert f"{out.sum():.2f} (left out) and {alone.sum():.2f} (alone), not to 1" in words


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        (
            {"positions": "all"},
            {},
            r"positions are 'all', which has no slots of its own: say what to leave out, such as slots=",
        ),
        ({"positions": "response"}, {}, "positions are 'response'"),
        ({"positions": lambda mask: mask}, {}, "positions are a function"),
        ({}, {"slots": ["q1"]}, "slot 'q1' is unknown"),
        ({}, {"slots": ["p0"]}, "slot 'p0' is unknown"),
        ({}, {"slots": []}, "slots is empty"),
        ({"factor": 0.0}, {}, "moves the predictions by 0 nats per token"),
        ({"factor": 0.0, "form": "null"}, {}, "moves the predictions by 0 nats per token"),
        ({}, {"responses": [""] * 5}, "no response has a token"),
        ({}, {"responses": ["one"]}, "1 responses for 5 prompts"),
        ({}, {"batch_size": 0}, "batch_size is 0"),
        ({"layer": 9}, {}, "layer 9 does not exist"),
    ],
)
def test_refused(model: Any, make_vector: Callable[..., Any], fields: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        position_effects(model, make_vector(**fields), **{"prompts": P, "responses": R, **changes})


def test_the_figure_shows_the_shares(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    effects = position_effects(gemma.model, make_vector(), P, R)
    figure: Any = effects.plot()
    bars = {bar.name: bar for bar in figure.data}
    for name, mode in (("lost when it is left out", "left out"), ("reached by it alone", "alone")):
        mine = table(effects, mode)
        assert list(bars[name].y) == mine["kl_share"].to_list()
        assert list(bars[name].error_y.array) == pytest.approx((mine["kl_share_high"] - mine["kl_share"]).to_list())
        assert bars[name].hovertemplate.endswith("<extra></extra>")
    assert list(bars["reached by it alone"].x) == ["p1<br>&lt;bos&gt;", "p2<br>&lt;start_of_turn&gt;", "s2<br>l", "s1<br>↵"]
    note = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert "need not add up to 1" in note and f"KL {effects.kl.value:.3g} nats" in note
    assert figure.layout.title.text and figure.layout.xaxis.title.text and "share" in figure.layout.yaxis.title.text


# --- intervals --------------------------------------------------------------------------------------------------------


def test_an_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, size=400)
    mean = estimate(values)
    error = 1.96 * values.std() / math.sqrt(len(values))
    assert mean.value == pytest.approx(values.mean())
    assert (mean.low, mean.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.015)


def test_a_share_is_of_sums() -> None:
    top, below = np.array([1.0, 3.0]), np.array([2.0, 10.0])
    share = estimate(top, below)
    assert share.value == 4 / 12 and (share.low, share.high) == (0.3, 0.5)
    assert str(share) == "0.333 (95 % interval 0.3 to 0.5)"


@pytest.mark.parametrize(("top", "below"), [([1.0, 2.0], 0.0), ([], 1.0), ([1.0, 2.0], [math.nan, math.nan])])
def test_nothing_to_divide_by_is_not_a_number(top: Sequence[float], below: Any) -> None:
    assert all(math.isnan(number) for number in estimate(np.array(top, dtype=float), below))


def test_one_prompt_has_no_interval() -> None:
    alone = estimate(np.array([2.0]))
    assert alone.value == 2 and math.isnan(alone.low) and math.isnan(alone.high)
    assert torch.tensor(alone).isnan().tolist() == [False, True, True]
