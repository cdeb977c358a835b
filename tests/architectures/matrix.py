"""One architecture against plain Hugging Face: texts, log-probabilities and training, each difference by name.

The expected values come from the oracle on the model that was saved; steerlens loads what was saved, as a user would.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from oracle import Oracle, relative
from registry import STOPS, Family, blocks_of, make_hf
from tiny import WIDTH, save_tokenizer
from torch import Tensor

import steerlens

NEW = 5
PROMPTS = ("Hi", "Name a town.", "Tell me, please, in a few words, what cats eat on Sundays.")
RESPONSES = ("Good day", "Rome", "Fish; and more fish.")
POSITIONS = (None, "p2+s2", "s1", "prompt", "response", "all")
FEW = (None, "p2+s2", "response")
CLOSE = 1e-4
"""Relative: logits of a step, losses, what training ends with."""
GREEDY = {"temperature": 0, "max_new_tokens": NEW}
TRAINING = steerlens.TrainConfig(epochs=2, batch_size=3, factor_lr=0.2, direction_lr=0.02, shuffle=False)


class Outcome(NamedTuple):
    """What one architecture came to."""

    status: str
    """right, differs (numbers or text), or raises."""
    detail: str
    """The checks that failed, or the message."""


class Difference(Exception):
    """steerlens and the oracle do not agree."""


class BlocksOracle(Oracle):
    """The oracle of any architecture: it is told where the blocks are."""

    def __init__(self, hf: Any, blocks: Any) -> None:
        self.hf = hf.requires_grad_(False)
        self.blocks = blocks


class Case:
    """A loaded model, the oracle, and the prompts' token ids."""

    def __init__(self, family: Family, folder: Path) -> None:
        hf = make_hf(family)
        self.tokenizer = save_tokenizer(folder)
        hf.save_pretrained(folder)
        self.oracle = BlocksOracle(hf, blocks_of(hf))
        self.model = steerlens.load_model(str(folder), device="cpu", tokenizer=self.tokenizer)
        self.prompts = [self.ids(f"<bos><start_of_turn>user\n{p}<end_of_turn>\n<start_of_turn>model\n") for p in PROMPTS]
        self.rows = [(p, self.ids(r)) for p, r in zip(self.prompts, RESPONSES, strict=True)]
        self.data = [{"prompt": p, "response": r} for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        self.responses: dict[str | None, list[list[int]]] = {}

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def vectors(self, positions: str | None, factor: float = 6.0) -> list[Any]:
        """None, or one seeded vector that is large beside the residual stream."""
        direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
        return [] if positions is None else [steerlens.SteeringVector(direction, factor, 1, positions=positions)]

    def expected(self, positions: str | None) -> list[list[int]]:
        """The oracle's greedy responses."""
        if positions not in self.responses:
            vectors = self.vectors(positions)
            self.responses[positions] = [self.oracle.greedy(ids, NEW, set(STOPS), vectors) for ids in self.prompts]
        return self.responses[positions]

    def check_greedy(self, positions: str | None, batch_size: int = 3, use_cache: bool = True) -> None:
        """Text, and the logits behind each of its tokens."""
        vectors, expected = self.vectors(positions), self.expected(positions)
        with recorded_logits(self.model) as passes:
            texts = steerlens.generate(self.model, PROMPTS, vectors, batch_size=batch_size, use_cache=use_cache, **GREEDY)
        if batch_size == 1:
            steps = split_by_row(passes, [min(len(ids) + 1, NEW) for ids in expected])
        else:
            steps = [[logits[row] for logits in passes] for row in range(len(PROMPTS))]
        for row, (prompt, response) in enumerate(zip(self.prompts, expected, strict=True)):
            with torch.no_grad():
                wanted = self.oracle.logits([*prompt, *response], len(prompt), vectors)[len(prompt) - 1 :]
            for step, (logits, right) in enumerate(zip(steps[row], wanted, strict=False)):
                if not relative(logits, right) < CLOSE:
                    raise Difference(f"logits of row {row}, step {step} by {relative(logits, right):.0e}")
        if texts != [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]:
            raise Difference(f"text {texts}")

    def check_loss(self, positions: str | None) -> None:
        """Log-probabilities of given responses, in one batch padded on the right."""
        vectors = self.vectors(positions)
        expected = self.oracle.loss(self.rows, vectors)
        compare(steerlens.loss(self.model, vectors, self.data), expected)
        if positions is not None and self.effect(positions) < 1e-2:
            raise Difference("the vector does nothing, so that nothing is proved")

    def effect(self, positions: str) -> float:
        """How far a vector moves the logits of the last row's response."""
        prompt, response = self.rows[-1]
        steered, plain = (self.oracle.logits([*prompt, *response], len(prompt), v) for v in (self.vectors(positions), ()))
        return relative(steered[len(prompt) :], plain[len(prompt) :])

    def check_training(self, positions: str) -> None:
        """Two steps of factor and direction."""
        (start,) = self.vectors(positions, factor=0.5)
        rates = {"direction_lr": TRAINING.direction_lr, "factor_lr": TRAINING.factor_lr}
        expected = self.oracle.train(self.rows, start, epochs=2, step_rows=3, **rates)
        place = {"layer": start.layer, "positions": positions, "init": start}
        trained = steerlens.train(self.model, self.data, config=TRAINING, progress=False, **place)
        assert trained.history is not None
        for loss, right in zip(trained.history["loss"], expected.losses, strict=True):
            compare(loss, right)
        compare(trained.factor - start.factor, expected.factor - start.factor)
        moved = relative(trained.direction - start.direction, expected.direction - start.direction)
        if not moved < 10 * CLOSE:  # Adam blows up rounding in coordinates whose gradient is near zero
            raise Difference(f"direction's change by {moved:.0e}")

    def checks(self) -> dict[str, Callable[[], None]]:
        """All comparisons, by name."""
        listed: dict[str, Callable[[], None]] = {}
        for positions in POSITIONS:
            name = positions or "unsteered"
            listed[f"batch {name}"] = lambda p=positions: self.check_greedy(p)
            listed[f"loss {name}"] = lambda p=positions: self.check_loss(p)
            if positions in FEW:
                listed[f"alone {name}"] = lambda p=positions: self.check_greedy(p, batch_size=1)
                listed[f"uncached {name}"] = lambda p=positions: self.check_greedy(p, use_cache=False)
        listed["training p2+s2"] = lambda: self.check_training("p2+s2")
        return listed


def compare(value: float, right: float) -> None:
    if not abs(value - right) <= CLOSE * abs(right):
        raise Difference(f"{value:.6g} instead of {right:.6g}")


@contextmanager
def recorded_logits(model: Any) -> Iterator[list[Tensor]]:
    """Logits of the last position of each pass."""
    passes: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        passes.append(output.logits[:, -1].detach().clone())

    handle = model.original_model.register_forward_hook(keep)
    try:
        yield passes
    finally:
        handle.remove()


def split_by_row(passes: Sequence[Tensor], lengths: Sequence[int]) -> list[list[Tensor]]:
    """Passes of rows that were run one after the other."""
    listed = [logits[0] for logits in passes]
    starts = [sum(lengths[:row]) for row in range(len(lengths))]
    return [listed[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def failures(family: Family, folder: Path) -> dict[str, Exception]:
    """Check -> what went wrong; the check "load" where the model cannot be loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            case = Case(family, folder)
        except Exception as error:
            return {"load": error}
        failed: dict[str, Exception] = {}
        for name, check in case.checks().items():
            try:
                check()
            except Exception as error:
                failed[name] = error
    return failed


def outcome(family: Family, folder: Path) -> Outcome:
    """The status of one architecture."""
    failed = failures(family, folder)
    if not failed:
        return Outcome("right", "")
    differs = [name for name, error in failed.items() if isinstance(error, Difference)]
    if differs:
        return Outcome("differs", ", ".join(differs))
    error = next(iter(failed.values()))
    return Outcome("raises", f"{type(error).__name__}: {error}")
