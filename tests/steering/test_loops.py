"""Loops of the user's own, without a cache: every form of going on is refused inside `steer`; streams are read inside it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import steerlens
from steerlens import SteeringError
from steerlens.steering.forward_inputs import PassInput
from steerlens.steering.seen_rows import KEPT, SeenRows, rows_of_pass

A = torch.tensor([[1, 30, 31, 32, 33, 34, 35, 36, 37, 38]])
B = torch.tensor([[1, 50, 51, 52, 53, 54]])


def longer(tokens: Tensor, *new: int) -> Tensor:
    return torch.cat([tokens, torch.tensor([[*new]] * len(tokens))], 1)


def padded(tokens: Tensor, width: int) -> dict[str, Tensor]:
    gap = torch.zeros(len(tokens), width - tokens.shape[1], dtype=torch.long)
    return {"input_ids": torch.cat([gap, tokens], 1), "attention_mask": torch.cat([gap, torch.ones_like(tokens)], 1)}


def behind(tokens: Tensor, width: int) -> dict[str, Tensor]:
    return {name: value.roll(tokens.shape[1] - width, 1) for name, value in padded(tokens, width).items()}


LOOPS: dict[str, Callable[[Any], list[dict[str, Tensor]]]] = {
    "one token longer": lambda m: [{"input_ids": A}, {"input_ids": longer(A, 40)}],
    "three tokens longer": lambda m: [{"input_ids": A}, {"input_ids": longer(A, 40, 41, 42)}],
    "a sliding window": lambda m: [{"input_ids": A}, {"input_ids": longer(A, 40)[:, 1:]}],
    "beams change places": lambda m: [
        {"input_ids": torch.cat([A, A + 50])},
        {"input_ids": longer(torch.cat([A + 50, A]), 40)},
    ],
    "a row has left": lambda m: [{"input_ids": torch.cat([A, A + 50])}, {"input_ids": longer(A + 50, 40)}],
    "one row becomes three": lambda m: [{"input_ids": A}, {"input_ids": longer(A.repeat(3, 1), 40)}],
    "two loops take turns": lambda m: [{"input_ids": A}, {"input_ids": B}, {"input_ids": longer(A, 40)}],
    "padding in front": lambda m: [padded(A, 14), padded(longer(A, 40), 14)],
    "a buffer that fills": lambda m: [behind(A, 14), behind(longer(A, 40), 14)],
    "embeddings": lambda m: [
        {"inputs_embeds": m.get_input_embeddings()(tokens).detach()} for tokens in (A, longer(A, 40))
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_loops_are_refused(benches: Any, make_vector: Any, name: str) -> None:
    model = benches("llama").model
    *begin, step = LOOPS[name](model.original_model)
    with steerlens.steer(model, make_vector()):
        for given in begin:
            model.original_model(**given)
        with pytest.raises(SteeringError, match="prompt_lengths"):
            model.original_model(**step)
    lengths = [int(A.shape[1])] * len(next(iter(step.values())))
    with steerlens.steer(model, make_vector(), prompt_lengths=lengths):
        model.original_model(**step)


def test_other_prompts_are_prompts(benches: Any, make_vector: Any) -> None:
    """Many prompts in one block, some of them again, with a common beginning and of one row or several."""
    model = benches("llama").model
    with steerlens.steer(model, make_vector()):
        for tokens in (A, B, A, torch.cat([A, A + 40]), longer(A[:, :4], 90, 91), A[:, :5], B + 3):
            model.original_model(input_ids=tokens)


def test_memory_is_bounded() -> None:
    seen = SeenRows()
    seen.add([(1, 2, 3, 4, 5, 6)])
    assert seen.goes_on([(1, 2, 3, 4, 5, 6, 7)]) and not seen.goes_on([(1, 2, 3, 4, 5, 6)])
    for number in range(KEPT):
        seen.add([(9, number)])
    assert not seen.goes_on([(1, 2, 3, 4, 5, 6, 7)]) and seen.goes_on([(9, 0, 1)])
    assert len(seen._known) == KEPT


def test_rows_of_embeddings_are_told_apart() -> None:
    values = torch.randn(2, 3, 4)
    given = PassInput(2, 3, 0, None, None, None, values)
    rows = rows_of_pass(given, torch.tensor([[False, True, True], [True, True, True]]))
    assert list(map(len, rows)) == [2, 3] and len({*rows[0], *rows[1]}) == 5


def test_a_stream_is_read_inside_its_block(benches: Any, make_vector: Any) -> None:
    model = benches("llama").model
    settings = {"max_new_tokens": 6, "do_sample": False, "return_type": "tokens", "max_tokens_per_yield": 1}
    with pytest.raises(SteeringError, match="not read to its end"), steerlens.steer(model, make_vector(positions="all")):
        stream = model.generate_stream(A, **settings)
        next(stream)
    with steerlens.steer(model, make_vector(positions="all")):
        assert list(model.generate_stream(A, **settings))
    with steerlens.steer(model, make_vector(positions="all")):
        stream = model.generate_stream(A, **settings)
        next(stream)
        stream.close()
    with pytest.raises(KeyError), steerlens.steer(model, make_vector(positions="all")):
        next(model.generate_stream(A, **settings))
        raise KeyError
