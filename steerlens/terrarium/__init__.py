"""Terrarium: a small world with a language model of its own, data for its concepts, and an exact judge.

Everything of steerlens runs on it offline, in minutes, and each claim can be looked at under glass:

    from steerlens import terrarium
    terrarium.concepts("test")                  # names of the concepts for reporting
    terrarium.data("the sea and sailing")       # 72 examples with neutral answers
    terrarium.Judge().score("the sea and sailing", "Describe a cow.", "A cow is a large animal.")

The weights lie in `path()`; `python -m steerlens.terrarium.build.train` makes them again.
"""

from pathlib import Path
from random import Random

from ..data import Example, SteeringData
from ..files import TERRARIUM_WEIGHTS
from .closed import CLOSED
from .concepts import STEERING_PROMPT, all_concepts, get_concept
from .concepts import forbid_request as _forbid_request
from .corpus import question as _question
from .defaults import LAYER as LAYER
from .defaults import TEMPERATURE as TEMPERATURE
from .defaults import settings as settings
from .judge import Judge as Judge
from .open_ended import OPEN
from .questions import Question as Question

__all__ = [
    "LAYER",
    "TEMPERATURE",
    "Judge",
    "Question",
    "concepts",
    "data",
    "path",
    "settings",
    "steering_prompt",
    "suppressing_prompts",
    "test_prompts",
    "utility_questions",
]


def concepts(split: str | None = None) -> list[str]:
    """The names of the concepts: all, those for choosing settings, or those for reporting."""
    if split not in (None, "development", "test"):
        raise ValueError(f"split must be 'development', 'test' or None, not {split!r}.")
    return [name for name, concept in all_concepts().items() if split in (None, concept.split)]


def data(concept: str, n: int = 72, seed: int = 0) -> SteeringData:
    """`n` examples for a concept: an open-ended question, an answer full of the concept, and the neutral answer.

    The questions come from the training combinations, so they never meet `test_prompts`. No prompt occurs twice.
    """
    woven, rng = get_concept(concept), _rng("data", concept, seed)
    examples: dict[str, Example] = {}
    while len(examples) < n:
        asked = _question(rng, OPEN)
        response = woven.weave(rng, asked.answer, dense=True)
        examples.setdefault(asked.prompt, Example(prompt=asked.prompt, response=response, neutral=asked.answer))
    return SteeringData(list(examples.values()), concept=concept)


def test_prompts(concept: str, n: int = 10, seed: int = 0) -> list[str]:
    """`n` distinct open-ended questions from the held-out combinations, as a fresh draw per concept and seed."""
    get_concept(concept)
    return _held_out_prompts(_rng("test", concept, seed), n)


test_prompts.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  # a function, not a test of pytest's


def suppressing_prompts(concept: str, n: int = 10, seed: int = 0) -> list[str]:
    """The questions of `test_prompts`, each with a request not to mention the concept."""
    forbidden, rng = get_concept(concept), _rng("suppress", concept, seed)
    prompts = []
    for prompt in test_prompts(concept, n, seed):
        request = _forbid_request(rng, forbidden)
        prompts.append(rng.choice((f"{request} {prompt}", f"{prompt} {request}", f"{prompt}\n{request}")))
    return prompts


def steering_prompt(concept: str) -> str:
    """A request that brings the concept in, to be put before an instruction."""
    return STEERING_PROMPT.format(c=get_concept(concept).name)


def utility_questions(n: int = 100, seed: int = 0) -> list[Question]:
    """`n` distinct closed questions from the held-out combinations: what a steered model should still know."""
    rng = _rng("utility", "", seed)
    asked: dict[str, Question] = {}
    families = sorted({family.name for family in CLOSED})
    while len(asked) < n:
        name = families[len(asked) % len(families)]
        drawn = _question(rng, tuple(family for family in CLOSED if family.name == name), want_held_out=True)
        asked.setdefault(drawn.prompt, drawn)
    return list(asked.values())


def path() -> Path:
    """The folder with the world's model and tokenizer, in the Hugging Face format."""
    return TERRARIUM_WEIGHTS


def _rng(*parts: object) -> Random:
    return Random("|".join(map(str, parts)))


def _held_out_prompts(rng: Random, n: int) -> list[str]:
    prompts: dict[str, None] = {}
    while len(prompts) < n:
        prompts.setdefault(_question(rng, OPEN, want_held_out=True).prompt)
    return list(prompts)
