"""Small tools for writing varied English: bracket choices, articles, capitals, and words as the judge sees them."""

import re
from random import Random


def listed(text: str, mark: str = " ") -> tuple[str, ...]:
    """The items of a list written as one text."""
    return tuple(text.split(mark))


NUMBERS = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_TOKEN = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]")


def expand(rng: Random, template: str, **slots: str) -> str:
    """Fill `{slots}` and take one option of every `[a|b|c]`, then write "an" where "a" stands before a vowel.

    Choices are drawn from the left, the slots are filled last, so a slot's text is never expanded.
    """
    text = _CHOICE.sub(lambda found: rng.choice(found.group(1).split("|")), template)
    return articles(text.format(**slots) if slots else text)


def articles(text: str) -> str:
    """ "a apple" -> "an apple", also at the start of a sentence."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def capital(text: str) -> str:
    """The text with its first letter capitalised, the rest untouched."""
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    """The text as a continuation of a sentence: first letter lowered, except for the pronoun "I"."""
    return text if re.match(r"I\b", text) else text[:1].lower() + text[1:]


def tokens(text: str) -> list[str]:
    """Lower-case words, single digits and punctuation marks, in order."""
    return _TOKEN.findall(text.lower())


def plain(text: str) -> str:
    """Lower-case words and digits joined by single spaces, "an" as "a": the form in which texts are compared."""
    words = re.findall(r"[a-z]+|[0-9]+", text.lower())
    return " ".join("a" if word == "an" else word for word in words)


def says(text: str, phrase: str) -> bool:
    """Whether the plain form of `phrase` occurs in `text` (already plain) as whole words."""
    return f" {plain(phrase)} " in f" {text} "


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its closing mark."""
    return [part for part in re.split(r"(?<=[.!?;])\s+", text.strip()) if part]
