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
from steerlens.model.halves import why_whole
from steerlens.model.plain import why_hooked
from steerlens.model.support import UnsupportedModelError

NEW = 4
PROMPTS = ("Hi", "Name a town.", "Tell me, please, in a few words, what cats eat on Sundays.")
RESPONSES = ("Good day", "Rome", "Fish; and more fish.")
POSITIONS = (None, "p2+s2", "s1", "prompt", "response", "all")
FEW = (None, "p2+s2")
CLOSE = 1e-4
"""Relative: logits of a step, losses, what training ends with."""
GREEDY = {"temperature": 0, "max_new_tokens": NEW}
TRAINING = steerlens.TrainConfig(epochs=2, batch_size=3, factor_lr=0.2, direction_lr=0.02, shuffle=False)


class Outcome(NamedTuple):
    """What one architecture came to."""

    status: str
    """right, refused (every failure is steerlens's own, by name), differs (numbers or text), or raises."""
    detail: str
    """What differs, and what raises with which message."""
    passes: str = ""
    """How its passes run: in pieces (training, plain), plain, or hooked."""


class Difference(Exception):
    """steerlens and the oracle do not agree."""


class BlocksOracle(Oracle):
    """The oracle of any architecture: it is told where the blocks are."""

    def __init__(self, hf: Any, blocks: Any) -> None:
        self.hf = hf.requires_grad_(False)
        self.blocks = blocks
        self.last: list[Tensor] = []

    def logits(self, ids: Sequence[int], n_prompt: int, vectors: Sequence[Any] = ()) -> Tensor:
        """As the oracle's; the last token's are kept, so that a greedy response leaves the logits of its steps."""
        logits = super().logits(ids, n_prompt, vectors)
        self.last.append(logits[-1].detach())
        return logits


class Response(NamedTuple):
    """The oracle's greedy response to one prompt."""

    ids: list[int]
    logits: list[Tensor]
    """Of each step, that of the token that ended it among them."""


class Case:
    """A loaded model, the oracle, and the prompts' token ids."""

    def __init__(self, family: Family, folder: Path) -> None:
        hf = make_hf(family)
        self.tokenizer = save_tokenizer(folder / "tokenizer")  # beside Qwen's config.json it would be loaded as Qwen's
        hf.save_pretrained(folder)
        self.oracle = BlocksOracle(hf, blocks_of(hf))
        self.model = steerlens.load_model(str(folder), device="cpu", tokenizer=self.tokenizer)
        self.prompts = [self.ids(f"<bos><start_of_turn>user\n{p}<end_of_turn>\n<start_of_turn>model\n") for p in PROMPTS]
        self.rows = [(p, self.ids(r)) for p, r in zip(self.prompts, RESPONSES, strict=True)]
        self.data = [{"prompt": p, "response": r} for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        self.responses: dict[str | None, list[Response]] = {}

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def vectors(self, positions: str | None, factor: float = 6.0) -> list[Any]:
        """None, or one seeded vector that is large beside the residual stream."""
        direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
        return [] if positions is None else [steerlens.SteeringVector(direction, factor, 1, positions=positions)]

    def expected(self, positions: str | None) -> list[Response]:
        """The oracle's greedy responses: no cache, row by row."""
        if positions not in self.responses:
            self.responses[positions] = [self.respond(ids, positions) for ids in self.prompts]
        return self.responses[positions]

    def respond(self, prompt: list[int], positions: str | None) -> Response:
        """One greedy response of the oracle."""
        self.oracle.last.clear()
        ids = self.oracle.greedy(prompt, NEW, set(STOPS), self.vectors(positions))
        return Response(ids, list(self.oracle.last))

    def check_greedy(self, positions: str | None, batch_size: int = 3, use_cache: bool = True) -> None:
        """Text, and the logits behind each of its tokens."""
        expected = self.expected(positions)
        settings = {"batch_size": batch_size, "use_cache": use_cache, **GREEDY}
        with recorded_logits(self.model) as passes:
            texts = steerlens.generate(self.model, PROMPTS, self.vectors(positions), **settings)
        lengths = [len(response.logits) for response in expected]
        rows = split_by_row(passes, lengths) if batch_size == 1 else by_row(passes, lengths)
        for row, (steps, response) in enumerate(zip(rows, expected, strict=True)):
            for step, (logits, right) in enumerate(zip(steps, response.logits, strict=False)):
                if not relative(logits, right) < CLOSE:
                    raise Difference(f"logits of row {row}, step {step} by {relative(logits, right):.0e}")
        if texts != [self.tokenizer.decode(response.ids, skip_special_tokens=True) for response in expected]:
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
        return relative(steered[len(prompt) - 1 :], plain[len(prompt) - 1 :])

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

    def passes(self) -> str:
        """How its passes run, once they have all been tried."""
        if why_hooked(self.model) is not None:
            return "hooked"
        return "plain" if why_whole(self.model, 1) is not None else "in pieces"

    def check_paths(self) -> None:
        """What plain passes give, hooked ones give too: texts, losses, what training ends with."""
        (sv,) = self.vectors("p2+s2")
        training = {"layer": 1, "config": TRAINING, "init": sv.replace(factor=0.5), "progress": False}

        def run() -> tuple[Any, ...]:
            drawn = steerlens.generate(self.model, PROMPTS, sv, seed=1, max_new_tokens=NEW)
            trained = steerlens.train(self.model, self.data, **training)
            return drawn, steerlens.loss(self.model, sv, self.data), trained.factor, trained.direction

        drawn, loss, factor, direction = run()
        with self.model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda value, hook: None)]):
            right = run()
        if drawn != right[0]:
            raise Difference(f"plain text {drawn}, hooked text {right[0]}")
        compare(loss, right[1])
        compare(factor, right[2])
        if not relative(direction, right[3]) < CLOSE:
            raise Difference(f"the direction trained in plain passes by {relative(direction, right[3]):.0e}")

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
        listed["alone and uncached p2+s2"] = lambda: self.check_greedy("p2+s2", batch_size=1, use_cache=False)
        listed["training p2+s2"] = lambda: self.check_training("p2+s2")
        listed["plain and hooked"] = self.check_paths
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


