"""Drawn cases: which tokens are edited, against the naive oracle. `STEERLENS_CASES=34` multiplies the number of cases."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from drawn_chats import TEMPLATES, Booted, Chat, boots
from oracle import edited_places
from tiny import ARCHITECTURES, CHARACTERS, CONTEXT

import steerlens
from steerlens import PerPrompt
from steerlens.model.batches import EncodedExample, collate
from steerlens.model.chat import encode_prompt, stop_tokens
from steerlens.model.forward import pad
from steerlens.model.tokenizer import tokenizer_of
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
sides = st.sampled_from(["left", "right"])
texts = st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=14).filter(str.strip)
SETTINGS: dict[str, list[Any]] = {
    "architecture": list(ARCHITECTURES),
    "template": list(TEMPLATES),
    "sentencepiece": [False, True],
    "bos_first": [True, False, False, True],
    "padding_side": ["left", "left", "right"],
    "pad": ["<pad>", "<eos>", None, "<bos>"],
    "eos": ["<eos>", "<eos>", "<|im_end|>"],
}
FEW = [Chat(**{name: values[index % len(values)] for name, values in SETTINGS.items()}) for index in range(7)]
"""Each value at least once, for what is quick once a model is there."""
ALL = st.builds(Chat, **{name: st.sampled_from(values) for name, values in SETTINGS.items()})
chats = st.sampled_from(FEW) if TIMES == 1 else ALL


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Chat], Booted]:
    return boots(lambda: tmp_path_factory.mktemp("tokenizer"))


@settings(max_examples=300 * TIMES, **KIND)
@given(specs=st.lists(positions, min_size=1, max_size=3), rows=lengths, side=sides, chat=st.sampled_from(FEW), data=st.data())
def test_masks(
    booted: Callable[[Chat], Booted],
    specs: list[str],
    rows: list[tuple[int, int]],
    side: str,
    chat: Chat,
    data: st.DataObject,
) -> None:
    model = booted(chat).model
    fill = tokenizer_of(model).pad_token_id or 0
    content = st.sampled_from([7, 9, fill])  # a text may contain the token that pads
    ids = [data.draw(st.lists(content, min_size=n + m, max_size=n + m)) for n, m in rows]
    padded = pad(model, ids, side)
    tokens = padded.mask.bool()
    assert [padded.tokens[row][tokens[row]].tolist() for row in range(len(ids))] == ids
    batch = collate(model, [EncodedExample(tuple(row[:n]), tuple(row[n:])) for row, (n, _) in zip(ids, rows, strict=True)])
    for spec in specs:
        mask = position_mask(spec, prompt_tokens(tokens, torch.tensor([prompt for prompt, _ in rows])), tokens)
        together = batch.edited(spec)
        for row, (prompt, response) in enumerate(rows):
            places = edited_places(spec, prompt, prompt + response)
            start = tokens.shape[1] - prompt - response if side == "left" else 0
            assert mask[row].nonzero()[:, 0].tolist() == [start + i for i in places]
            assert together[row].nonzero()[:, 0].tolist() == places


def drawn_prompts(data: st.DataObject, here: Booted, chat: bool, new: int) -> list[Any]:
    """Texts and conversations; now and then one that fills the context."""
    prompts: list[Any] = data.draw(st.lists(texts, min_size=1, max_size=4))
    if chat and here.templated and data.draw(st.booleans()):
        system, *_ = data.draw(st.lists(texts, min_size=1, max_size=1))
        prompts[-1] = [{"role": "system", "content": system}, {"role": "user", "content": prompts[-1]}]
    if data.draw(st.integers(0, 7)) == 0:
        room = CONTEXT - new - len(here.ids("xx", chat))
        prompts.append("xx" + "x" * room)
        assert len(here.ids(prompts[-1], chat)) == CONTEXT - new
    return prompts


def drawn_vectors(data: st.DataObject, make_vector: Callable[..., Any], n_rows: int) -> tuple[Any, list[list[Any]]]:
    """What steers, and the vectors that each row gets."""
    one = st.builds(
        lambda spec, seed, layer, form: make_vector(seed, layer=layer, positions=spec, form=form),
        *(positions, st.integers(0, 3), st.integers(0, 3), st.sampled_from(["add", "clamp", "null"])),
    )
    if data.draw(st.booleans()):
        rows = data.draw(st.lists(st.none() | one, min_size=n_rows, max_size=n_rows))
        return PerPrompt(rows), [[] if sv is None else [sv] for sv in rows]
    together = data.draw(st.lists(one, max_size=3))
    return together, [together] * n_rows


@settings(max_examples=30 * TIMES, **KIND)
@given(spec=chats, chat=st.booleans(), new=st.integers(1, 5), cached=st.booleans(), data=st.data())
def test_generations(
    booted: Callable[[Chat], Booted],
    make_vector: Callable[..., Any],
    spec: Chat,
    chat: bool,
    new: int,
    cached: bool,
    data: st.DataObject,
) -> None:
    here = booted(spec)
    prompts, model = drawn_prompts(data, here, chat, new), here.model
    steer, vectors = drawn_vectors(data, make_vector, len(prompts))
    rows = [here.ids(prompt, chat) for prompt in prompts]
    assert [encode_prompt(model, prompt, chat) for prompt in prompts] == rows
    stops = here.stops(chat)
    assert stop_tokens(model, chat=chat) == stops
    right = [here.oracle.greedy(ids, new, stops, acting) for ids, acting in zip(rows, vectors, strict=True)]
    found = steerlens.audit(model, prompts, steer, max_new_tokens=new, chat=chat, use_cache=cached)
    for row, (ids, response, acting) in enumerate(zip(rows, right, vectors, strict=True)):
        assert found.prompt_lengths[row] == len(ids) and len(found.rows[row]) == len(ids) + len(response)
        edits = [edit for edit in found.edits if edit.row == row]
        fed = len(ids) + min(len(response), new - 1)  # the last new token is never fed back
        places = [(sv.layer, sv.positions, index) for sv in acting for index in edited_places(sv.positions, len(ids), fed)]
        edited = Counter((edit.layer, edit.positions, edit.index) for edit in edits)
        assert edited == Counter(places) if cached else set(edited) == set(places)
        assert all((edit.phase == "prefill") == (edit.index < len(ids)) for edit in edits)
    texts = steerlens.generate(
        model, prompts, steer, temperature=0, max_new_tokens=new, chat=chat, use_cache=cached, batch_size=2
    )
    assert texts == [here.tokenizer.decode(response, skip_special_tokens=True) for response in right]
