"""Attention effects against a naive loop over the Hugging Face model, with what must be exactly zero and a planted head."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROMPTS, RESPONSES
from oracle import edited_places
from tiny import Bench

import steerlens
from steerlens.analysis.attention import ALL_GROUPS, AttentionEffects, _intervals, _patterns, attention_effects
from steerlens.analysis.token_groups import GROUPS, token_groups
from steerlens.intervals import estimate
from steerlens.steering.recording import Recording, encode, record


def naive_patterns(bench: Bench, ids: Sequence[int], n_prompt: int, layer: int, vectors: Sequence[Any]) -> Any:
    """(head, query, key) of one row alone."""
    edits = [
        (sv.layer, lambda h, sv=sv: h + sv.factor * sv.direction, edited_places(sv.positions, n_prompt, len(ids)))
        for sv in vectors
    ]
    with torch.no_grad(), bench.oracle.hooked(edits):
        output = bench.oracle.hf(input_ids=torch.tensor([list(ids)]), output_attentions=True, use_cache=False)
    return output.attentions[layer][0].double()


def naive_mass(pattern: Any, queries: list[int], keys: list[int]) -> np.ndarray:
    """One query and one key at a time."""
    if not queries:
        return np.full(len(pattern), np.nan)
    return np.array([sum(head[query][key] for query in queries for key in keys) / len(queries) for head in pattern.tolist()])


def places_of(groups: Sequence[str], edited: Sequence[int]) -> dict[str, list[int]]:
    places = {name: [i for i, group in enumerate(groups) if group == name] for name in GROUPS}
    places["edited"] = list(edited)
    return places | {f"edited {name}": [i for i in places[name] if i in edited] for name in GROUPS}


@pytest.mark.parametrize("positions", ["p2+s2", "s1", "all"])
def test_agrees_with_the_naive_loop(bench: Bench, make_vector: Callable[..., Any], positions: str) -> None:
    sv = make_vector(factor=0.5, positions=positions)
    prompts, responses = PROMPTS[1:4], RESPONSES[1:4]
    effects = attention_effects(bench.model, sv, prompts, responses, layers=[2, 3], batch_size=2)
    examples = encode(bench.model, prompts, responses)
    for row, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
        ids, n_prompt = [*example.prompt, *example.response], len(example.prompt)
        edited = edited_places(positions, n_prompt, len(ids))
        places = places_of(token_groups(bench.model, prompt, example), edited)
        for index, layer in enumerate((2, 3)):
            steered, plain = (naive_patterns(bench, ids, n_prompt, layer, vectors) for vectors in ([sv], []))
            if row == 0:
                torch.testing.assert_close(effects.patterns[index].double(), steered - plain, rtol=0, atol=1e-5)
                assert effects.edited == tuple(i in edited for i in range(len(ids)))
            for q, query in enumerate(effects.groups):
                for k, key in enumerate(effects.groups):
                    before, after = (naive_mass(pattern, places[query], places[key]) for pattern in (plain, steered))
                    np.testing.assert_allclose(effects.plain[row, index, :, q, k], before, rtol=0, atol=1e-5)
                    np.testing.assert_allclose(effects.change[row, index, :, q, k], after - before, rtol=0, atol=1e-5)
    assert np.abs(effects.change).max() > 0.05, "the vector does nothing, so the comparison proves nothing"


def test_several_vectors_and_greedy_responses(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    vectors = [make_vector(seed=1, factor=0.5), make_vector(seed=2, factor=0.3, layer=2, positions="s1")]
    effects = attention_effects(gemma.model, vectors, PROMPTS[:2], max_new_tokens=6)
    assert effects.layers == (2, 3) and effects.edited_layers == (1, 2)
    (example, _) = encode(gemma.model, PROMPTS[:2], None, sv=vectors, max_new_tokens=6)
    ids = [*example.prompt, *example.response]
    for index, layer in enumerate(effects.layers):
        steered, plain = (naive_patterns(gemma, ids, len(example.prompt), layer, edits) for edits in (vectors, []))
        torch.testing.assert_close(effects.patterns[index].double(), steered - plain, rtol=0, atol=1e-5)
    assert "".join(effects.tokens) == gemma.model.tokenizer.decode(ids)


def test_batches_and_order_do_not_matter(bench: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(factor=0.5)
    single, all_at_once = (attention_effects(bench.model, sv, PROMPTS, RESPONSES, batch_size=size) for size in (1, 16))
    np.testing.assert_allclose(single.change, all_at_once.change, rtol=0, atol=1e-5)
    turned = attention_effects(bench.model, sv, PROMPTS[::-1], RESPONSES[::-1], batch_size=2)
    np.testing.assert_allclose(turned.change[::-1], single.change, rtol=0, atol=1e-5)
    np.testing.assert_allclose(turned.plain[::-1], single.plain, rtol=0, atol=1e-5)


def test_changes_sum_to_zero_over_the_groups(bench: Bench, make_vector: Callable[..., Any]) -> None:
    effects = attention_effects(bench.model, make_vector(), PROMPTS, RESPONSES)
    own = [index for index, group in enumerate(effects.groups) if group in GROUPS]
    np.testing.assert_allclose(effects.plain[..., own].sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(effects.change[..., own].sum(-1), 0, atol=1e-5)
    torch.testing.assert_close(effects.patterns.sum(-1), torch.zeros(effects.patterns.shape[:-1]), rtol=0, atol=1e-5)


def test_nothing_changes_up_to_the_edited_layer(bench: Bench, make_vector: Callable[..., Any]) -> None:
    effects = attention_effects(bench.model, make_vector(layer=1), PROMPTS, RESPONSES, layers=[0, 1, 2], batch_size=2)
    assert not effects.change[:, :2].any() and not effects.patterns[:2].any()
    assert effects.change[:, 2].any()
    assert "layer 2 over 5 prompts" in effects.summary()
    nothing = attention_effects(bench.model, make_vector(factor=0.0), PROMPTS, RESPONSES)
    assert not nothing.change.any() and not nothing.patterns.any()
    assert "changes nothing there (exactly 0)" in nothing.summary()


def test_a_head_made_to_look_at_the_edited_token_is_found(benches: Callable[..., Bench]) -> None:
    """The edited token's key in head 1 of layer 2 becomes the mean query of the response there."""
    model, seen = benches("gpt2").model, {}
    examples = encode(model, PROMPTS, RESPONSES)
    with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.2.attn.hook_q", lambda q, hook: seen.update(q=q))]):
        queries = []
        for example in examples:
            model(torch.tensor([[*example.prompt, *example.response]]))
            queries.append(seen["q"].unflatten(-1, (-1, 12))[0] if seen["q"].ndim == 3 else seen["q"][0])
    query = torch.cat([q[-len(e.response) :, 1] for q, e in zip(queries, examples, strict=True)]).mean(0)
    keys = model.W_K[2, 1].detach()
    direction = keys @ query
    direction = direction - direction.mean()  # the norm before the keys takes the mean away
    sv = steerlens.SteeringVector(direction / direction.norm(), 500.0, 1, "s1")
    effects = attention_effects(model, sv, PROMPTS, RESPONSES, layers=[2])
    heads = effects.to_frame().query("query_group == 'response' and key_group == 'edited'")
    assert heads["head"].tolist() == [0, 1, 2, 3] and heads["change"].argmax() == 1
    assert heads["change"].tolist()[1] > 0.3 and heads["change_low"].tolist()[1] > 0.2


