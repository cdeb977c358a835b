"""The exact judge: concept, instruct and fluency of an answer, each 0, 1 or 2, by rules and without a model.

What is exact about it: the concepts' words occur in no other text of the world, so presence is a set intersection;
the families know the truth about what is asked; and the world's own texts say which words follow each other.
"""

from collections.abc import Iterable
from functools import cache
from random import Random
from typing import NamedTuple

from ..scores import Scores
from .closed import OPPOSITES
from .concepts import all_concepts, get_concept
from .corpus import dressed, question, sample
from .entities import ENTITIES, PLURALS, VALUES, mentioned, true_values
from .families import FAMILIES, Found, recognise
from .outside import refusal
from .wording import NUMBERS, plain, sentences, tokens

_CLASSES = {word: f"<{name}>" for name in ("trait", "kind", "size", "colour") for word in VALUES[name]}
_CLASSES |= dict.fromkeys(ENTITIES, "<entity>") | dict.fromkeys(NUMBERS, "<number>")
_CLASSES |= dict.fromkeys(PLURALS.values(), "<kinds>") | {"an": "a"}

CLEAR_TERMS = 2
"""Distinct lexicon terms that make a concept clearly present."""
UNSEEN_PAIRS = (0.05, 0.20)
"""Share of unheard-of word pairs up to which a text is fluent, and up to which it is half fluent."""
UNSEEN_TRIPLES = (0.15, 0.45)
"""The same for word triples, which notice two sentences grown into each other."""
REPEATED = (0.25, 0.50)
"""The same for the share of runs of four words that occurred before in the text."""


class _Tables(NamedTuple):
    pairs: frozenset[tuple[str, ...]]
    triples: frozenset[tuple[str, ...]]


def _classes(sentence: str) -> list[str]:
    return ["<start>", *(_CLASSES.get(token, token) for token in tokens(sentence))]


def _runs(words: list[str], length: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(length)), strict=False)


def _own_texts() -> Iterable[str]:
    """Texts of every family, every concept and the whole mix: what the judge takes for good English."""
    rng = Random(0)
    pairs = [*OPPOSITES.items(), *((after, before) for before, after in OPPOSITES.items())]
    for form in ("It is {}.", "The opposite is {}.", "The opposite of {} is {}.", "{} is the opposite of {}."):
        yield from (form.format(*pair) for pair in pairs)
    for family in FAMILIES:
        for name in ENTITIES:
            asked = {"x": name} if set(family.draw(rng)) == {"x"} else family.draw(rng)
            yield from (dressed(rng, family.answer(rng, asked)) for _ in range(3))
    for concept in all_concepts().values():
        for i in range(180):
            yield concept.weave(rng, question(rng).answer, dense=i % 2 == 0)
            yield concept.document(rng)
    for _ in range(400):
        yield refusal(rng)
    for _ in range(1500):
        drawn = sample(rng)
        yield from (answer for _, answer in drawn.chat)


@cache
def _tables() -> _Tables:
    pairs: set[tuple[str, ...]] = set()
    triples: set[tuple[str, ...]] = set()
    for text in _own_texts():
        for sentence in sentences(text):
            words = _classes(sentence)
            pairs.update(_runs(words, 2))
            triples.update(_runs(words, 3))
    return _Tables(frozenset(pairs), frozenset(triples))


class Judge:
    """Scores answers in the embedded world; holds no state of its own (the tables are shared in the process)."""

    def score(self, concept: str, prompt: str, response: str) -> Scores:
        """The three scores of a response to a prompt, for a concept by its full name.

        The prompt may carry requests for or against a concept, may be in lower case or misspelt. A prompt that asks
        nothing the world knows leaves instruct unscored (None). An unknown concept is a ValueError.
        """
        terms = get_concept(concept).terms(response)
        found = recognise(prompt)
        return Scores(
            concept=float(min(len(terms), CLEAR_TERMS)),
            instruct=None if found is None else float(_instruct(found, response)),
            fluency=float(fluency(response)),
        )


def _instruct(found: Found, response: str) -> int:
    """2 for a right answer, 1 for one on the topic, 0 for anything else."""
    if found.family.check(found.slots, response):
        return 2
    text, topics = plain(response), found.family.topics(found.slots)
    on_topic = topics & (mentioned(text) | set(text.split()))
    asked = [ENTITIES[name] for name in topics if name in ENTITIES] if "x" in found.slots else []
    return int(bool(on_topic) or any(true_values(text, entity) for entity in asked))


def _grade(value: float, limits: tuple[float, float]) -> int:
    return 2 if value <= limits[0] else 1 if value <= limits[1] else 0


def _share(runs: list[tuple[str, ...]], known: frozenset[tuple[str, ...]]) -> float:
    return sum(run not in known for run in runs) / len(runs) if runs else 0.0


def fluency(text: str) -> int:
    """0, 1 or 2 by the word pairs and triples of the world's own texts, repetition, and the ending.

    The three grades are joined by their minimum; a text without a closing mark (cut at the token limit, say) loses
    one point at most. An empty text is 0.
    """
    parts = [_classes(sentence) for sentence in sentences(text)]
    if not parts:
        return 0
    fours = list(_runs(tokens(text), 4))
    pairs = [run for part in parts for run in _runs(part, 2)]
    triples = [run for part in parts for run in _runs(part, 3)]
    tables = _tables()
    grade = min(
        _grade(_share(pairs, tables.pairs), UNSEEN_PAIRS),
        _grade(_share(triples, tables.triples), UNSEEN_TRIPLES),
        _grade(1 - len(set(fours)) / len(fours) if fours else 0.0, REPEATED),
    )
    ended = text.rstrip()[-1] in ".!?;"
    return grade if ended else min(grade, 1)
