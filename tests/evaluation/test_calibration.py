"""The dose of a vector against the naive oracle, and scales that give a wanted dose."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from conftest import PROMPTS, RESPONSES, rows_of
from tiny import Bench, boot, make_hf, save_tokenizer

import steerlens
from steerlens.evaluation.calibration import _solve, calibrate, mean_kl
from steerlens.model.chat import encode_prompt, stop_tokens

FIXED: dict[str, Any] = {"prompts": PROMPTS, "responses": RESPONSES}


def naive_kl(bench: Bench, rows: Any, vectors: Sequence[Any]) -> float:
    """One row at a time, one token at a time."""
    total, count = 0.0, 0
    with torch.no_grad():
        for prompt, response in rows:
            ids = [*prompt, *response]
            steered, plain = (bench.oracle.logits(ids, len(prompt), some).double() for some in (vectors, []))
            for place in range(len(prompt) - 1, len(ids) - 1):
                p, q = steered[place].softmax(-1), plain[place].softmax(-1)
                total += float((p * (p / q).log()).sum())
                count += 1
    return total / count


@pytest.mark.parametrize(("positions", "form"), [("p2+s2", "add"), ("all", "clamp"), ("response", "add")])
def test_agrees_with_the_naive_loop(
    bench: Bench, data: Any, make_vector: Callable[..., Any], positions: str, form: str
) -> None:
    sv = make_vector(factor=3.0, positions=positions, form=form)
    expected = naive_kl(bench, rows_of(bench.model, data), [sv])
    assert expected > 0.02, "the vector does nothing, so the comparison proves nothing"
    for batch_size in (1, 2, 16):
        assert mean_kl(bench.model, sv, **FIXED, batch_size=batch_size) == pytest.approx(expected, rel=1e-4)


def test_several_vectors_act_together(gemma: Bench, data: Any, make_vector: Callable[..., Any]) -> None:
    vectors = [make_vector(seed=1, factor=0.3), make_vector(seed=2, factor=0.3, layer=2, positions="all")]
    expected = naive_kl(gemma, rows_of(gemma.model, data), vectors)
    assert mean_kl(gemma.model, vectors, **FIXED) == pytest.approx(expected, rel=1e-4)


def test_no_vector_and_a_zero_vector_give_exactly_nothing(bench: Bench, make_vector: Callable[..., Any]) -> None:
    for nothing in (None, [], make_vector(factor=0.0, positions="all"), make_vector() - make_vector()):
        assert mean_kl(bench.model, nothing, **FIXED, batch_size=2) == 0.0


def test_greedy_responses_are_those_of_the_unsteered_model(bench: Bench, make_vector: Callable[..., Any]) -> None:
    sv, stops = make_vector(factor=0.5), set(stop_tokens(bench.model))
    prompts = [encode_prompt(bench.model, prompt) for prompt in PROMPTS]
    rows = [(prompt, bench.oracle.greedy(prompt, 7, stops)) for prompt in prompts]
    expected = naive_kl(bench, rows, [sv])
    assert mean_kl(bench.model, sv, PROMPTS, max_new_tokens=7, batch_size=2) == pytest.approx(expected, rel=1e-4)


def test_long_responses_count_for_more(model: Any, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(factor=0.5)
    short, long = (mean_kl(model, sv, [p], responses=[r]) for p, r in (("Hi", "No"), ("Name a town.", "Rome or so")))
    both = mean_kl(model, sv, ["Hi", "Name a town."], responses=["No", "Rome or so"])
    assert both == pytest.approx((2 * short + 10 * long) / 12, rel=1e-4)
    assert abs(short - long) > 0.01 * both
    assert mean_kl(model, sv, "Hi", responses="No") == short


def test_a_response_without_tokens_is_left_out(model: Any, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(factor=0.5)
    alone = mean_kl(model, sv, ["Hi"], responses=["No"])
    assert mean_kl(model, sv, ["Name a town.", "Hi"], responses=["", "No"]) == pytest.approx(alone, rel=1e-5)
    with pytest.raises(ValueError, match="no response has a token"):
        mean_kl(model, sv, ["Hi"], responses=[""])


def test_a_model_that_says_nothing_has_nothing_to_measure(tmp_path: Any, make_vector: Callable[..., Any]) -> None:
    silent = boot(make_hf("llama"), "tiny-llama", save_tokenizer(tmp_path))
    first = steerlens.generate(silent, "Hi", max_new_tokens=1, temperature=0)
    (token,) = silent.tokenizer(first[0], add_special_tokens=False)["input_ids"]
    silent.original_model.generation_config.eos_token_id = [2, token]
    with pytest.raises(ValueError, match="no response has a token"):
        mean_kl(silent, make_vector(), "Hi")


def test_the_prompt_can_be_bare(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(factor=0.5)
    rows = [(encode_prompt(gemma.model, "Hi", False), gemma.model.tokenizer("No", add_special_tokens=False)["input_ids"])]
    bare = mean_kl(gemma.model, sv, "Hi", responses=["No"], chat=False)
    assert bare == pytest.approx(naive_kl(gemma, rows, [sv]), rel=1e-4)


def test_the_model_is_left_as_it_came(model: Any, make_vector: Callable[..., Any]) -> None:
    before = {name: value.clone() for name, value in model.original_model.state_dict().items()}
    model.original_model.train()
    try:
        mean_kl(model, make_vector(), **FIXED)
        assert model.original_model.training
        assert all(parameter.requires_grad for parameter in model.original_model.parameters())
    finally:
        model.original_model.eval()
    assert all(value.equal(before[name]) for name, value in model.original_model.state_dict().items())
    assert mean_kl(model, None, **FIXED) == 0


# --- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "positions", "kl"),
    [("gemma2", "p2+s2", 1e-3), ("gpt2", "p2+s2", 0.15), ("llama", "all", 0.05), ("qwen2", "all", 1.5)],
)
def test_an_added_vector_gets_its_dose(
    benches: Callable[..., Bench], data: Any, make_vector: Callable[..., Any], architecture: str, positions: str, kl: float
) -> None:
    bench = benches(architecture)
    sv = make_vector(factor=-1.5, positions=positions, provenance={"seed": 4})
    dosed = calibrate(bench.model, sv, **FIXED, kl=kl)
    assert naive_kl(bench, rows_of(bench.model, data), [dosed]) == pytest.approx(kl, rel=0.0101)
    record = dosed.provenance["calibrated"]
    assert dosed == sv.scaled(record["scale"]) and record["scale"] > 0
    assert record == {"kl": pytest.approx(kl, rel=0.01), "target": kl, "scale": record["scale"], "prompts": 5}
    assert dosed.provenance["seed"] == 4 and "calibrated" not in sv.provenance


def test_a_clamp_gets_its_dose(gemma: Bench, data: Any, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(factor=0.5, form="clamp")
    floor = mean_kl(gemma.model, sv.replace(factor=0), **FIXED)
    assert floor > 0, "clamping to 0 takes away what is there"
    dosed = calibrate(gemma.model, sv, **FIXED, kl=floor + 0.1)
    assert naive_kl(gemma, rows_of(gemma.model, data), [dosed]) == pytest.approx(floor + 0.1, rel=0.0101)
    with pytest.raises(ValueError, match=r"'clamp' gives a KL of .* at factor 0 already"):
        calibrate(gemma.model, sv, **FIXED, kl=floor / 2)


def test_a_tight_tolerance_is_met_and_the_scale_does_not_depend_on_the_factor(
    model: Any, make_vector: Callable[..., Any]
) -> None:
    weak, strong = (calibrate(model, make_vector(factor=f), **FIXED, kl=0.1, tolerance=1e-3) for f in (0.5, 30.0))
    for dosed in (weak, strong):
        assert mean_kl(model, dosed, **FIXED) == pytest.approx(0.1, rel=1e-3)
    assert weak.factor == pytest.approx(strong.factor, rel=0.01)


def test_greedy_responses_stand_still(model: Any, make_vector: Callable[..., Any]) -> None:
    dosed = calibrate(model, make_vector(), PROMPTS, kl=0.2, max_new_tokens=5)
    assert mean_kl(model, dosed, PROMPTS, max_new_tokens=5) == pytest.approx(0.2, rel=0.01)


def test_the_dosed_vector_can_be_saved(model: Any, make_vector: Callable[..., Any], tmp_path: Any) -> None:
    dosed = calibrate(model, make_vector(), **FIXED, kl=0.2)
    loaded = steerlens.SteeringVector.load(dosed.save(tmp_path / "dosed.safetensors"))
    assert loaded == dosed and loaded.provenance == dosed.provenance


def test_a_dose_out_of_reach_says_what_was_reached(model: Any, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(factor=0.001)
    reached = mean_kl(model, sv.scaled(5), **FIXED)
    with pytest.raises(ValueError, match=rf"no scale up to 5 .*largest is {reached:.4g}, at scale 5: raise max_scale"):
        calibrate(model, sv, **FIXED, kl=0.1, max_scale=5)


def test_a_dose_in_reach_of_a_small_largest_scale(model: Any, make_vector: Callable[..., Any]) -> None:
    """The largest scale need not be on the grid of doublings."""
    sv = make_vector(factor=0.1)
    kl = mean_kl(model, sv.scaled(2.9), **FIXED)
    assert calibrate(model, sv, **FIXED, kl=kl, max_scale=3).provenance["calibrated"]["scale"] == pytest.approx(2.9, rel=0.02)
    with pytest.raises(ValueError, match=r"no scale up to 2\.5"):
        calibrate(model, sv, **FIXED, kl=kl, max_scale=2.5)


def test_the_smallest_scale_is_found_where_the_dose_is_not_monotone() -> None:
    """A made-up dose that rises above 1 from 2.9 on, falls below it at 40 and rises again at 60."""

    def dose(scale: float) -> float:
        return 0.0 if scale == 0 else scale / 2.9 if scale < 20 else 0.5 if 40 < scale < 60 else 8.0

    scale, measured = _solve(dose, 1.0, 0.01, 64.0, "add")
    assert (scale, measured) == (pytest.approx(2.9, rel=0.01), dose(scale))


def test_a_dose_that_jumps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"jumps past 1 near scale 3 \(nearest: 0\.8\): raise tolerance"):
        _solve(lambda scale: 0.8 if 0 < scale < 3 else 2.0 * (scale > 0), 1.0, 0.01, 64.0, "add")


def test_a_dose_far_below_the_grid_is_found() -> None:
    assert _solve(lambda scale: (1e6 * scale) ** 2, 1.0, 0.01, 64.0, "add")[0] == pytest.approx(1e-6, rel=0.01)


def test_a_model_that_overflows_is_told(tmp_path: Any, make_vector: Callable[..., Any]) -> None:
    half = boot(make_hf("llama").half(), "tiny-llama", save_tokenizer(tmp_path))
    assert mean_kl(half, make_vector(), **FIXED) > 0
    for kl in (mean_kl, partial(calibrate, kl=1e3)):
        with pytest.raises(ValueError, match="the KL is nan: the model overflows under a vector of norm"):
            kl(half, make_vector(factor=1e5), **FIXED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl": 0}, "kl is 0"),
        ({"kl": -1.0}, "kl is -1.0"),
        ({"kl": math.nan}, "kl is nan"),
        ({"kl": math.inf}, "kl is inf"),
        ({"kl": 1.0, "tolerance": 0.0}, "tolerance is 0.0"),
        ({"kl": 1.0, "max_scale": 0}, "max_scale is 0"),
        ({"kl": 1.0, "batch_size": 0}, "batch_size is 0"),
        ({"kl": 1.0, "responses": ["one"]}, "1 responses for 5 prompts"),
        ({"kl": 1.0, "responses": ["x" * 600] * 5}, "prompt 0 and its response have .* exceed the context"),
        ({"kl": 1.0, "prompts": []}, "no prompts"),
    ],
)
def test_refused(model: Any, make_vector: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(model, make_vector(), **{**FIXED, **changes})


def test_vectors_that_cannot_be_dosed_are_refused(model: Any, make_vector: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="norm 0"):
        calibrate(model, make_vector(factor=0.0), **FIXED, kl=1.0)
    foreign = steerlens.SteeringVector(torch.ones(4), 1.0, 1)
    with pytest.raises(ValueError, match="residual stream of tiny-gemma2 has 48"):
        mean_kl(model, foreign, **FIXED)
    with pytest.raises(ValueError, match="residual stream of tiny-gemma2 has 48"):
        calibrate(model, foreign, **FIXED, kl=1.0)