def test_groups_are_those_that_are_there(bench: Bench, make_vector: Callable[..., Any]) -> None:
    effects = attention_effects(bench.model, make_vector(factor=0.5), PROMPTS, RESPONSES)
    own = GROUPS if bench.model.cfg.model_name != "tiny-qwen2" else GROUPS[1:]
    assert effects.groups == (*own, "edited", "edited template prefix", "edited template suffix")
    assert effects.edited_share.get("bos", 1.0) == 1.0 and effects.edited_share["instruction"] == 0.0
    frame = effects.to_frame()
    assert len(frame) == 2 * 4 * len(effects.groups) ** 2
    assert set(frame.loc[frame["overlaps"], "key_group"]) == set(effects.groups) - set(GROUPS)
    whole = attention_effects(bench.model, make_vector(factor=0.5, positions="all"), PROMPTS, RESPONSES)
    assert whole.groups == own and set(whole.edited_share.values()) == {1.0}
    assert set(effects.groups) < set(ALL_GROUPS)


def test_a_prompt_without_response_counts_where_it_can(model: Any, make_vector: Callable[..., Any]) -> None:
    effects = attention_effects(model, make_vector(factor=0.5), PROMPTS[:3], ["", *RESPONSES[1:3]])
    frame = effects.to_frame()
    assert set(frame.loc[frame["query_group"] == "response", "n_prompts"]) == {2}
    assert set(frame.loc[frame["query_group"] == "instruction", "n_prompts"]) == {3}
    others = attention_effects(model, make_vector(factor=0.5), PROMPTS[1:3], RESPONSES[1:3]).to_frame()
    pick = "query_group == 'response' and key_group == 'instruction'"
    np.testing.assert_allclose(frame.query(pick)["change"], others.query(pick)["change"], atol=1e-6)
    alone = attention_effects(model, make_vector(factor=0.5), PROMPTS[:1], [""])
    assert "response" not in alone.groups and alone.to_frame()["change_low"].isna().all()
    assert "one prompt, no interval" in alone.summary()


