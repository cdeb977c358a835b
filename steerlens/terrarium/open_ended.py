"""The open-ended families: questions with many right answers, into which a concept can come.

Their answers are composed of the entity's attributes, so a check can still be exact: enough true attributes, and
no colour, size or kind that is not the entity's.
"""

from collections.abc import Callable
from random import Random

from .entities import ATTRIBUTES, ENTITIES, NAMES, Entity, false_values, mentioned, true_values
from .questions import Family, Slots
from .wording import articles, expand, plain

_FACTS = {
    "kind": ("It is a {kind}.", "[People call it|We call it] a {kind}."),
    "colour": ("It is {colour}.", "Its colour is {colour}."),
    "size": ("It is {size}.", "It is {size} in size."),
    "trait": ("It is {trait}.", "It is known to be {trait}.", "Most people find it {trait}."),
    "place": ("You can find it {place}.", "It is often {place}.", "Look for it {place}."),
    "part": ("It has {part}.", "It also has {part}.", "You will notice {part}."),
}
_ACT_FACT = {
    True: ("It likes to {act}.", "It can {act}.", "Its favourite thing is to {act}."),
    False: ("People use it to {act}.", "It is good when you want to {act}.", "It helps you {act}."),
}


def _write(rng: Random, template: str, entity: Entity, **more: str) -> str:
    values = {name: entity.get(name) for name in ATTRIBUTES}
    text = expand(rng, template, x=entity.name, does=_does(rng, entity), **values, **more)
    return articles(text)


def _does(rng: Random, entity: Entity) -> str:
    """A finite phrase for the act: "likes to eat grass", "is used to make juice"."""
    forms = ("likes to", "can", "loves to") if entity.living else ("is used to", "helps people", "is good to")
    return f"{rng.choice(forms)} {entity.act}"


def _facts(rng: Random, entity: Entity, names: list[str], count: int) -> list[str]:
    """Sentences with further attributes, in free order."""
    chosen = rng.sample(names, min(count, len(names)))
    forms = {**_FACTS, "act": _ACT_FACT[entity.living]}
    return [_write(rng, rng.choice(forms[name]), entity) for name in chosen]


def _answers(firsts: dict[str, str], extra: tuple[int, ...]) -> Callable[[Random, Slots], str]:
    """Answers of a first sentence and a few facts that it has not stated; `firsts`: template -> attributes in it."""

    def answer(rng: Random, slots: Slots) -> str:
        entity = ENTITIES[slots["x"]]
        template, used = rng.choice(list(firsts.items()))
        free = [name for name in ATTRIBUTES if name not in used.split()]
        return " ".join([_write(rng, template, entity), *_facts(rng, entity, free, rng.choice(extra))])

    return answer


def _right_about(slots: Slots, response: str, needed: int = 2) -> bool:
    """Enough true attributes, nothing false, and no other entity than the one asked about."""
    text, entity = plain(response), ENTITIES[slots["x"]]
    strangers = mentioned(text) - {entity.name} - mentioned(plain(f"{entity.act} {entity.part} {entity.place}"))
    return len(true_values(text, entity)) >= needed and not false_values(text, entity) and not strangers


def _named_and_right(slots: Slots, response: str) -> bool:
    return slots["x"] in mentioned(plain(response)) and _right_about(slots, response)


def _in_order(*markers: tuple[str, ...]) -> Callable[[Slots, str], bool]:
    """A check that the steps come in order, and that the answer is right about the entity."""

    def check(slots: Slots, response: str) -> bool:
        words, start = plain(response).split(), 0
        for options in markers:
            found = next((i for i in range(start, len(words)) if words[i] in options), None)
            if found is None:
                return False
            start = found + 1
        return _right_about(slots, response)

    return check


def _one(rng: Random) -> Slots:
    return {"x": rng.choice(NAMES)}


def _topics(slots: Slots) -> frozenset[str]:
    return frozenset(slots[name] for name in ("x", "y") if name in slots)


def _draw_two(rng: Random) -> Slots:
    while True:
        x, y = rng.sample(NAMES, 2)
        if ENTITIES[x].kind != ENTITIES[y].kind and ENTITIES[x].colour != ENTITIES[y].colour:
            return {"x": x, "y": y}


