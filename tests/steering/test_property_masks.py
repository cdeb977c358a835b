"""Drawn cases: which tokens are edited, against the naive oracle. `STEERLENS_CASES=35` multiplies the number of cases."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import rows_of
from oracle import edited_places
from tiny import ARCHITECTURES, CHARACTERS, Bench

import steerlens
from steerlens import PerPrompt, SteeringData
from steerlens.model.chat import encode_prompt, stop_tokens
from steerlens.model.forward import pad
from steerlens.positions import position_mask, prompt_tokens

pytest.importorskip("hypothesis", reason="the package hypothesis is not installed")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("STEERLENS_CASES", "1"))
KIND = {"deadline": None, "derandomize": TIMES == 1, "suppress_health_check": list(HealthCheck), "database": None}

counts = st.integers(1, 9)
positions = st.one_of(
    st.sampled_from(["prompt", "response", "all"]),
    counts.map(lambda n: f"p{n}"),
    counts.map(lambda n: f"s{n}"),
    st.tuples(counts, counts).map(lambda pair: f"p{pair[0]}+s{pair[1]}"),
    st.tuples(counts, counts).map(lambda pair: f"s{pair[1]}+p{pair[0]}"),
)
lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=5)
"""(prompt, response) of each row."""
texts = st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=14).filter(str.strip)


@settings(max_examples=300 * TIMES, **KIND)
@given(spec=positions, rows=lengths, side=st.sampled_from(["left", "right"]), architecture=st.sampled_from(ARCHITECTURES))
def test_masks(benches: Callable[..., Bench], spec: str, rows: list[tuple[int, int]], side: str, architecture: str) -> None:
    model = benches(architecture).model
    padded = pad(model, [[7] * (prompt + response) for prompt, response in rows], side)
    tokens = padded.mask.bool()
    mask = position_mask(spec, prompt_tokens(tokens, torch.tensor([prompt for prompt, _ in rows])), tokens)
    for row, (prompt, response) in enumerate(rows):
        start = tokens.shape[1] - prompt - response if side == "left" else 0
        assert mask[row].nonzero()[:, 0].tolist() == [start + i for i in edited_places(spec, prompt, prompt + response)]


@settings(max_examples=30 * TIMES, **KIND)
@given(data=st.data(), prompts=st.lists(texts, min_size=1, max_size=4))
def test_generations(benches: Callable[..., Bench], make_vector: Callable[..., Any], data: Any, prompts: list[str]) -> None:
    bench = benches(data.draw(st.sampled_from(ARCHITECTURES)))
    model, chat = bench.model, data.draw(st.booleans())
    bare = st.none() | st.builds(lambda spec, seed: make_vector(seed, positions=spec), positions, st.integers(0, 3))
    vectors = [data.draw(bare) for _ in prompts]
    cached, new = data.draw(st.booleans()), data.draw(st.integers(1, 4))
    rows = [encode_prompt(model, prompt, chat) for prompt in prompts]
    if chat:
        assert rows == [ids for ids, _ in rows_of(model, SteeringData([{"prompt": p, "response": "x"} for p in prompts]))]
    stops = set(stop_tokens(model, chat=chat))
    right = [bench.oracle.greedy(ids, new, stops, [] if sv is None else [sv]) for ids, sv in zip(rows, vectors, strict=True)]
    found = steerlens.audit(model, prompts, PerPrompt(vectors), max_new_tokens=new, chat=chat, use_cache=cached)
    for row, (ids, response, sv) in enumerate(zip(rows, right, vectors, strict=True)):
        assert found.prompt_lengths[row] == len(ids) and len(found.rows[row]) == len(ids) + len(response)
        edits = [edit for edit in found.edits if edit.row == row]
        fed = len(ids) + min(len(response), new - 1)  # the last new token is never fed back
        assert {edit.index for edit in edits} == set([] if sv is None else edited_places(sv.positions, len(ids), fed))
        assert all((edit.phase == "prefill") == (edit.index < len(ids)) for edit in edits)
        assert not cached or len(edits) == len({edit.index for edit in edits})
    texts = steerlens.generate(
        model, prompts, PerPrompt(vectors), temperature=0, max_new_tokens=new, chat=chat, use_cache=cached, batch_size=2
    )
    decode = model.tokenizer.decode
    assert texts == [decode(response, skip_special_tokens=True) for response in right]
