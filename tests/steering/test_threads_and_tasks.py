"""Several threads and tasks on one model: right, or refused; never silently another's vector."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tiny import Bench

import steerlens
from steerlens import SteeringError

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 5}
PROMPTS = ("Why is the sky blue?", "Name a town.", "Hi")
TOKENS = torch.arange(10, 20)[None]


def test_threads_that_generate_wait_for_one_another(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    """With two vectors and with none, side by side, each gets what it gets alone."""
    steering = [make_vector(0), make_vector(1), None]
    jobs = [(prompt, sv) for prompt in PROMPTS for sv in steering] * 4

    def run(job: tuple[str, Any]) -> list[str]:
        return steerlens.generate(gemma.model, job[0], job[1], **GREEDY)

    alone = [run(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, jobs)) == alone


def test_a_pass_of_another_thread_is_refused(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            gemma.model(TOKENS)
        except BaseException as error:
            caught.append(error)

    with steerlens.steer(gemma.model, make_vector()):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert isinstance(caught[0], SteeringError) and "another thread or task" in str(caught[0])
    run()
    assert len(caught) == 1, "after the block the thread may run"


def test_a_block_held_across_an_await(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    """Two coroutines would get the sum of both vectors."""

    async def hold(sv: Any, other: asyncio.Event, own: asyncio.Event) -> str:
        with steerlens.steer(gemma.model, sv):
            own.set()
            await other.wait()
            try:
                gemma.model(TOKENS)
            except SteeringError as error:
                return str(error)
        return "ran"

    async def both() -> list[str]:
        first, second = asyncio.Event(), asyncio.Event()
        return list(await asyncio.gather(hold(make_vector(0), second, first), hold(make_vector(1), first, second)))

    assert any("another thread or task" in said for said in asyncio.run(both()))


def test_the_prompt_in_pieces_is_refused(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    """The last piece may be one token, and look like a decoding step."""
    inner, options = gemma.model.original_model, {"max_new_tokens": 2, "do_sample": False}
    with steerlens.steer(gemma.model, make_vector()), pytest.raises(SteeringError, match="prefill_chunk_size"):
        inner.generate(TOKENS, prefill_chunk_size=9, **options)


def test_a_mask_given_by_position_is_seen(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    """As `model(tokens, mask)`, the way plain PyTorch is called."""
    sv, inner = make_vector(positions="p2"), gemma.model.original_model
    tokens = torch.cat([torch.zeros(1, 3, dtype=torch.long), TOKENS], 1)
    mask = torch.tensor([[0] * 3 + [1] * 10])
    with torch.no_grad():
        with steerlens.steer(gemma.model, sv):
            by_position = inner(tokens, mask).logits
        with steerlens.steer(gemma.model, sv):
            by_name = inner(input_ids=tokens, attention_mask=mask).logits
    assert torch.equal(by_position, by_name)
    torch.testing.assert_close(by_position[0, 3:], gemma.oracle.logits(TOKENS[0].tolist(), 10, [sv]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["loss", "train", "generate", "record"])
def test_raw_passes_beside_steerlenss_own_are_right_or_refused(benches: Any, make_vector: Any, data: Any, kind: str) -> None:
    """A thread that knows nothing of steerlens, beside one in which steerlens works: nobody gets the other's numbers."""
    model, sv = benches("llama").model, make_vector(positions="all")
    config = steerlens.TrainConfig(epochs=1, batch_size=5)
    works: dict[str, Callable[[], Any]] = {
        "loss": lambda: steerlens.loss(model, sv, data),
        "train": lambda: steerlens.train(model, data, layer=1, config=config, progress=False).factor,
        "generate": lambda: steerlens.generate(model, PROMPTS, sv, temperature=0, max_new_tokens=4),
        "record": lambda: steerlens.mean_kl(model, sv, PROMPTS[:2], max_new_tokens=2),
    }
    tokens = torch.arange(20, 40)[None]
    right, expected = model.original_model(tokens).logits.detach(), works[kind]()
    results: list[Any] = []
    worker = threading.Thread(target=lambda: results.extend(works[kind]() for _ in range(4)))
    worker.start()
    answered = 0
    while worker.is_alive():
        try:
            with torch.no_grad():
                logits = model.original_model(tokens).logits
        except steerlens.SteeringError as error:
            assert "another thread" in str(error)
            continue
        torch.testing.assert_close(logits, right, rtol=1e-4, atol=1e-4)
        answered += 1
    worker.join()
    assert results == [expected] * 4
    torch.testing.assert_close(model.original_model(tokens).logits.detach(), right)
