"""All families, and finding the question in a prompt again."""

import re
from functools import cache
from random import Random
from typing import NamedTuple

from .closed import CLOSED, GROUPS, OPPOSITES, plural_group
from .concepts import all_concepts, both_request, forbid_request, include_request
from .entities import NAMES, VALUES
from .open_ended import OPEN
from .outside import small_talk
from .questions import Family, Slots, draw_question
from .wording import NUMBERS, plain

FAMILIES: tuple[Family, ...] = (*CLOSED, *OPEN)
FAMILY_NAMES: tuple[str, ...] = tuple(dict.fromkeys(family.name for family in FAMILIES))

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Found(NamedTuple):
    """A question recognised in a prompt."""

    family: Family
    slots: Slots


@cache
def prompt_words() -> frozenset[str]:
    """Every word that a prompt of the world may contain, spelt rightly."""
    rng, words = Random(0), set(NAMES) | set(NUMBERS) | set(OPPOSITES) | {"question", "instruction"}
    for family in FAMILIES:
        options = re.sub(r"\{\w+\}|[\[\]|]", " ", " ".join(family.phrasings))
        words.update(plain(options).split())
        words.update(w for _ in range(60) for w in plain(draw_question(rng, (family,), False).prompt).split())
    words.update(" ".join(map(plural_group, GROUPS)).split(), *VALUES.values())
    concepts = list(all_concepts().values())
    for _ in range(60):
        words.update(plain(small_talk(rng)[0]).split())
        for concept in concepts:
            requests = (include_request(rng, concept), forbid_request(rng, concept), both_request(rng, concept, concept))
            words.update(plain(" ".join(requests)).split())
    return frozenset(words)


@cache
def corrected(word: str) -> str:
    """The word of the world's prompts that is one slip of the keys away, or the word itself.

    A slip is a letter missing, doubled or wrong, or two letters swapped; where two words are equally near, the
    first in the alphabet is taken, and the typist (`misspelt`) never makes a slip that this function cannot undo.
    """
    if word in prompt_words() or len(word) < 4 or not word.isalpha():
        return word
    splits = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    near = {a + b[1:] for a, b in splits if b}
    near |= {a + b[1] + b[0] + b[2:] for a, b in splits if len(b) > 1}
    near |= {a + c + b[1:] for a, b in splits if b for c in _LETTERS}
    near |= {a + c + b for a, b in splits for c in _LETTERS}
    return min(near & prompt_words(), default=word)


def misspelt(rng: Random, text: str) -> str:
    """The text with one or two slips of the keys, each of which `corrected` can undo."""
    words = text.split(" ")
    indices = [i for i, word in enumerate(words) if re.fullmatch(r"[A-Za-z]{4,}[.,?!:]*", word)]
    for index in rng.sample(indices, min(len(indices), rng.choice((1, 1, 2)))):
        slipped = _slip(rng, words[index])
        if corrected(plain(slipped)) == plain(words[index]):
            words[index] = slipped
    return " ".join(words)


def _slip(rng: Random, word: str) -> str:
    at = rng.randrange(1, len(re.sub(r"\W", "", word)) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at] + word[at:]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


@cache
def _patterns() -> tuple[tuple[Family, re.Pattern[str]], ...]:
    names = "(?:" + "|".join(sorted(NAMES, key=len, reverse=True)) + ")"
    items = f"{names}(?: {names})*"
    patterns = []
    for family in FAMILIES:
        for phrasing in family.phrasings:
            marked = re.sub(r"\{(\w+)\}", r" slot\1slot ", phrasing)
            text = re.sub(r"slot(\w+?)slot", lambda m: f"(?P<{m[1]}>{_slot_pattern(m[1], names, items)})", plain(marked))
            patterns.append((family, re.compile(rf"\b{text}\b")))
    return tuple(patterns)


def _slot_pattern(slot: str, names: str, items: str) -> str:
    if slot in ("x", "y"):
        return names
    if slot == "items":
        return items
    return {"v": r"(?:a )?\w+", "group": r"(?:\w+ things|\w+s)"}.get(slot, r"\w+")


def recognise(prompt: str) -> Found | None:
    """The question in a prompt, wherever it stands, in whatever case and with slips of the keys.

    The longest matching phrasing wins, so "Tell me about a cow" is not found inside a longer question.
    """
    text = " ".join(corrected(word) for word in plain(prompt).split())
    text = " ".join("a" if word == "an" else word for word in text.split())
    best, length = None, 0
    for family, pattern in _patterns():
        for found in pattern.finditer(text):
            if found.end() - found.start() > length and (slots := _valid(family, found.groupdict())):
                best, length = Found(family, slots), found.end() - found.start()
    return best


def _valid(family: Family, slots: dict[str, str]) -> Slots | None:
    if "items" in slots:
        slots = {**slots, "items": slots["items"].replace(" ", ", ")}
    try:
        family.check(slots, "")
        family.topics(slots)
    except (KeyError, StopIteration, ValueError, IndexError):
        return None
    return slots