def test_intervals_are_those_of_single_numbers() -> None:
    values = np.random.default_rng(0).normal(size=(7, 2, 2, 2, 2))
    values[2, ..., 1, :] = np.nan
    low, high = _intervals(values, seed=3)
    for cell in np.ndindex(2, 2, 2, 2):
        column = values[(slice(None), *cell)]
        known = ~np.isnan(column)
        expected = estimate(np.where(known, column, 0.0), known.astype(float), seed=3)
        np.testing.assert_allclose((low[cell], high[cell]), (expected.low, expected.high), rtol=1e-9)


def test_by_layer_is_the_mean_over_heads(model: Any, make_vector: Callable[..., Any]) -> None:
    effects = attention_effects(model, make_vector(factor=0.5), PROMPTS, RESPONSES)
    keys = ["layer", "query_group", "key_group"]
    heads = effects.to_frame().groupby(keys, sort=False)[["change", "unsteered"]].mean()
    np.testing.assert_allclose(effects.by_layer().set_index(keys)[["change", "unsteered"]], heads, atol=1e-12)
    whole = effects.by_layer().query("query_group == 'response' and key_group == 'edited'")["change"].mean()
    assert effects.mass("response", "edited").value == pytest.approx(whole)
    with pytest.raises(ValueError, match="no tokens of the group 'nobody'"):
        effects.mass("nobody", "edited")


def test_a_mass_and_its_interval_are_over_prompts(model: Any, make_vector: Callable[..., Any]) -> None:
    """More prompts than layers, so that neither can pass for the other; a prompt without response has no such query."""
    responses = [*RESPONSES[:4], ""]
    effects = attention_effects(model, make_vector(factor=0.5), PROMPTS[:5], responses, layers=[1, 2, 3], seed=7)
    query, key = effects.groups.index("response"), effects.groups.index("edited")
    own = [float(np.mean(effects.change[prompt, 1:, :, query, key])) for prompt in range(4)]  # layer 1 is the edited one
    assert effects.mass("response", "edited") == pytest.approx(tuple(estimate(np.array(own), seed=7)), abs=1e-12)
    assert "nan" not in effects.summary()
    alone = attention_effects(model, make_vector(factor=0.5), PROMPTS[0], RESPONSES[0])
    assert "one prompt, no interval" in alone.summary() and "95 % interval" not in alone.summary()


