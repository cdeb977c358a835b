"""What a question is: a family of phrasings, drawn slots, an answer, and a check that knows the truth.

A combination (what is asked about what) is held out or not by a hash of its key, so the split needs no list and
holds for every phrasing, every seed and every version of the samplers.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from .wording import NUMBERS, articles, capital, expand

HELD_OUT_SHARE = 0.12

Slots = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """One way of asking: phrasings with slots, and how to draw, answer and check them."""

    name: str
    phrasings: tuple[str, ...]
    draw: Callable[[Random], Slots]
    answer: Callable[[Random, Slots], str]
    check: Callable[[Slots, str], bool]
    topics: Callable[[Slots], frozenset[str]]
    variant: str = ""
    open_ended: bool = False
    by_phrasing: bool = False
    weight: float = 1.0

    def key(self, slots: Slots, phrasing: int) -> str:
        """The combination's identity; families of facts to know by heart count the phrasing too."""
        asked = [_spelt_out(value) for name, value in sorted(slots.items())]
        return "|".join([self.name, self.variant, *asked, *([str(phrasing)] if self.by_phrasing else [])])


@dataclass(frozen=True)
class Question:
    """A prompt, its gold answer, the family it belongs to, and an exact check of any other answer."""

    prompt: str
    answer: str
    family: str
    key: str
    slots: Slots = field(repr=False)
    _family: Family = field(repr=False, compare=False)

    @property
    def held_out(self) -> bool:
        """Whether the combination never occurs in training."""
        return held_out(self.key)

    def check(self, response: str) -> bool:
        """Whether the response answers the question rightly, wherever in its text."""
        return self._family.check(self.slots, response)


def _spelt_out(value: str) -> str:
    return NUMBERS[int(value)] if value.isdigit() else value


def held_out(key: str) -> bool:
    """Whether a combination belongs to the held-out share."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < HELD_OUT_SHARE


def draw_question(rng: Random, families: tuple[Family, ...], want_held_out: bool) -> Question:
    """A question from one of the families, from the held-out combinations or from the others."""
    family = rng.choices(families, [f.weight for f in families])[0]
    while True:
        slots = family.draw(rng)
        phrasing = rng.randrange(len(family.phrasings))
        key = family.key(slots, phrasing)
        if held_out(key) == want_held_out:
            break
    prompt = capital(articles(expand(rng, family.phrasings[phrasing]).format(**slots)))
    return Question(prompt, family.answer(rng, slots), family.name, key, slots, family)