def by_row(passes: Sequence[Tensor], lengths: Sequence[int]) -> list[list[Tensor]]:
    """Passes over all rows at once, which rows that have ended may have left."""
    rows: list[list[Tensor]] = [[] for _ in lengths]
    for step, logits in enumerate(passes):
        running = [row for row, length in enumerate(lengths) if length > step]
        if len(logits) == len(lengths):
            running = list(range(len(lengths)))
        for row, given in zip(running, logits, strict=True):
            rows[row].append(given)
    return rows


def split_by_row(passes: Sequence[Tensor], lengths: Sequence[int]) -> list[list[Tensor]]:
    """Passes of rows that were run one after the other."""
    listed = [logits[0] for logits in passes]
    starts = [sum(lengths[:row]) for row in range(len(lengths))]
    return [listed[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def failures(family: Family, folder: Path) -> tuple[dict[str, Exception], list[str], str]:
    """What went wrong, by check, and the names of all checks; "load" is the only one where the model cannot be loaded; and
    how passes run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            case = Case(family, folder)
        except Exception as error:
            return {"load": error}, ["load"], ""
        failed: dict[str, Exception] = {}
        checks = case.checks()
        for name, check in checks.items():
            try:
                check()
            except Exception as error:
                failed[name] = error
    return failed, list(checks), "" if failed else case.passes()


def outcome(family: Family, folder: Path) -> Outcome:
    """The status of one architecture."""
    failed, names, passes = failures(family, folder)
    if not failed:
        return Outcome("right", "", passes)
    if all(isinstance(error, UnsupportedModelError) for error in failed.values()):
        message = str(next(iter(failed.values()))).replace(str(folder), "the model")
        return Outcome("refused", f"{in_short(list(failed), names)}: {message}".removeprefix("all: "))
    differ = [name for name, error in failed.items() if isinstance(error, Difference)]
    messages: dict[str, list[str]] = {}
    for name, error in failed.items():
        if name not in differ:
            messages.setdefault(f"{type(error).__name__}: {error}", []).append(name)
    parts = [f"differ: {in_short(differ, names)}"] if differ else []
    if messages:
        raised = [name for listed in messages.values() for name in listed]
        parts.append(f"raise: {in_short(raised, names)} ({next(iter(messages))})")
    return Outcome("differs" if differ else "raises", "; ".join(parts))


def in_short(failed: Sequence[str], names: Sequence[str]) -> str:
    """Names of checks; a kind stands for all of its checks."""
    if set(failed) == set(names):
        return "all"
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.rpartition(" ")[0], []).append(name)
    listed: list[str] = []
    for kind, members in kinds.items():
        wrong = [name for name in members if name in failed]
        listed += [kind] if wrong == members else wrong
    return ", ".join(listed)
