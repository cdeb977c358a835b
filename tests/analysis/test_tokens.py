"""Effects per token against plain softmaxes and hooks; what cannot change is exactly zero; planted promotions are found."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import PROMPTS, RESPONSES, rows_of
from naive import edits_of, look_inside, naive_kl
from tiny import LAYERS, Bench, boot, make_hf, save_tokenizer

import steerlens
from steerlens.analysis.tokens import TokenEffects, token_effects
from steerlens.evaluation.calibration import mean_kl
from steerlens.figures.tokens import shown

P, R = list(PROMPTS), list(RESPONSES)
CHANGES = ["change_norm", "relative_change", "attention_change_norm"]


def of_row(frame: pd.DataFrame, row: int) -> pd.DataFrame:
    return frame[frame["row"] == row].reset_index(drop=True)


def grid(effects: TokenEffects, row: int, column: str) -> torch.Tensor:
    """(layer, position)"""
    table = of_row(effects.layers_frame(), row).pivot(index="layer", columns="position", values=column)
    return torch.tensor(table.to_numpy(float))


@pytest.mark.parametrize(("positions", "form"), [("p2+s2", "add"), ("all", "clamp")])
def test_predictions_agree_with_softmaxes_by_hand(
    bench: Bench, data: Any, make_vector: Callable[..., Any], positions: str, form: str
) -> None:
    sv = make_vector(factor=3.0, positions=positions, form=form)
    frame = token_effects(bench.model, sv, P, R, batch_size=2).to_frame()
    for row, (prompt, response) in enumerate(rows_of(bench.model, data)):
        ids, mine = [*prompt, *response], of_row(frame, row)
        steered = look_inside(bench, ids, edits_of([sv], len(prompt), len(ids))).logits.double()
        plain = look_inside(bench, ids).logits.double()
        assert mine["token_id"].to_list() == ids
        assert mine["kl"].to_list() == pytest.approx(naive_kl(steered, plain).tolist(), rel=1e-3, abs=1e-6)
        for name, logits in (("steered", steered), ("plain", plain)):
            p = logits.softmax(-1)
            entropy = -(p * p.log()).sum(-1)
            assert mine[f"entropy_{name}"].to_list() == pytest.approx(entropy.tolist(), rel=1e-3, abs=1e-5)
            own = [float(p[index - 1, token].log()) for index, token in enumerate(ids) if index]
            assert math.isnan(mine[f"logprob_{name}"][0])
            assert mine[f"logprob_{name}"].to_list()[1:] == pytest.approx(own, rel=1e-3, abs=1e-4)
    difference = frame["logprob_steered"] - frame["logprob_plain"]
    assert frame["logprob_change"].dropna().to_list() == pytest.approx(difference.dropna().to_list(), abs=1e-6)
    assert frame["kl"].mean() > 0.02, "the vector does nothing, so the comparison proves nothing"


@pytest.mark.parametrize("positions", ["p2+s2", "response"])
def test_layers_agree_with_plain_hooks(bench: Bench, data: Any, make_vector: Callable[..., Any], positions: str) -> None:
    sv = make_vector(factor=2.0, positions=positions)
    effects = token_effects(bench.model, sv, P, R)
    for row, (prompt, response) in enumerate(rows_of(bench.model, data)):
        ids = [*prompt, *response]
        steered, plain = (look_inside(bench, ids, edits) for edits in (edits_of([sv], len(prompt), len(ids)), []))
        changes = [a - b for a, b in zip(steered.streams, plain.streams, strict=True)]
        norms = torch.stack([change.norm(dim=-1) for change in changes])
        relative = norms / torch.stack([stream.norm(dim=-1) for stream in plain.streams])
        attention = torch.stack([(a - b).norm(dim=-1) for a, b in zip(steered.attention, plain.attention, strict=True)])
        for name, expected in zip(CHANGES, (norms, relative, attention), strict=True):
            torch.testing.assert_close(grid(effects, row, name).float(), expected, rtol=2e-3, atol=2e-4)
        cosines = torch.stack([torch.cosine_similarity(change, sv.vector[None], dim=-1) for change in changes])
        mine = grid(effects, row, "cosine").float()
        large = norms > 0.05  # the direction of rounding means nothing
        torch.testing.assert_close(mine[large], cosines[large], rtol=0, atol=2e-3)
        assert large.any()


def test_what_cannot_change_is_exactly_zero(bench: Bench, make_vector: Callable[..., Any]) -> None:
    """Before the edited layer; at it, at tokens that are not edited; and before the first edited token at every layer."""
    layer = 2
    effects = token_effects(bench.model, make_vector(layer=layer, positions="s3"), P, R, batch_size=3)
    frame, layers = effects.to_frame(), effects.layers_frame()
    for row in range(len(P)):
        mine = of_row(frame, row)
        first = int(mine["edited"].to_numpy().argmax())
        assert first == (mine["group"] != "response").sum() - 3 and mine["edited"].sum() == 3
        for name in CHANGES:
            values = grid(effects, row, name)
            assert values[:layer].count_nonzero() == 0 and values[:, :first].count_nonzero() == 0
            if name != "attention_change_norm":
                assert values[layer, first + 3 :].count_nonzero() == 0 and bool((values[layer, first : first + 3] > 0).all())
        assert grid(effects, row, "attention_change_norm")[layer].count_nonzero() == 0
        assert bool((grid(effects, row, "change_norm")[layer + 1 :, first:] > 0).all()), "and what can change does"
        assert (mine["kl"][:first] == 0).all() and (mine["logprob_change"][1 : first + 1] == 0).all()
        assert (mine["promoted"][:first] == "").all() and (mine["promoted"][first:] != "").all()
    assert layers[layers["edited"]].groupby("layer").size().to_dict() == {layer: 3 * len(P)}


def test_a_null_vector_changes_exactly_nothing(bench: Bench, make_vector: Callable[..., Any]) -> None:
    effects = token_effects(bench.model, make_vector(factor=0.0, positions="all"), P, R, batch_size=2)
    frame, layers = effects.to_frame(), effects.layers_frame()
    assert (frame["kl"] == 0).all() and (frame["logprob_change"].dropna() == 0).all()
    assert (layers[CHANGES] == 0).all(axis=None) and layers["cosine"].isna().all()
    assert effects.predictions_frame().empty and (frame[["promoted", "suppressed"]] == "").all(axis=None)
    assert frame["edited"].all() and effects.kl == (0, 0, 0)
    figure: Any = effects.plot()
    assert figure.layout.title.text


@pytest.mark.parametrize("factor", [3.0, -3.0])
def test_an_added_vector_is_what_changes_at_its_layer(bench: Bench, make_vector: Callable[..., Any], factor: float) -> None:
    sv = make_vector(factor=factor)
    layers = token_effects(bench.model, sv, P, R).layers_frame()
    edited = layers[layers["edited"]]
    assert len(edited) == 4 * len(P) and set(edited["layer"]) == {sv.layer}
    assert edited["cosine"].to_list() == pytest.approx([1.0] * len(edited), abs=1e-6)
    assert edited["change_norm"].to_list() == pytest.approx([sv.norm] * len(edited), rel=1e-5)


def test_several_vectors_have_no_cosine_and_their_own_places(gemma: Bench, data: Any, make_vector: Callable[..., Any]) -> None:
    vectors = [make_vector(seed=1, factor=0.5, positions="p1"), make_vector(seed=2, factor=0.5, layer=3, positions="s1")]
    effects = token_effects(gemma.model, vectors, P, R)
    layers = effects.layers_frame()
    assert layers["cosine"].isna().all() and effects.edited_layers == (1, 3)
    assert layers[layers["edited"]].groupby("layer").size().to_dict() == {1: 5, 3: 5}
    (prompt, response), *_ = rows_of(gemma.model, data)
    ids = [*prompt, *response]
    steered, plain = (look_inside(gemma, ids, edits).logits for edits in (edits_of(vectors, len(prompt), len(ids)), []))
    assert of_row(effects.to_frame(), 0)["kl"].to_list() == pytest.approx(naive_kl(steered, plain).tolist(), rel=1e-3, abs=1e-6)


def test_batches_and_order_do_not_matter(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector()
    prompts, responses = P[1:4], R[1:4]
    whole = token_effects(gemma.model, sv, prompts, responses)
    backwards = token_effects(gemma.model, sv, prompts[::-1], responses[::-1], batch_size=2)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        alone = token_effects(gemma.model, sv, prompt, response)
        for other, index in ((alone, 0), (backwards, len(prompts) - 1 - row)):
            for name in ("tokens", "layers"):
                mine, theirs = of_row(getattr(whole, name), row), of_row(getattr(other, name), index)
                numbers = mine.select_dtypes("float").columns.drop("cosine", errors="ignore")
                torch.testing.assert_close(
                    torch.tensor(mine[numbers].to_numpy()),
                    torch.tensor(theirs[numbers].to_numpy()),
                    rtol=1e-3,
                    atol=1e-4,
                    equal_nan=True,
                )
                assert mine[["token", "edited"]].equals(theirs[["token", "edited"]])


def test_the_mean_is_the_dose(bench: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(factor=1.0)
    effects = token_effects(bench.model, sv, P, R)
    assert effects.kl.value == pytest.approx(mean_kl(bench.model, sv, P, responses=R), rel=1e-4)
    assert effects.kl.low < effects.kl.value < effects.kl.high
    n_tokens = sum(map(len, R))
    assert (
        f"over {n_tokens} tokens of 5 prompt(s)" in effects.summary() and f"{effects.kl.value:.3g} (95 %" in effects.summary()
    )
    assert "20 of" in effects.summary() and "one prompt, no interval" in token_effects(bench.model, sv, "Hi", "No").summary()


def test_without_a_response_it_is_the_steered_greedy_one(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector()
    frame = token_effects(gemma.model, sv, P[:2], max_new_tokens=6).to_frame()
    texts = steerlens.generate(gemma.model, P[:2], sv, max_new_tokens=6, temperature=0)
    for row, text in enumerate(texts):
        said = of_row(frame, row)
        ids = said.loc[said["group"] == "response", "token_id"].to_list()
        assert gemma.model.tokenizer.decode(ids, skip_special_tokens=True) == text
    empty = token_effects(gemma.model, sv, "Hi", "")
    assert math.isnan(empty.kl.value) and "no prediction to compare" in empty.summary()
    text = token_effects(gemma.model, make_vector(), list(PROMPTS[:3]), ["a b", "", ""]).summary()
    assert "one prompt, no interval" in text and "over 3 tokens of 1 prompt(s)" in text


def test_a_planted_promotion_is_found(benches: Callable[..., Bench]) -> None:
    """After the last block, a large multiple of an unembedding row makes its token the most likely one."""
    bench = benches("llama")
    token = 40
    row = bench.oracle.hf.lm_head.weight[token]
    sv = steerlens.SteeringVector(row / row.norm(), 100.0, LAYERS - 1, positions="s1")
    effects = token_effects(bench.model, sv, "Hi", "No", top=3)
    changed = effects.predictions_frame()
    frame = effects.to_frame()
    last = int((frame["group"] != "response").sum()) - 1
    assert set(changed["position"]) == {last}, "after the last block nothing can spread"
    first = changed[(changed["kind"] == "promoted") & (changed["rank"] == 1)].iloc[0]
    text = bench.model.tokenizer.decode([token])
    assert first["token"] == text and first["p_steered"] > 0.9 and frame["promoted"][last].startswith(repr(text))
    down = changed[changed["kind"] == "suppressed"]
    assert len(down) == 3 and (down["p_plain"] > down["p_steered"]).all() and (down["p_plain"].diff().dropna() <= 1e-3).all()


def test_columns_say_what_they_are(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    frame = token_effects(gemma.model, make_vector(), "Hi", "No").to_frame()
    assert list(dict.fromkeys(frame["group"])) == ["bos", "template prefix", "instruction", "template suffix", "response"]
    assert frame["token"].to_list()[-2:] == ["N", "o"] and frame["next_token"].to_list()[-2] == "o"
    assert frame["next_token"].isna().to_list() == [False] * (len(frame) - 1) + [True]
    assert frame["position"].to_list() == list(range(len(frame)))


def test_the_model_is_left_as_it_came(model: Any, make_vector: Callable[..., Any]) -> None:
    before = {name: value.clone() for name, value in model.original_model.state_dict().items()}
    model.original_model.train()
    try:
        token_effects(model, make_vector(), "Hi", "No")
        with pytest.raises(ValueError, match="must return a boolean mask"):
            token_effects(model, make_vector(positions=lambda mask: mask.float()), "Hi", "No")
        assert model.original_model.training
        assert all(parameter.requires_grad for parameter in model.original_model.parameters())
    finally:
        model.original_model.eval()
    assert all(value.equal(before[name]) for name, value in model.original_model.state_dict().items())
    assert mean_kl(model, None, "Hi", responses="No") == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sv": []}, "there is no vector"),
        ({"sv": steerlens.SteeringVector(torch.ones(4), 1.0, 1)}, "residual stream of tiny-gemma2 has 48"),
        ({"response": ["a", "b"]}, "2 responses for 1 prompts"),
        ({"response": "x" * 600}, "exceed the context"),
        ({"batch_size": 0}, "batch_size 0 and top 5 must be at least 1"),
        ({"top": 0}, "top 0 must be"),
        ({"prompt": []}, "no prompts"),
    ],
)
def test_refused(model: Any, make_vector: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_effects(model, **{"sv": make_vector(), "prompt": "Hi", "response": "No", **changes})


def test_a_model_that_overflows_is_told(tmp_path: Any, make_vector: Callable[..., Any]) -> None:
    half = boot(make_hf("llama").half(), "tiny-llama", save_tokenizer(tmp_path))
    assert token_effects(half, make_vector(), "Hi", "No").kl.value > 0
    with pytest.raises(ValueError, match="KL is not finite: the model overflows under a vector of norm"):
        token_effects(half, make_vector(factor=1e5), "Hi", "No")


# --- figure -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("of", "column"), [("residual", "relative_change"), ("attention", "attention_change_norm")])
def test_the_figure_shows_the_frames(gemma: Bench, make_vector: Callable[..., Any], of: str, column: str) -> None:
    effects = token_effects(gemma.model, make_vector(), ["Hi", "a b"], ["No", "<x>\n"])
    figure: Any = effects.plot(1, of)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    mine = of_row(effects.to_frame(), 1)
    assert [bar.name for bar in bars] == list(dict.fromkeys(mine["group"]))
    assert sorted(y for bar in bars for y in bar.y) == sorted(mine["kl"])
    (heat,) = (trace for trace in figure.data if trace.type == "heatmap")
    values = grid(effects, 1, column)
    torch.testing.assert_close(torch.tensor(heat.z).nan_to_num(), values)
    unedited = values[:, [not edited for edited in mine["edited"]]]
    assert heat.zmin == 0 and heat.zmax == pytest.approx(float(unedited.max()))
    (marks,) = (trace for trace in figure.data if trace.name == "edited here")
    assert list(marks.x) == mine.index[mine["edited"]].to_list() and set(marks.y) == {1}
    ticks = list(figure.layout.xaxis2.ticktext)
    assert ticks[0] == "&lt;bos&gt;" and "↵" in ticks and "·" in ticks and ticks[-4:] == ["&lt;", "x", "&gt;", "↵"]
    assert figure.layout.title.text and "brought there by attention" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert figure.layout.xaxis2.title.text and all(axis.title.text for axis in (figure.layout.yaxis, figure.layout.yaxis2))
    assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in figure.data)
    for wrong in ((2, "residual"), (0, "heads")):
        with pytest.raises(ValueError, match=r"row 2 does not exist|of is 'heads'"):
            effects.plot(*wrong)


def test_tokens_are_shown_with_signs() -> None:
    assert [shown(token) for token in (" a", "\n", "", "<b>")] == ["·a", "↵", "∅", "&lt;b&gt;"]
