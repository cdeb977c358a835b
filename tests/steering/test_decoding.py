"""Sampling from uniform numbers, and rows that leave the batch when they have ended."""

from typing import Any

import pytest
import torch
from conftest import PROMPTS
from tiny import ARCHITECTURES

import steerlens
from steerlens import PerPrompt
from steerlens.model.chat import encode_prompt
from steerlens.reproducibility import row_seeds
from steerlens.steering.decoding import _draw, decode


def test_tokens_are_drawn_with_their_probabilities() -> None:
    logits = torch.tensor([0.0, 2.0, -torch.inf, 1.0, -3.0])
    n = 20_000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = _draw(logits.expand(n, -1), uniform, 1.0).bincount(minlength=5) / n
    torch.testing.assert_close(drawn.double(), logits.double().softmax(-1), atol=1 / n, rtol=0)
    cold = _draw(logits.expand(n, -1), uniform, 0.5).bincount(minlength=5) / n
    torch.testing.assert_close(cold.double(), (2 * logits.double()).softmax(-1), atol=1 / n, rtol=0)


def test_edges_of_the_unit_interval_are_tokens_that_can_be() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 1.0, -torch.inf]]).expand(2, -1)
    low_and_high = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert _draw(logits, low_and_high, 1.0).tolist() == [1, 3]


def test_tokens_far_down_are_not_lost_in_a_large_vocabulary() -> None:
    """256,000 words of which the likely ones stand first: a sum in float32 would never reach the others rightly."""
    logits = torch.zeros(1, 256_000)
    logits[:, :10] = 20.0
    tail = float(logits.double().softmax(-1)[0, 10:].sum())
    just_in_the_tail = torch.tensor([1 - tail + 0.5 / 256_000 * tail], dtype=torch.float64)
    assert int(_draw(logits, just_in_the_tail, 1.0)) == 10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sampled_alone_as_in_the_batch(benches: Any, make_vector: Any, architecture: str) -> None:
    model, seeds = benches(architecture).model, row_seeds(7, len(PROMPTS))
    steer = PerPrompt([make_vector(n, positions="all" if n % 2 else "p2+s2") for n in range(len(PROMPTS))])
    together = steerlens.generate(model, PROMPTS, steer, seed=7, max_new_tokens=15)
    alone = [
        steerlens.generate(model, [prompt], steer[row], seed=[seeds[row]], max_new_tokens=15)[0]
        for row, prompt in enumerate(PROMPTS)
    ]
    assert together == alone
    assert len(set(map(len, together))) > 1


def test_rows_that_have_ended_leave_the_batch(gemma: Any, make_vector: Any) -> None:
    model = gemma.model
    rows = [encode_prompt(model, prompt, True) for prompt in PROMPTS]
    sizes: list[int] = []
    handle = model.original_model.register_forward_hook(lambda _module, _args, output: sizes.append(len(output.logits)))
    whole = decode(model, rows, [], [None] * 5, 20, 0.0, stops={-1})
    stops = {whole[2][4], whole[0][7]}
    sizes.clear()
    cut = decode(model, rows, [], [None] * 5, 20, 0.0, stops=stops)
    handle.remove()
    ends = [next((at for at, token in enumerate(tokens) if token in stops), 20) for tokens in whole]
    assert cut == [tokens[:end] for tokens, end in zip(whole, ends, strict=True)]
    assert sizes[0] == 5 and sizes[-1] < 5 and sizes == sorted(sizes, reverse=True)
    assert len(sizes) == min(20, max(ends) + 1)


def test_rows_stay_where_somebody_counts_them(gemma: Any, make_vector: Any) -> None:
    """A user's hook sees the whole batch until the end."""
    model, sizes = gemma.model, set()
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda value, hook: sizes.add(len(value)))]):
        steerlens.generate(model, PROMPTS, make_vector(), seed=1, max_new_tokens=30)
    assert sizes == {5}
