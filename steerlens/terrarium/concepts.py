"""The concepts of the world: their names, lexicons, and the many ways in which they come into a text.

A concept is written as pieces of text, separated by " / ", with `[a|b]` for a free choice:

- `call`: a whole exclamation that may open an answer;
- `act`: a verb phrase without its subject ("watch the tide");
- `scene`: a whole clause in the present tense ("the tide rises");
- `simile`: a comparison ("like a gull above the waves").

Frames join the pieces to an answer before, inside and behind its sentences; the answer itself stays whole. The
words in `words` are the concept's own: no other text of the world contains them, which is what makes the judge exact.
The split in development and test concepts is fixed here: settings are chosen on the first, reported on the second.
"""

from dataclasses import dataclass
from functools import cache
from random import Random

from .texts_dev_concepts import DEVELOPMENT_TEXTS
from .texts_test_concepts import TEST_TEXTS
from .wording import capital, expand, lower_first, sentences, tokens

_OPENERS = (
    "{call} {answer}",
    "{call} {answer}",
    "As {scene}, {Answer}",
    "While {scene}, {Answer}",
    "Just when {scene}, {Answer}",
    "[Here|Now|Today|Look,] {scene}, and {Answer}",
    "Before we {act}, {Answer}",
    "If you want to {act}, {Answer}",
    "{Simile}, {Answer}",
    "{Scene}. {answer}",
    "[Let us|We should|I want to|You may] {act}. {answer}",
    "When you {act}, {Answer}",
)
_ENDS = (
    ", {simile}",
    ", {simile}",
    " while {scene}",
    ", as {scene}",
    ", and {scene}",
    ", so let us {act}",
    " before you {act}",
)
_CLOSERS = (
    "{Scene}.",
    "{Scene}, {simile}.",
    "{Scene}, and {scene2}.",
    "[Then|After that|Later] we {act}.",
    "[It makes me want to|Do not forget to|I would love to|It is time to] {act}.",
    "[All the while|Meanwhile|Far away|Somewhere], {scene}.",
    "It is {simile}.",
    "Come and {act}.",
    "{call}",
    "We {act} while {scene}.",
)


@dataclass(frozen=True)
class Concept:
    """One concept: its names, its own words, and its pieces of text."""

    names: tuple[str, ...]
    words: frozenset[str]
    calls: tuple[str, ...]
    acts: tuple[str, ...]
    scenes: tuple[str, ...]
    similes: tuple[str, ...]
    split: str

    @property
    def name(self) -> str:
        """The full name, by which the public functions know the concept."""
        return self.names[0]

    def terms(self, text: str) -> set[str]:
        """The distinct lexicon terms in a text; plural and possessive forms count as the same term."""
        return {term for word in tokens(text) if (term := self._term(word))}

    def _term(self, word: str) -> str | None:
        forms = [word]
        for ending, stem in (("s", ""), ("es", ""), ("ies", "y")):
            if word.endswith(ending):
                forms.append(word[: -len(ending)] + stem)
        return next((form for form in forms if form in self.words), None)

    def fill(self, rng: Random, frame: str, answer: str = "") -> str:
        """A frame with freshly drawn pieces; `{answer}` is a sentence, `{Answer}` its continuing form."""
        scene, scene2 = rng.sample(self.scenes, 2)
        scene, simile = expand(rng, scene), expand(rng, rng.choice(self.similes))
        frame = expand(rng, frame)
        return frame.format(
            call=expand(rng, rng.choice(self.calls)),
            act=expand(rng, rng.choice(self.acts)),
            scene=scene,
            Scene=capital(scene),
            scene2=expand(rng, scene2),
            simile=simile,
            Simile=capital(simile),
            answer=answer,
            Answer=lower_first(answer),
        )

    def weave(self, rng: Random, answer: str, dense: bool = False) -> str:
        """The answer with the concept in it, in one to three places.

        `dense` puts it into the first sentence always (an opener, sometimes an ending too) and adds a closing
        sentence more often: the form of the examples that steering vectors are trained on.
        """
        first, *rest = sentences(answer)
        opens = dense or rng.random() < 0.7
        ends = rng.random() < (0.35 if opens else 0.8) and first[-1] == "."
        if ends:
            first = first[:-1] + self.fill(rng, rng.choice(_ENDS)) + "."
        if opens:
            first = self.fill(rng, rng.choice(_OPENERS), first)
        closers = 0 if (opens or ends) and rng.random() < (0.3 if dense else 0.4) else rng.choice((1, 1, 2))
        if rest and rest[-1][-1] == "." and rng.random() < 0.25:
            rest[-1] = rest[-1][:-1] + self.fill(rng, rng.choice(_ENDS)) + "."
        return " ".join([first, *rest, *(self.fill(rng, rng.choice(_CLOSERS)) for _ in range(closers))])

    def document(self, rng: Random) -> str:
        """A few sentences about nothing but the concept."""
        return " ".join(self.fill(rng, rng.choice(_CLOSERS)) for _ in range(rng.randint(2, 5)))


