"""Rows that have passed uncached inside a steering block, to tell the next step of a loop from another prompt."""

import hashlib
from collections import Counter, deque
from collections.abc import Sequence
from typing import TypeVar

from jaxtyping import Bool
from torch import Tensor

from .forward_inputs import PassInput

KEPT = 4096
"""Rows that are remembered, the latest."""
SHIFTS = 4
"""Tokens that a loop with a sliding window may drop at a time."""
OVERLAP = 4
"""Tokens that a shortened row must still have to be recognised."""

Row = tuple[int | bytes, ...]
KeyT = TypeVar("KeyT")


class SeenRows:
    """The rows of earlier passes, and whether a pass goes on with one of them.

    A row goes on with another if it begins with all of it and is longer, wherever in the batch it stands and whatever the
    padding; or with what a sliding window has left of it.
    """

    def __init__(self) -> None:
        self._rows: deque[Row] = deque()
        self._known: Counter[Row] = Counter()
        """Each row, and each shortened one, with its number of occurrences."""
        self._lengths: Counter[int] = Counter()

    def goes_on(self, rows: Sequence[Row]) -> bool:
        """Whether one of these rows goes on with one that was added before."""
        return any(row[:length] in self._known for row in rows for length in self._lengths if length < len(row))

    def add(self, rows: Sequence[Row]) -> None:
        """Remember the rows of a pass."""
        for row in rows:
            self._rows.append(row)
            self._count(row, 1)
            if len(self._rows) > KEPT:
                self._count(self._rows.popleft(), -1)

    def _count(self, row: Row, change: int) -> None:
        shortened = [row[cut:] for cut in range(1, SHIFTS + 1) if len(row) - cut >= max(OVERLAP, len(row) / 2)]
        for part in (row, *shortened):
            _change(self._known, part, change)
            _change(self._lengths, len(part), change)


def _change(counter: Counter[KeyT], key: KeyT, change: int) -> None:
    """Count a key up or down; one that is no longer there is forgotten."""
    counter[key] += change
    if not counter[key]:
        del counter[key]


def rows_of_pass(given: PassInput, mask: Bool[Tensor, "batch pos"]) -> list[Row]:
    """The real tokens of each row; of a pass that was given embeddings, their fingerprints."""
    if given.tokens is not None:
        return [tuple(row[real].tolist()) for row, real in zip(given.tokens.cpu(), mask.cpu(), strict=True)]
    assert given.embeddings is not None
    values = given.embeddings.detach().float().cpu()
    return [
        tuple(hashlib.blake2b(vector.numpy().tobytes(), digest_size=8).digest() for vector in row[real])
        for row, real in zip(values, mask.cpu(), strict=True)
    ]
