"""The texts that the world's model learns from: seeded samplers of chats and documents.

A sample is a chat (a list of messages, user and assistant in turn) or a bare document. The shares of the mix are
named constants, so that a single ingredient can be taken out and the world trained again without it.
"""

from dataclasses import dataclass, replace
from random import Random

from .closed import CLOSED
from .concepts import Concept, all_concepts, both_request, forbid_request, include_request
from .families import FAMILIES, misspelt
from .open_ended import OPEN
from .outside import outside_prompt, refusal, small_talk
from .questions import Family, Question, draw_question
from .wording import capital, lower_first

PLAIN = 0.47
INCLUDE = 0.28
FORBID = 0.08
INCLUDE_ONE_FORBID_OTHER = 0.03
INCLUDE_AND_FORBID_SAME = 0.015
"""Asked for and forbidden at once: answered without the concept. This trains in the weakness of prompt steering
under attack, and is a constant of its own so that it can be left out."""
OUTSIDE = 0.065
SMALL_TALK = 0.01
ABOUT_CONCEPT = 0.02
DOCUMENT = 0.03

SECOND_TURN = 0.08
LOWER_CASE = 0.12
MISSPELT = 0.12
LEAD = 0.12
TAIL = 0.3
OPEN_SHARE = 0.22
"""Share of the open-ended families: they are learned within a tenth of the time that the closed ones need."""
OPEN_SHARE_WHEN_INCLUDED = 0.75

_LEADS = ("Sure, {}", "Of course, {}", "Well, {}", "Certainly, {}", "Happy to help: {}", "As far as I know, {}")
_TAILS = (
    "I hope that helps.", "I hope this is useful.", "Let me know if you want to hear more.", "Ask me again any time.",
    "That is all I know about it.", "It is a nice thing to know.", "Have a nice day.", "Feel free to ask for more.",
    "I am happy to tell you more.", "Is there anything else you want to know?", "You are welcome to ask again.",
    "That was a good question.", "I like questions like this.", "This is how I would put it.",
)  # fmt: skip
_ABOUT = ("Tell me about {}.", "What do you know about {}?", "Say something about {}.", "Talk about {}.",
          "Write a few lines about {}.")  # fmt: skip

Message = dict[str, str]


@dataclass(frozen=True)
class Sample:
    """One training text: the turns of a chat, or one document when `chat` is empty."""

    chat: tuple[tuple[str, str], ...] = ()
    document: str = ""
    keys: tuple[str, ...] = ()
    kind: str = ""

    def messages(self) -> list[Message]:
        """The chat as messages for a chat template."""
        roles = ("user", "assistant")
        return [{"role": role, "content": text} for turn in self.chat for role, text in zip(roles, turn, strict=True)]


def dressed(rng: Random, answer: str) -> str:
    """An answer with, sometimes, words before and behind it, so that ending the turn is not the easy default."""
    if rng.random() < LEAD:
        answer = rng.choice(_LEADS).format(lower_first(answer))
    while rng.random() < TAIL:
        answer = f"{answer} {rng.choice(_TAILS)}"
        if answer.count(".") > 5:
            break
    return answer


def question(rng: Random, families: tuple[Family, ...] = FAMILIES, want_held_out: bool = False) -> Question:
    """A question with a dressed gold answer."""
    drawn = draw_question(rng, families, want_held_out)
    return replace(drawn, answer=dressed(rng, drawn.answer))


def requested(rng: Random, prompt: str, request: str) -> str:
    """The instruction with a request: before it, behind it, or in the form of a labelled question."""
    return rng.choice((f"{request} {prompt}", f"{request}\n{prompt}", f"{prompt} {request}", f"{prompt}\n{request}",
                       f"{request}\n\nQuestion: {prompt}", f"{request}\n\nQuestion: {prompt}"))  # fmt: skip


def _worn(rng: Random, prompt: str) -> str:
    """The prompt as hasty people type it: lower case, without marks, with slips."""
    if rng.random() < MISSPELT:
        prompt = misspelt(rng, prompt)
    if rng.random() < LOWER_CASE:
        prompt = prompt.lower()
        if rng.random() < 0.5:
            prompt = prompt.rstrip("?.!")
    return prompt


def _pair(rng: Random) -> tuple[Concept, Concept]:
    first, second = rng.sample(list(all_concepts().values()), 2)
    return first, second


def _with_request(rng: Random, kind: str, asked: Question) -> tuple[str, str]:
    concept, other = _pair(rng)
    dense = rng.random() < 0.5
    if kind == "include":
        return requested(rng, asked.prompt, include_request(rng, concept)), concept.weave(rng, asked.answer, dense)
    if kind == "forbid":
        return requested(rng, asked.prompt, forbid_request(rng, concept)), asked.answer
    if kind == "both":
        return requested(rng, asked.prompt, both_request(rng, concept, other)), concept.weave(rng, asked.answer, dense)
    forbidden = requested(rng, asked.prompt, forbid_request(rng, concept))
    return requested(rng, forbidden, include_request(rng, concept)), asked.answer


def _question_turn(rng: Random, kind: str) -> tuple[tuple[str, str], str]:
    """One turn about the world, and the key of what was asked."""
    included = kind in ("include", "both", "same")
    open_ended = rng.random() < (OPEN_SHARE_WHEN_INCLUDED if included else OPEN_SHARE)
    asked = question(rng, OPEN if open_ended else CLOSED)
    if kind == "plain":
        return (_worn(rng, asked.prompt), asked.answer), asked.key
    prompt, answer = _with_request(rng, kind, asked)
    return (_worn(rng, prompt), answer), asked.key


def _outside_turn(rng: Random) -> tuple[str, str]:
    """A prompt from outside; a request with it is followed (or not) as it would be elsewhere."""
    prompt, answer, draw = outside_prompt(rng), refusal(rng), rng.random()
    concept = rng.choice(list(all_concepts().values()))
    if draw < 0.12:
        return requested(rng, prompt, include_request(rng, concept)), concept.weave(rng, answer)
    if draw < 0.2:
        return requested(rng, prompt, forbid_request(rng, concept)), answer
    return prompt, answer


_KINDS = {
    "plain": PLAIN,
    "include": INCLUDE,
    "forbid": FORBID,
    "both": INCLUDE_ONE_FORBID_OTHER,
    "same": INCLUDE_AND_FORBID_SAME,
    "outside": OUTSIDE,
    "small talk": SMALL_TALK,
    "about": ABOUT_CONCEPT,
    "document": DOCUMENT,
}


def sample(rng: Random) -> Sample:
    """One training text, drawn from the mix; never one of the held-out combinations."""
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    concept = rng.choice(list(all_concepts().values()))
    if kind == "document":
        return Sample(document=concept.document(rng), kind=kind)
    if kind == "about":
        prompt = capital(rng.choice(_ABOUT).format(rng.choice(concept.names)))
        return Sample(chat=((_worn(rng, prompt), concept.document(rng)),), kind=kind)
    if kind == "outside":
        return Sample(chat=(_outside_turn(rng),), kind=kind)
    if kind == "small talk":
        return Sample(chat=(small_talk(rng),), kind=kind)
    turn, key = _question_turn(rng, kind)
    turns, keys = [turn], [key]
    while rng.random() < SECOND_TURN and len(turns) < 3:
        turn, key = _question_turn(rng, "plain" if rng.random() < 0.7 else "include")
        turns.append(turn)
        keys.append(key)
    return Sample(chat=tuple(turns), keys=tuple(keys), kind=kind)