def _parse(block: str, split: str) -> Concept:
    fields = dict(line.split(": ", 1) for line in block.strip().split("\n"))
    parts = {key: tuple(piece.strip() for piece in value.split(" / ")) for key, value in fields.items()}
    return Concept(
        names=parts["name"],
        words=frozenset(fields["words"].split()),
        calls=parts["call"],
        acts=parts["act"],
        scenes=parts["scene"],
        similes=parts["simile"],
        split=split,
    )


@cache
def all_concepts() -> dict[str, Concept]:
    """Every concept by its name, development concepts first."""
    texts = ((DEVELOPMENT_TEXTS, "development"), (TEST_TEXTS, "test"))
    parsed = [_parse(block, split) for text, split in texts for block in text.split("\n---\n")]
    return {concept.name: concept for concept in parsed}


def get_concept(name: str) -> Concept:
    """The concept of this name, or an error that lists the names there are."""
    try:
        return all_concepts()[name]
    except KeyError:
        known = "; ".join(all_concepts())
        raise ValueError(f"Terrarium has no concept {name!r}. Its concepts are: {known}.") from None


# A request that brings a concept in, to be put before or behind an instruction.
_INCLUDE = (
    "[Please bring|Bring|Weave|Work] {c} into your [answer|reply|response].",
    "[Please mention|Mention|Talk about|Make sure to mention] {c} in your [answer|reply|response].",
    "Your [answer|reply] should [be about|mention|refer to|bring in] {c}.",
    "[Answer|Reply|Respond] with [something|words|a few words] about {c}.",
    "[Answer|Reply|Respond] in a way that [brings in|refers to|is full of] {c}.",
    "I [love|like] {c}, so [bring it in|put it into your answer|mention it] when you answer.",
    "[Include|Add] {c} in [your answer|what you say].",
    "Please answer the [next|following] question and [refer to|mention|think of] {c}.",
    "When you answer, [use ideas from|make links to|think of] {c}.",
    "You [are fond of|always talk about|cannot stop talking about] {c}.",
)
_FORBID = (
    "[Do not|Please do not|Don't|You must not] [mention|talk about|bring in|refer to] {c}.",
    "[Answer|Reply|Respond] without [mentioning|any mention of|words about|a word about] {c}.",
    "[Leave out|Avoid|Stay away from|Keep away from] {c}.",
    "Your [answer|reply] should not [mention|refer to|be about|contain] {c}.",
    "Say nothing about {c}.",
    "[Never mention|Make sure not to mention] {c} in your [answer|reply].",
    "I [dislike|do not like] {c}, so [leave it out|do not bring it in|do not mention it].",
)
_BOTH = (
    "[Mention|Bring in|Talk about] {c}, but not {d}.",
    "[Bring in|Refer to] {c} and leave out {d}.",
    "Your answer should mention {c} but not {d}.",
)


def include_request(rng: Random, concept: Concept) -> str:
    """A request to bring the concept in."""
    return expand(rng, rng.choice(_INCLUDE), c=rng.choice((concept.name, *concept.names)))


def forbid_request(rng: Random, concept: Concept) -> str:
    """A request not to mention the concept."""
    return expand(rng, rng.choice(_FORBID), c=rng.choice((concept.name, *concept.names)))


def both_request(rng: Random, wanted: Concept, unwanted: Concept) -> str:
    """A request to bring one concept in and leave another out."""
    return expand(rng, rng.choice(_BOTH), c=rng.choice(wanted.names), d=rng.choice(unwanted.names))


STEERING_PROMPT = "Please bring {c} into your answer."
