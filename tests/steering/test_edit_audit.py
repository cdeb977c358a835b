"""The audit: which tokens were edited when, where and by how much, against the oracle's places and norms."""

import html
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import edited_places
from tiny import Bench

import steerlens
from steerlens import PerPrompt
from steerlens.model.chat import encode_prompt

TEXTS = ["Hi", "Why is the sky blue?", "x"]
NEW = 4
OPTIONS = {"max_new_tokens": NEW, "chat": False}


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("positions", ["p2+s2", "p4", "s1", "prompt", "response", "all"])
def test_edited_tokens(bench: Bench, make_vector: Callable[..., Any], positions: str, use_cache: bool) -> None:
    sv = make_vector(positions=positions)
    frame = steerlens.audit(bench.model, TEXTS, sv, use_cache=use_cache, **OPTIONS).to_frame()
    for row, text in enumerate(TEXTS):
        ids = encode_prompt(bench.model, text, chat=False)
        places = edited_places(positions, len(ids), len(ids) + NEW - 1)  # the last token is never read
        mine = frame[frame["row"] == row]
        assert sorted(set(mine["index"])) == places
        assert set(mine["layer"]) | set(mine["positions"]) <= {1, positions}
        assert set(mine.loc[mine["phase"] == "prefill", "index"]) == {i for i in places if i < len(ids)}
        if use_cache:
            assert len(mine) == len(places), "each token is edited once"
            assert set(mine.loc[mine["phase"] == "decode", "index"]) == {i for i in places if i >= len(ids)}
    assert frame["edit_norm"].to_numpy() == pytest.approx(sv.norm, rel=1e-4)


def test_the_dose_is_relative_to_the_tokens_own_norm(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector(positions="all")
    frame = steerlens.audit(gemma.model, TEXTS[1], sv, max_new_tokens=1, chat=False).to_frame()
    ids = torch.tensor([encode_prompt(gemma.model, TEXTS[1], chat=False)])
    with torch.no_grad():
        residual = gemma.oracle.hf(input_ids=ids, output_hidden_states=True).hidden_states[2][0]  # the output of block 1
    expected = (sv.norm / residual.norm(dim=-1)).tolist()
    assert frame["relative"].tolist() == pytest.approx(expected, rel=1e-4)


def test_rows_of_their_own(model: Any, make_vector: Callable[..., Any]) -> None:
    rows = [make_vector(), None, make_vector(1, layer=3, positions="response")]
    audit = steerlens.audit(model, TEXTS, PerPrompt(rows), **OPTIONS)
    frame = audit.to_frame()
    assert set(zip(frame["row"], frame["layer"], strict=True)) == {(0, 1), (2, 3)}
    assert set(frame.loc[frame["row"] == 2, "phase"]) == {"decode"}


def test_it_reads_well(model: Any, make_vector: Callable[..., Any]) -> None:
    audit = steerlens.audit(model, "abcdefgh", make_vector(), **OPTIONS)
    assert audit.show().startswith("[<bos>][a]bcdef[g][h] | ")
    assert audit.summary().startswith("4 edits in 1 rows (4 in prefill); median size ")
    assert audit.prompt_lengths == (9,) and audit.rows[0][:3] == ("<bos>", "a", "b")
    nothing = steerlens.audit(model, "Hi", None, **OPTIONS)
    assert nothing.summary() == "No token was edited in 1 rows."
    assert nothing.to_frame().empty and "relative" in nothing.to_frame()


def test_it_is_shown_in_a_sentence_and_a_figure(model: Any, make_vector: Callable[..., Any]) -> None:
    audit = steerlens.audit(model, TEXTS[:2], make_vector(), **OPTIONS)
    assert repr(audit) == f"<Audit: {audit.summary()}>" and html.escape(audit.summary()) in audit._repr_html_()
    drawn: Any = audit.plot()
    frame = audit.to_frame()
    points = [(trace.name, int(x), y) for trace in drawn.select_traces() for x, y in zip(trace.x, trace.y, strict=True)]
    columns = (frame[name] for name in ("row", "index", "relative"))
    expected = [(f"prompt {row}, layer 1", index, size) for row, index, size in zip(*columns, strict=True)]
    assert points == expected
    alone: Any = steerlens.audit(model, "a b", make_vector(), **OPTIONS).plot()
    assert list(alone.layout.xaxis.ticktext) == ["&lt;bos&gt;", "a", "·", "b"]
    nothing: Any = steerlens.audit(model, "Hi", None, **OPTIONS).plot()
    assert not nothing.data and "No token was edited." in nothing.layout.title.subtitle.text
