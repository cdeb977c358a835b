"""Effects by decoding step against the plain model; a prompt-only push and one that is renewed; planted decay."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import PROMPTS
from naive import edits_of, look_inside, naive_kl
from tiny import LAYERS, Bench, boot, make_hf, save_tokenizer

import steerlens
from steerlens.analysis.persistence import MEASURES, SHORTEST, Drift, _by_step, _lasting, drift
from steerlens.model.chat import encode_prompt, stop_tokens

P = list(PROMPTS)
NEW = 7


def of_prompt(result: Drift, name: str = "vector", prompt: int = 0) -> pd.DataFrame:
    """The steps of one prompt."""
    tokens = result.tokens
    return tokens[(tokens["vector"] == name) & (tokens["prompt"] == prompt)].reset_index(drop=True)


@pytest.mark.parametrize("positions", ["p2+s2", "all"])
def test_steps_agree_with_the_plain_model(bench: Bench, make_vector: Callable[..., Any], positions: str) -> None:
    sv = make_vector(factor=1.0, positions=positions)
    result = drift(bench.model, sv, P[:3], max_new_tokens=NEW, batch_size=2)
    for row, text in enumerate(P[:3]):
        prompt = encode_prompt(bench.model, text)
        response = bench.oracle.greedy(prompt, NEW, set(stop_tokens(bench.model)), [sv])
        if not response:
            assert of_prompt(result, prompt=row).empty, "a prompt without a response is left out"
            continue
        ids, n = [*prompt, *response], len(prompt)
        edits = edits_of([sv], n, len(ids))
        steered, plain = look_inside(bench, ids, edits), look_inside(bench, ids)
        mine = of_prompt(result, prompt=row)
        here = slice(n - 1, None)
        assert mine["step"].to_list() == list(range(len(response) + 1))
        change = {layer: (steered.streams[layer] - plain.streams[layer])[here] for layer in (sv.layer, LAYERS - 1)}
        last = change[LAYERS - 1]
        expected = {
            "kl": naive_kl(steered.logits, plain.logits)[here],
            "change_edited_layer": change[sv.layer].norm(dim=-1),
            "change_last_layer": last.norm(dim=-1),
            "relative_last_layer": last.norm(dim=-1) / plain.streams[-1][here].norm(dim=-1),
            "cosine_last_layer": torch.cosine_similarity(last, sv.vector[None], dim=-1),
        }
        for name, inside in (("attention_steered", steered), ("attention_plain", plain)):
            masses = [
                inside.patterns[layer][:, here][..., edits[0][2]].sum(-1).mean(0) for layer in range(sv.layer + 1, LAYERS)
            ]
            expected[name] = torch.stack(masses).mean(0)
        for name, values in expected.items():
            assert mine[name].to_list() == pytest.approx(values.tolist(), rel=3e-3, abs=2e-4), name


def test_a_prompt_only_push_is_over_at_its_layer_and_a_full_one_is_renewed(
    bench: Bench, make_vector: Callable[..., Any]
) -> None:
    short, full = make_vector(factor=0.5), make_vector(factor=0.5, positions="all")
    frame = drift(bench.model, {"short": short, "full": full}, P, max_new_tokens=NEW).to_frame()
    mine, renewed = (frame[frame["vector"] == name].set_index("step") for name in ("short", "full"))
    assert list(dict.fromkeys(frame["vector"])) == ["short", "full"]
    assert mine["change_edited_layer"][0] == pytest.approx(short.norm, rel=1e-5) and mine["cosine_edited_layer"][
        0
    ] == pytest.approx(1)
    assert (mine["change_edited_layer"][1:] == 0).all() and mine["cosine_edited_layer"][1:].isna().all()
    assert (mine["change_last_layer"] > 0).all() and mine["attention_steered"].between(0.001, 0.999).all()
    assert renewed["change_edited_layer"].to_list() == pytest.approx([full.norm] * len(renewed), rel=1e-5)
    assert renewed["cosine_edited_layer"].to_list() == pytest.approx([1] * len(renewed))
    assert renewed["attention_steered"].to_list() == pytest.approx([1] * len(renewed))


def test_a_null_vector_does_exactly_nothing(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    result = drift(gemma.model, make_vector(factor=0.0), P, max_new_tokens=NEW)
    moved = ["kl", "change_edited_layer", "change_last_layer", "relative_last_layer"]
    assert (result.frame[moved] == 0).all(axis=None)
    assert result.frame["attention_steered"].equals(result.frame["attention_plain"])
    assert "nothing changes early in the response" in result.summary()


def test_the_text_can_be_the_same_for_all(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    vectors = {"a": make_vector(seed=1), "b": make_vector(seed=2)}
    unsteered = drift(gemma.model, vectors, P, max_new_tokens=NEW, on="unsteered")
    own = drift(gemma.model, vectors, P, max_new_tokens=NEW)
    prompt = encode_prompt(gemma.model, P[0])
    expected = gemma.oracle.greedy(prompt, NEW, set(stop_tokens(gemma.model)))
    letters = [gemma.model.tokenizer.decode([token]) for token in expected]
    for name in "ab":
        assert of_prompt(unsteered, name)["token"].to_list()[1:] == letters
    assert of_prompt(own, "a")["token"].to_list() != of_prompt(own, "b")["token"].to_list()
    assert "of the unsteered responses" in unsteered.summary()


def test_after_the_last_block_no_attention_sees_the_edit(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    result = drift(gemma.model, make_vector(layer=LAYERS - 1, factor=0.5), P[:2], max_new_tokens=3)
    assert result.frame[["attention_steered", "attention_plain"]].isna().all(axis=None)
    assert (result.frame.loc[result.frame["step"] > 0, "kl"] == 0).all() and result.frame["kl"][0] > 0
    assert result.plot().data


def test_batches_and_order_do_not_matter(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(factor=0.5)
    numbers = [name for name in MEASURES if not name.startswith("cosine")]
    whole = drift(gemma.model, sv, P, max_new_tokens=4)
    for other in (drift(gemma.model, sv, P, max_new_tokens=4, batch_size=2), drift(gemma.model, sv, P[::-1], max_new_tokens=4)):
        torch.testing.assert_close(
            torch.tensor(whole.frame[numbers].to_numpy()), torch.tensor(other.frame[numbers].to_numpy()), rtol=2e-3, atol=1e-5
        )
        assert whole.frame["n_prompts"].equals(other.frame["n_prompts"])


def made_up(kl: Callable[[int], float], lengths: Sequence[int]) -> pd.DataFrame:
    """Prompts whose steps follow a law, each twice as strong as the one before."""
    rows = [
        {"vector": "v", "prompt": prompt, "step": step} | dict.fromkeys(MEASURES, 2**prompt * kl(step))
        for prompt, length in enumerate(lengths)
        for step in range(length + 1)
    ]
    return pd.DataFrame(rows)


def test_a_planted_decay_is_found() -> None:
    """Halved at each step, 9 steps: the last third is 2^-6 of the first; a response of 5 tokens has no thirds."""
    (row,) = _lasting(made_up(lambda step: 0.5**step, [9, 9, 5]), 0).to_dict(orient="records")
    assert row["n_prompts"] == 2
    for name in ("kl", "change"):
        assert [row[f"late_to_early_{name}{end}"] for end in ("", "_low", "_high")] == pytest.approx([2**-6] * 3)
    (flat,) = _lasting(made_up(lambda step: 3.0 if step else 99.0, [6, 30]), 0).to_dict(orient="records")
    assert flat["late_to_early_kl"] == 1
    (none,) = _lasting(made_up(lambda step: 1.0, [5]), 0).to_dict(orient="records")
    assert none["n_prompts"] == 0 and math.isnan(none["late_to_early_kl"])


def test_means_are_over_the_prompts_that_are_left() -> None:
    frame = _by_step(made_up(lambda step: 1.0 + step, [1, 3]), 0)
    assert frame["step"].to_list() == [0, 1, 2, 3] and frame["n_prompts"].to_list() == [2, 2, 1, 1]
    assert frame["kl"].to_list() == [1.5, 3.0, 6.0, 8.0]
    assert frame["kl_low"].to_list()[:2] == [1.0, 2.0] and frame["kl_high"].to_list()[:2] == [2.0, 4.0]
    assert frame["kl_low"][2:].isna().all()


def test_a_prompt_without_a_response_is_left_out(tmp_path: Any, make_vector: Callable[..., Any]) -> None:
    silent = boot(make_hf("llama"), "tiny-llama", save_tokenizer(tmp_path))
    first = steerlens.generate(silent, "Hi", max_new_tokens=1, temperature=0)
    (token,) = silent.tokenizer(first[0], add_special_tokens=False)["input_ids"]
    silent.original_model.generation_config.eos_token_id = [2, token]
    both = drift(silent, make_vector(), ["Hi", *P[:1]], on="unsteered", max_new_tokens=3)
    assert set(both.tokens["prompt"]) == {1}
    with pytest.raises(ValueError, match="vector: no response has a token, so there are no steps"):
        drift(silent, make_vector(), "Hi", on="unsteered", max_new_tokens=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sv": {}}, "there are no vectors"),
        ({"sv": steerlens.SteeringVector(torch.ones(4), 1.0, 1)}, "residual stream of tiny-gemma2 has 48"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 600}, "exceeds the context"),
        ({"prompts": []}, "no prompts"),
    ],
)
def test_refused(model: Any, make_vector: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drift(model, **{"sv": make_vector(), "prompts": "Hi", **changes})


def test_the_summary_has_a_sentence_per_vector(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    vectors = {"long": make_vector(factor=0.5), "short": make_vector(factor=0.5, positions="all")}
    result = drift(gemma.model, vectors, P, max_new_tokens=9)
    ratio = result.lasting["late_to_early_kl"][0]
    said = f"of the steered responses KL changes by a factor of {ratio:.3g} (95 %"
    assert f"long: from the first to the last third {said}" in result.summary()
    few = drift(gemma.model, vectors, P, max_new_tokens=3)
    assert few.summary().count(f"no response has {SHORTEST} tokens") == 2


def test_the_figure_shows_the_steps(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    result = drift(gemma.model, {"a<b": make_vector(), "c": make_vector(positions="all")}, P, max_new_tokens=5)
    figure: Any = result.plot()
    lines = [trace for trace in figure.data if trace.name == "a&lt;b"]
    shown = result.frame[(result.frame["vector"] == "a<b") & (result.frame["n_prompts"] >= 2.5)]
    for trace, measure in zip(lines, ("kl", "relative_last_layer", "cosine_last_layer", "attention_steered"), strict=True):
        assert list(trace.y) == shown[measure].to_list() and list(trace.x) == shown["step"].to_list()
    (dotted,) = (trace for trace in figure.data if trace.name == "a&lt;b, unsteered")
    assert list(dotted.y) == shown["attention_plain"].to_list() and dotted.line.dash == "dot"
    assert sum(bool(trace.showlegend) for trace in lines) == 1
    titles = [axis.title.text for axis in figure.select_yaxes()]
    assert len(titles) == 4 and all(titles) and figure.layout.xaxis4.title.text.startswith("step (0 = the prompt's last token")
    assert figure.layout.title.text and "its own steered" in figure.layout.title.subtitle.text
    assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in figure.data)