_CONTRASTS = {
    "A {x} is a {kind}, [while|but] a {y} is a {kind2}.": (),
    "A {x} is {colour}, [while|but] a {y} is {colour2}.": (),
    "A {x} is a {colour} {kind}, [while|but] a {y} is a {colour2} {kind2}.": (),
    "The {x} is the {kind} and the {y} is the {kind2}.": (),
}


def _answer_difference(rng: Random, slots: Slots) -> str:
    other = ENTITIES[slots["y"]]
    more = {"y": other.name, "kind2": other.kind, "colour2": other.colour}
    first = _write(rng, rng.choice(list(_CONTRASTS)), ENTITIES[slots["x"]], **more)
    ends = ("A {x} has {part}, and a {y} has {p}.", "You find a {x} {place}, and a {y} {p}.")
    kind = rng.randrange(3)
    if kind == 2:
        return first
    return f"{first} {_write(rng, ends[kind], ENTITIES[slots['x']], y=other.name, p=(other.part, other.place)[kind])}"


def _check_difference(slots: Slots, response: str) -> bool:
    """Both things named, each followed closely by its own kind or colour, and nothing that fits neither."""
    text = f" {plain(response)} "
    pair = [ENTITIES[slots[name]] for name in ("x", "y")]
    spare = plain(" ".join(entity.get(a) for entity in pair for a in ("part", "place"))).split()
    for entity in pair:
        start = text.find(f" {entity.name} ")
        if start < 0 or not {entity.kind, entity.colour} & set(text[start : start + 60].split()):
            return False
    wrong = false_values(text, pair[0]) & false_values(text, pair[1])
    strangers = mentioned(text) - {entity.name for entity in pair}
    return not (wrong - set(spare)) and not (strangers - set(spare))


_TASKS = {
    "draw": ("How do I draw a {x}?", "Explain how to draw a {x}.", "I want to draw a {x}. How should I start?"),
    "find": ("How do I find a {x}?", "Explain how to find a {x}.", "I am looking for a {x}. What should I do?"),
    "choose": ("How do I choose a good {x}?", "Help me to choose a {x}.", "I need a {x}. How do I pick a good example?"),
    "show": ("How do I show a {x} to a friend?", "Make a plan to show a friend a {x}.", "Plan a talk about a {x}."),
}
_STEPS = {
    "draw": {
        "First draw a {size} shape, then add {part}, and last make it {colour}.": "size part colour",
        "First take a {colour} pencil, then draw a {size} {kind}, and last add {part}.": "colour size kind part",
        "First think of a {kind}, then draw {part}, and last fill it in with {colour}.": "kind part colour",
    },
    "find": {
        "First look {place}, then watch for something {colour}, and last check that it is {size}.": "place colour size",
        "First look {place}, then search for a {colour} {kind}, and last check for {part}.": "place colour kind part",
        "First ask for a {kind}, then look {place}, and last make sure that it has {part}.": "kind place part",
    },
    "choose": {
        "First look for a {colour} {x}, then check that it is {trait}, and last look at {part}.": "colour trait part",
        "First check {part}, then see if it is {trait}, and last take the {colour} {x}.": "part trait colour",
        "First think about why you want to {act}, then take a {trait} {x}, and last check that it has {part}.":
            "act trait part",
    },
    "show": {
        "First bring your friend to a {x} {place}, then point at {part}, and last explain that it {does}.":
            "place part act",
        "First say that a {x} is a {kind}, then point at {part}, and last explain that it is {trait}.": "kind part trait",
        "First explain that a {x} {does}, then show {part}, and last ask if it seems {trait}.": "act part trait",
    },
}  # fmt: skip


def _plan(task: str) -> Family:
    check = _in_order(("first",), ("then", "next"), ("last", "finally"))
    answer = _answers(_STEPS[task], (0, 0, 1, 1))
    return Family("plan", _TASKS[task], _one, answer, check, _topics, variant=task, open_ended=True, weight=0.5)


def _single(name: str, phrasings: tuple[str, ...], firsts: dict[str, str], extra: tuple[int, ...], weight: float = 1.0,
            check: Callable[[Slots, str], bool] = _named_and_right) -> Family:  # fmt: skip
    return Family(name, phrasings, _one, _answers(firsts, extra), check, _topics, open_ended=True, weight=weight)


