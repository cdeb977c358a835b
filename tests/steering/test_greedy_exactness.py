"""steerlens against the naive oracle on four architectures: greedy text by every road, and plain forward passes."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny import Bench

import steerlens
from steerlens import PerPrompt
from steerlens.model.chat import encode_prompt, stop_tokens
from steerlens.reproducibility import row_seeds

POSITIONS = ("p2+s2", "p4", "s1", "prompt", "all")
NEW = 6
TEXT = "Tell me, please, why the sea is so salty"  # 40 characters are 40 tokens
MIXED = [TEXT[-n:] for n in (1, 2, 3, 4, 5, 17, 29, 40)]
FEW = MIXED[1::3]
GREEDY = {"temperature": 0, "max_new_tokens": NEW, "chat": False}


def expected_texts(bench: Bench, prompts: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The oracle's greedy responses, each prompt with its own vectors."""
    texts = []
    for prompt, vectors in zip(prompts, rows, strict=True):
        ids = encode_prompt(bench.model, prompt, chat=False)
        response = bench.oracle.greedy(ids, NEW, set(stop_tokens(bench.model, chat=False)), vectors)
        texts.append(bench.model.tokenizer.decode(response, skip_special_tokens=True))
    return texts


def padded_left(model: Any, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    rows = [encode_prompt(model, prompt, chat=False) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[model.tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def check_all_roads(bench: Bench, sv: Any) -> None:
    """Batched and alone, cached and uncached, through steerlens and through the model's own generate."""
    model = bench.model
    expected = expected_texts(bench, MIXED, [[sv]] * len(MIXED))
    assert steerlens.generate(model, MIXED, sv, **GREEDY) == expected
    assert steerlens.generate(model, MIXED, sv, use_cache=False, **GREEDY) == expected
    assert [steerlens.generate(model, p, sv, **GREEDY)[0] for p in MIXED[::3]] == expected[::3]
    inputs = padded_left(model, MIXED)
    width = inputs["input_ids"].shape[1]
    common = {"max_new_tokens": NEW, "do_sample": False}
    for use_cache in (True, False):
        with steerlens.steer(model, sv):
            own = model.original_model.generate(**inputs, use_cache=use_cache, **common)
        assert model.tokenizer.batch_decode(own[:, width:], skip_special_tokens=True) == expected, use_cache


@pytest.mark.parametrize("positions", POSITIONS)
def test_greedy_text_agrees_with_the_oracle(bench: Bench, make_vector: Callable[..., Any], positions: str) -> None:
    sv = make_vector(positions=positions)
    unsteered = expected_texts(bench, MIXED, [[]] * len(MIXED))
    steered = expected_texts(bench, MIXED, [[sv]] * len(MIXED))
    assert sum(a != b for a, b in zip(unsteered, steered, strict=True)) >= len(MIXED) // 2, "the vector does nothing"
    assert steerlens.generate(bench.model, MIXED, None, **GREEDY) == unsteered
    check_all_roads(bench, sv)


def test_clamped_text_agrees_with_the_oracle(bench: Bench, make_vector: Callable[..., Any]) -> None:
    check_all_roads(bench, make_vector(form="clamp", layer=2, positions="all"))


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("positions", ["p2+s2", "all"])
def test_the_bridges_own_generate_is_steered(
    bench: Bench, make_vector: Callable[..., Any], positions: str, use_cache: bool
) -> None:
    sv = make_vector(positions=positions)
    for prompt in (TEXT, "Hi"):
        (expected,) = expected_texts(bench, [prompt], [[sv]])
        ids = torch.tensor([encode_prompt(bench.model, prompt, chat=False)])
        common = {"max_new_tokens": NEW, "do_sample": False, "use_cache": use_cache}
        with sv.steer(bench.model):
            own = bench.model.generate(
                ids, max_new_tokens=NEW, do_sample=False, use_past_kv_cache=use_cache, return_type="tokens", verbose=False
            )
            hf = bench.model.hf_generate(ids, **common)
        for result in (own, getattr(hf, "sequences", hf)):
            text = bench.model.tokenizer.decode(result[0, ids.shape[1] :], skip_special_tokens=True)
            assert text == expected


@pytest.mark.parametrize("positions", ["p2+s2", "s1", "response", "all"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_plain_pass_with_prompt_lengths(bench: Bench, make_vector: Callable[..., Any], positions: str, side: str) -> None:
    sv = make_vector(positions=positions)
    rows = [encode_prompt(bench.model, text, chat=False) for text in MIXED]
    lengths = [max(1, len(row) - 3) for row in rows]
    width = max(map(len, rows))
    inputs = padded_left(bench.model, MIXED)
    if side == "right":
        inputs = {k: torch.stack([r.roll(len(ids)) for r, ids in zip(v, rows, strict=True)]) for k, v in inputs.items()}
    with torch.no_grad(), steerlens.steer(bench.model, sv, prompt_lengths=lengths):
        logits = bench.model(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    for i, (ids, length) in enumerate(zip(rows, lengths, strict=True)):
        with torch.no_grad():
            expected = bench.oracle.logits(ids, length, [sv])
        start = width - len(ids) if side == "left" else 0
        torch.testing.assert_close(logits[i, start : start + len(ids)], expected, rtol=1e-3, atol=1e-3)


def test_each_prompt_its_own_vector(bench: Bench, make_vector: Callable[..., Any]) -> None:
    rows = [
        make_vector(1),
        None,
        make_vector(2),
        make_vector(3, layer=3, positions="all"),
        make_vector(4, form="clamp"),
        make_vector(5, layer=0, positions="s1"),
        None,
        make_vector(6, factor=-2.0, positions="prompt"),
    ]
    expected = expected_texts(bench, MIXED, [[] if sv is None else [sv] for sv in rows])
    for use_cache in (True, False):
        assert steerlens.generate(bench.model, MIXED, PerPrompt(rows), use_cache=use_cache, **GREEDY) == expected
    assert steerlens.generate(bench.model, MIXED, PerPrompt(rows), batch_size=3, **GREEDY) == expected


def test_several_vectors_act_together(bench: Bench, make_vector: Callable[..., Any]) -> None:
    """In a list, or as nested blocks; two adds at one place are the added vector."""
    first, second = make_vector(1, 2.0), make_vector(2, 2.0)
    elsewhere, clamped = make_vector(3, layer=3, positions="all"), make_vector(4, form="clamp")
    for vectors in ([first, second], [first, elsewhere], [first, clamped], [clamped, second, elsewhere]):
        expected = expected_texts(bench, FEW, [vectors] * len(FEW))
        assert steerlens.generate(bench.model, FEW, vectors, **GREEDY) == expected
        inputs = padded_left(bench.model, FEW)
        with torch.no_grad():
            with steerlens.steer(bench.model, vectors):
                listed = bench.model(inputs["input_ids"], attention_mask=inputs["attention_mask"])
            with steerlens.steer(bench.model, vectors[:1]), steerlens.steer(bench.model, vectors[1:]):
                nested = bench.model(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        assert torch.equal(listed, nested)
    together = steerlens.generate(bench.model, FEW, [first, second], **GREEDY)
    assert together == steerlens.generate(bench.model, FEW, first + second, **GREEDY)
    assert together != steerlens.generate(bench.model, FEW, first, **GREEDY)


def test_scale_multiplies_the_factor(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector()
    inputs = padded_left(gemma.model, MIXED)

    def logits(vector: Any, **options: Any) -> torch.Tensor:
        with torch.no_grad(), nullcontext() if vector is None else steerlens.steer(gemma.model, vector, **options):
            return gemma.model(inputs["input_ids"], attention_mask=inputs["attention_mask"])

    assert torch.equal(logits(sv, scale=0.5), logits(sv.scaled(0.5)))
    assert torch.equal(logits(sv, scale=0.0), logits(None))
    assert not torch.equal(logits(sv, scale=0.5), logits(sv))


def test_a_sampled_row_is_the_same_alone(bench: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector()
    options = {"temperature": 1.0, "max_new_tokens": NEW, "chat": False}
    batch = steerlens.generate(bench.model, MIXED, sv, seed=7, **options)
    seeds = row_seeds(7, len(MIXED))
    alone = [steerlens.generate(bench.model, p, sv, seed=[s], **options)[0] for p, s in zip(MIXED, seeds, strict=True)]
    assert batch == alone
    assert batch == steerlens.generate(bench.model, MIXED, sv, seed=7, batch_size=3, **options)
    assert batch != steerlens.generate(bench.model, MIXED, sv, seed=8, **options)
    same = steerlens.generate(bench.model, [TEXT] * 6, sv, seed=7, **options)
    assert len(set(same)) > 1, "rows of one batch draw their own numbers"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1}, "temperature -1 must be at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 600}, r"prompt 0 has \d+ tokens; with 600 new ones it exceeds the context"),
        ({"seed": [1, 2]}, "2 seeds for 1 prompts"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ],
)
def test_bad_requests_for_generation(gemma: Bench, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        steerlens.generate(gemma.model, "Hi", None, **options)


def test_nothing_to_generate(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="there are no prompts"):
        steerlens.generate(gemma.model, [])
    with pytest.raises(ValueError, match="PerPrompt has 1 vectors for 2 prompts"):
        steerlens.generate(gemma.model, ["a", "b"], PerPrompt([make_vector()]))