def test_default_layers_stop_at_the_last(bench: Bench, make_vector: Callable[..., Any]) -> None:
    assert attention_effects(bench.model, make_vector(layer=0), PROMPTS[0], RESPONSES[0]).layers == (1, 2, 3)
    assert attention_effects(bench.model, make_vector(layer=2), PROMPTS[0], RESPONSES[0]).layers == (3,)


@pytest.mark.parametrize(
    ("fields", "arguments", "words"),
    [
        ({"layer": 3}, {}, "edited block 3 is the last"),
        ({}, {"layers": []}, "layers is empty"),
        ({}, {"layers": [9]}, "layer 9 does not exist"),
        ({}, {"batch_size": 0}, "batch_size is 0"),
        ({}, {"responses": ["a", "b"]}, "2 responses for 1 prompts"),
    ],
)
def test_refusals(model: Any, make_vector: Callable[..., Any], fields: Any, arguments: Any, words: str) -> None:
    sv = make_vector(**fields)
    with pytest.raises(ValueError, match=words):
        attention_effects(model, sv, "Hi", **({"responses": "Good"} | arguments))


def test_attention_that_overflows_is_refused(
    model: Any, make_vector: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Recording:
        result = record(*arguments)
        return Recording(result.logits, {name: value * float("nan") for name, value in result.values.items()})

    monkeypatch.setattr("steerlens.analysis.attention.record", broken)
    with pytest.raises(
        ValueError, match=r"attention is not finite: the model overflows under a vector of norm .* smaller factor"
    ):
        attention_effects(model, make_vector(), "Hi", "Good")


def test_no_vector_and_no_pattern_are_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="there is no vector"):
        attention_effects(model, [], "Hi")
    with pytest.raises(ValueError, match=r'does not show its attention at .*attn_implementation="eager"'):
        _patterns({}, ["blocks.2.attn.hook_pattern"], model)


# --- figure -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def effects(model: Any, make_vector: Callable[..., Any]) -> AttentionEffects:
    return attention_effects(model, make_vector(factor=0.5), PROMPTS, RESPONSES)


def test_figure_has_a_panel_per_layer_or_head(effects: AttentionEffects) -> None:
    figure: Any = effects.plot()
    panels = [annotation.text for annotation in figure.layout.annotations]
    assert panels == ["layer 2", "layer 3"] and len(figure.data) == 2
    heads: Any = effects.plot(3)
    assert [annotation.text for annotation in heads.layout.annotations] == [f"layer 3 head {head}" for head in range(4)]
    assert figure.layout.title.text and "interval over 5 prompts" in figure.layout.title.subtitle.text
    assert figure.layout.xaxis.title.text == "tokens looked at (key)"
    assert figure.layout.yaxis.title.text == "tokens that look (query)"
    with pytest.raises(ValueError, match="layer 0 was not recorded"):
        effects.plot(0)


def test_figure_shows_the_numbers_of_the_frame(effects: AttentionEffects) -> None:
    figure: Any = effects.plot()
    first, second = figure.data
    frame = effects.by_layer()
    change: Any = frame.set_index(["layer", "query_group", "key_group"])["change"]
    assert list(first.x) == ["bos (edited)", *effects.groups[1:]]
    assert first.z[4, 2] == pytest.approx(change[2, "response", "instruction"])
    assert second.z[4, 5] == pytest.approx(change[3, "response", "edited"])
    assert np.isnan(first.z[0, 4]) and first.text[0][4] == "", "BOS cannot look at what comes after it"
    assert first.zmin == -first.zmax == second.zmin and first.zmax >= np.nanmax(np.abs(second.z))
    assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in (first, second))
    (sure,) = frame.query("layer == 2 and query_group == 'response' and key_group == 'instruction'").to_dict("records")
    assert ("<b>" in first.text[4][2]) == (sure["change_low"] > 0 or sure["change_high"] < 0)