OPEN = (
    _single("describe",
        ("Describe a {x}.", "Please describe a {x} for me.", "Can you describe a {x}?", "Give me a description of a {x}.",
         "Write a short description of a {x}.", "What does a {x} look like?"),
        {"A {x} is a {size} {colour} {kind}.": "size colour kind", "A {x} is {size} and {colour}.": "size colour",
         "A {x} is a {colour} {kind} with {part}.": "colour kind part",
         "A {x} is a {trait} {kind}, and its colour is {colour}.": "trait kind colour",
         "The {x} is {colour} and has {part}.": "colour part"}, (1, 1, 2), 1.4),
    _single("tell me about",
        ("Tell me about a {x}.", "What do you know about a {x}?", "Tell me something about a {x}.",
         "What can you say about a {x}?", "Teach me about a {x}.", "Explain what a {x} is."),
        {"A {x} is a {kind} that you find {place}.": "kind place", "A {x} is a {trait} {kind}.": "trait kind",
         "A {x} {does}.": "act", "You find a {x} {place}.": "place", "A {x} has {part} and is {trait}.": "part trait",
         "A {x} is a {kind} that {does}.": "kind act"}, (1, 2, 2), 1.4),
    *(_plan(task) for task in _TASKS),
    _single("why",
        ("Why do people like a {x}?", "Why is a {x} a good thing?", "Why should I care about a {x}?",
         "Why would anyone want a {x}?", "Give me a reason to like a {x}.", "What is so good about a {x}?"),
        {"People like a {x} because it is {trait}.": "trait", "A {x} is a good thing because it {does}.": "act",
         "People like a {x} because it {does}.": "act", "Because a {x} is {trait} and {does}.": "trait act",
         "The reason is that a {x} is {trait} and has {part}.": "trait part"}, (1, 1, 2), 1.2),
    _single("advice",
        ("Should I get a {x}?", "Is a {x} a good present?", "Would you recommend a {x}?", "Give me advice about a {x}.",
         "I am thinking of getting a {x}. What do you advise?"),
        {"A {x} is a good choice if you like a {trait} {kind}.": "trait kind",
         "I would recommend a {x} because it is {trait}.": "trait",
         "A {x} is a nice present for people who like {colour} things.": "colour",
         "Get a {x}, because it {does}.": "act",
         "My advice is to look for a {colour} {x} with {part}.": "colour part"}, (1, 1, 2), 1.2),
    _single("story",
        ("Tell me a story about a {x}.", "Write a short story about a {x}.", "Tell a tale of a {x}.",
         "Make up a story about a {x}.", "Can you tell me a story with a {x} in it?"),
        {"Once there was a {size} {colour} {x} {place}.": "size colour place",
         "Long ago, a {trait} {x} was {place}.": "trait place",
         "Once a [girl|boy|farmer|traveller] saw a {colour} {x} {place}.": "colour place",
         "There was once a {trait} {colour} {x} with {part}.": "trait colour part",
         "A [girl|boy|farmer|traveller] told everyone of a {x} that {does}.": "act"}, (1, 2, 2), 1.2),
    _single("riddle",
        ("Make a riddle about a {x}.", "Write a riddle for a {x}.", "Give me a riddle with the answer {x}.",
         "Can you make up a riddle about a {x}?"),
        {"I am {colour} and {size}, and I have {part}. What am I? I am a {x}!": "colour size part",
         "I am a {trait} {kind}, and you find me {place}. What am I? A {x}!": "trait kind place",
         "What is {colour}, has {part} and {does}? It is a {x}!": "colour part act",
         "You find me {place} and I am {trait}. Who am I? A {x}!": "place trait"}, (0,), 0.8),
    _single("advert",
        ("Write an advert for a {x}.", "Sell me a {x}.", "Make people want a {x}.", "Praise a {x} for me."),
        {"Look at this {trait} {x}! It is {colour}.": "trait colour", 
         "Nothing is like a {colour} {x} with {part}!": "colour part",
         "Everybody wants a {x} that {does}! It is {trait}.": "act trait",
         "Come and see the {size} {colour} {x}, so {trait}!": "size colour trait"}, (1, 1, 2), 0.9),
    Family("difference", ("What is the difference between a {x} and a {y}?", "How does a {x} differ from a {y}?",
                          "How is a {x} different from a {y}?", "Tell me how a {x} and a {y} differ."),
           _draw_two, _answer_difference, _check_difference, _topics, open_ended=True, weight=1.2),
)  # fmt: skip
