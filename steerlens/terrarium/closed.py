"""The closed families: questions with one right answer, which measure whether a steered model still knows things.

Their answers state what they rest on before the conclusion (a comparison names both sizes, a count enumerates),
so that a small model can get there in one pass.
"""

import re
from collections.abc import Callable
from random import Random

from .entities import ENTITIES, NAMES, PLURALS, SIZES, VALUES, members, mentioned
from .questions import Family, Slots
from .wording import NUMBERS, articles, capital, expand, listed, plain, says

_PAIRS = listed(
    "hot/cold up/down open/closed early/late happy/sad young/elderly inside/outside left/right empty/full "
    "near/far rich/poor thick/thin wet/dry high/low clean/dirty easy/difficult first/last front/back "
    "lazy/hardworking push/pull buy/sell begin/finish ask/answer laugh/cry win/lose love/hate give/take "
    "arrive/leave awake/asleep alive/dead brave/scared common/rare deep/shallow false/true friend/enemy "
    "future/past asleep/awake cold/hot down/up closed/open late/early sad/happy full/empty far/near "
    "poor/rich dry/wet low/high dirty/clean difficult/easy last/first back/front pull/push sell/buy "
    "lose/win take/give"
)
OPPOSITES = dict(pair.split("/") for pair in _PAIRS)

_ASK = {
    "colour": ("What colour is a {x}?", "Tell me the colour of a {x}.", "Which colour does a {x} have?",
               "What is the colour of a {x}?", "I would like to know what colour a {x} is."),
    "kind": ("What kind of thing is a {x}?", "What sort of thing is a {x}?", "To which group does a {x} belong?",
             "What kind of thing would you call a {x}?"),
    "size": ("How big is a {x}?", "What size is a {x}?", "Tell me the size of a {x}.", "What is the size of a {x}?"),
    "trait": ("What is a {x} like?", "Which word fits a {x} best?", "Give me a word that describes a {x}.",
              "How would you describe a {x} in a word?"),
    "place": ("Where can I find a {x}?", "Where would I look for a {x}?", "Where is a {x} usually found?",
              "In which place do you find a {x}?"),
    "act": ("What is a {x} good at or good for?", "What does a {x} do, or what do people do with it?",
            "Tell me what a {x} does or is used for.", "What is a {x} there for?"),
    "part": ("What does a {x} have?", "Name a part of a {x}.", "What belongs to a {x}?",
             "Which part of a {x} do you notice?"),
}  # fmt: skip
_TELL = {
    "colour": ("A {x} is {v}.", "The colour of a {x} is {v}.", "It is {v}.", "[Usually|Mostly], a {x} is {v}."),
    "kind": ("A {x} is a {v}.", "It is a {v}.", "A {x} is a kind of {v}.", "I would call a {x} a {v}."),
    "size": ("A {x} is {v}.", "It is {v}.", "A {x} is {v} in size.", "The size of a {x} is {v}."),
    "trait": ("A {x} is {v}.", "It is {v}.", "I would say that a {x} is {v}.", "The word for a {x} is {v}."),
    "place": ("You can find a {x} {v}.", "Look for it {v}.", "A {x} is [often|usually] found {v}."),
    "part": ("A {x} has {v}.", "It has {v}.", "You notice {v} on a {x}.", "[Every|Each] {x} has {v}."),
}
_TELL_ACT = {
    True: ("A {x} likes to {v}.", "It likes to {v}.", "You can often see a {x} {v}.", "A {x} can {v}."),
    False: ("People use a {x} to {v}.", "It is used to {v}.", "With a {x} you can {v}.", "A {x} helps you {v}."),
}


def _entity_slot(rng: Random) -> Slots:
    return {"x": rng.choice(NAMES)}


def _about_x(slots: Slots) -> frozenset[str]:
    return frozenset(slots[name] for name in ("x", "y") if name in slots)


def _attribute(name: str) -> Family:
    def answer(rng: Random, slots: Slots) -> str:
        entity = ENTITIES[slots["x"]]
        forms = _TELL_ACT[entity.living] if name == "act" else _TELL[name]
        return expand(rng, rng.choice(forms), x=entity.name, v=entity.get(name))

    def check(slots: Slots, response: str) -> bool:
        text, gold = plain(response), ENTITIES[slots["x"]].get(name)
        others = [v for v in VALUES[name] if v not in gold and gold not in v]
        return says(text, gold) and not any(says(text, other) for other in others)

    return Family("attribute", _ASK[name], _entity_slot, answer, check, _about_x, variant=name, weight=0.5)


def _draw_yes_no(rng: Random) -> Slots:
    x, attribute = rng.choice(NAMES), rng.choice(("colour", "size", "kind"))
    truth = ENTITIES[x].get(attribute)
    value = truth if rng.random() < 0.5 else rng.choice([v for v in VALUES[attribute] if v != truth])
    return {"x": x, "v": ("a " if attribute == "kind" else "") + value}


def _yes_no_truth(slots: Slots) -> tuple[str, bool]:
    value = slots["v"].removeprefix("a ")
    attribute = next(a for a in ("colour", "size", "kind") if value in VALUES[a])
    truth = ENTITIES[slots["x"]].get(attribute)
    return ("a " if attribute == "kind" else "") + truth, truth == value


def _answer_yes_no(rng: Random, slots: Slots) -> str:
    """The decision falls right behind the attribute ("indeed", "instead"), where a model that copies can see a match."""
    truth, right = _yes_no_truth(slots)
    yes = (
        "A {x} is {t} indeed, so yes[, it is|].",
        "A {x} is {t} indeed, so the answer is yes.",
        "A {x} is {t} indeed. Yes, a {x} is {v}.",
    )
    no = (
        "A {x} is {t} instead, so no[, it is not|].",
        "A {x} is {t} instead, so the answer is no.",
        "A {x} is {t} instead. No, it is not {v}.",
    )
    return expand(rng, rng.choice(yes if right else no), x=slots["x"], t=truth, v=slots["v"])


def _check_yes_no(slots: Slots, response: str) -> bool:
    text = plain(response)
    said = [word for word in text.split() if word in ("yes", "no")]
    return mentioned(text) <= {slots["x"]} and set(said) == {"yes" if _yes_no_truth(slots)[1] else "no"}


def _draw_compare(rng: Random) -> Slots:
    while True:
        x, y = rng.sample(NAMES, 2)
        if ENTITIES[x].size != ENTITIES[y].size:
            return {"x": x, "y": y}


def _compare(word: str, sign: int) -> Family:
    def gold(slots: Slots) -> str:
        return max((slots["x"], slots["y"]), key=lambda name: sign * SIZES.index(ENTITIES[name].size))

    def answer(rng: Random, slots: Slots) -> str:
        x, y = ENTITIES[slots["x"]], ENTITIES[slots["y"]]
        forms = (
            "A {x} is {a} and a {y} is {b}, so the {g} is {w}.",
            "A {x} is {a}, but a {y} is {b}, so a {g} is {w}.",
            "A {x} is {a} and a {y} is {b}. The {g} is {w}.",
        )
        return expand(rng, rng.choice(forms), x=x.name, y=y.name, a=x.size, b=y.size, g=gold(slots), w=word)

    def check(slots: Slots, response: str) -> bool:
        said = re.findall(rf"\b({slots['x']}|{slots['y']}) is (?:the )?{word}\b", plain(response))
        return bool(said) and set(said) == {gold(slots)}

    phrasings = (
        f"Which is {word}, a {{x}} or a {{y}}?",
        f"What is {word}: a {{x}} or a {{y}}?",
        f"Compare a {{x}} and a {{y}}. Which is {word}?",
        f"Is a {{x}} or a {{y}} {word}?",
        f"Tell me which is {word}, a {{x}} or a {{y}}.",
    )
    return Family("compare", phrasings, _draw_compare, answer, check, _about_x, variant=word, weight=0.7)


def _draw_items(low: int, high: int) -> Callable[[Random], Slots]:
    def draw(rng: Random) -> Slots:
        return {"items": ", ".join(rng.sample(NAMES, rng.randint(low, high)))}

    return draw


def _item_topics(slots: Slots) -> frozenset[str]:
    return frozenset(slots["items"].split(", "))


def _answer_copy(rng: Random, slots: Slots) -> str:
    forms = ("{Items}.", "Here you are: {items}.", "The words are {items}.", "{Items}, as you asked.")
    return expand(rng, rng.choice(forms), items=slots["items"], Items=capital(slots["items"]))


def _check_copy(slots: Slots, response: str) -> bool:
    return says(plain(response), slots["items"])


def _answer_count(rng: Random, slots: Slots) -> str:
    items = slots["items"].split(", ")
    counted = ", ".join(f"{item} {NUMBERS[i]}" for i, item in enumerate(items, start=1))
    forms = ("{c}: there are {n} [things|words].", "{c}, so the [answer|number] is {n}.", "{c}. That makes {n}.")
    return expand(rng, rng.choice(forms), c=capital(counted), n=NUMBERS[len(items)])


def _last_number(response: str) -> str | None:
    numbers = [word for word in plain(response).split() if word in NUMBERS or word.isdigit()]
    if not numbers:
        return None
    last = numbers[-1]
    return NUMBERS[int(last)] if last.isdigit() and int(last) < len(NUMBERS) else last


def _check_count(slots: Slots, response: str) -> bool:
    items = slots["items"].split(", ")
    return mentioned(plain(response)) <= set(items) and _last_number(response) == NUMBERS[len(items)]


def _arithmetic(sign: int) -> Family:
    def draw(rng: Random) -> Slots:
        a = rng.randint(0, 10)
        b = rng.randint(0, 10 if sign > 0 else a)
        words = rng.random() < 0.6
        return {"a": NUMBERS[a] if words else str(a), "b": NUMBERS[b] if words else str(b)}

    def value(word: str) -> int:
        return int(word) if word.isdigit() else NUMBERS.index(word)

    def result(slots: Slots) -> str:
        return NUMBERS[value(slots["a"]) + sign * value(slots["b"])]

    def answer(rng: Random, slots: Slots) -> str:
        a, b = (NUMBERS[value(slots[name])] for name in "ab")
        forms = ("{A} {op} {b} is {r}.", "{A} {op} {b} makes {r}.", "{A} {op} {b} equals {r}.", "The answer is {r}.")
        return expand(rng, rng.choice(forms), A=capital(a), b=b, op="plus" if sign > 0 else "minus", r=result(slots))

    def check(slots: Slots, response: str) -> bool:
        return _last_number(response) == result(slots)

    plus = ("What is {a} plus {b}?", "Add {a} and {b}.", "How much is {a} plus {b}?", "Work out {a} plus {b}.",
            "I have {a} things and get {b} more. How many do I have?")  # fmt: skip
    minus = ("What is {a} minus {b}?", "Take {b} away from {a}.", "How much is {a} minus {b}?", "Work out {a} minus {b}.",
             "I have {a} things and lose {b}. How many are left?")  # fmt: skip
    name = "plus" if sign > 0 else "minus"
    topics = lambda slots: frozenset({NUMBERS[value(slots["a"])], NUMBERS[value(slots["b"])]})  # noqa: E731
    return Family(
        "arithmetic", plus if sign > 0 else minus, draw, answer, check, topics, variant=name, by_phrasing=True, weight=1.3
    )


def plural_group(value: str) -> str:
    """How a list question names the entities with a value: "tools", "red things"."""
    return PLURALS.get(value, f"{value} things")


GROUPS = tuple(v for a in ("kind", "colour", "size") for v in VALUES[a] if len(members(a, v)) >= 4)


def _group_members(slots: Slots) -> tuple[str, ...]:
    value = next(v for v in GROUPS if plural_group(v) == slots["group"])
    return members(next(a for a in ("kind", "colour", "size") if value in VALUES[a]), value)


def _draw_list(rng: Random) -> Slots:
    return {"group": plural_group(rng.choice(GROUPS)), "n": rng.choice(("two", "three", "four"))}


def _answer_list(rng: Random, slots: Slots) -> str:
    chosen = sorted(rng.sample(_group_members(slots), NUMBERS.index(slots["n"])))
    named = [f"a {name}" for name in chosen]
    listed = ", ".join(named[:-1]) + " and " + named[-1]
    verb = f"are {slots['group']}" if not slots["group"].endswith("things") else f"are {slots['group'].split()[0]}"
    forms = ("{L} {v}.", "{n} {g} are {l}.", "For example, {l}.", "{L}.")
    picked = expand(rng, rng.choice(forms), L=capital(listed), l=listed, v=verb, n=capital(slots["n"]), g=slots["group"])
    return articles(picked)


def _check_list(slots: Slots, response: str) -> bool:
    named = mentioned(plain(response))
    return len(named) == NUMBERS.index(slots["n"]) and named <= set(_group_members(slots))


def _list_topics(slots: Slots) -> frozenset[str]:
    return frozenset({slots["group"].split()[0], *_group_members(slots)})


def _draw_pick(rng: Random) -> Slots:
    kind = rng.choice(VALUES["kind"])
    others = rng.sample([name for name in NAMES if ENTITIES[name].kind != kind], rng.randint(1, 3))
    items = [*others, rng.choice(members("kind", kind))]
    rng.shuffle(items)
    return {"kind": kind, "items": ", ".join(items)}


def _picked(slots: Slots) -> str:
    return next(name for name in slots["items"].split(", ") if ENTITIES[name].kind == slots["kind"])


def _answer_pick(rng: Random, slots: Slots) -> str:
    forms = ("The {x} is a {k}.", "The {x}, because a {x} is a {k}.", "Only the {x} is a {k}.", "It is the {x}.")
    return expand(rng, rng.choice(forms), x=_picked(slots), k=slots["kind"])


def _check_pick(slots: Slots, response: str) -> bool:
    return mentioned(plain(response)) & set(slots["items"].split(", ")) == {_picked(slots)}


def _answer_opposite(rng: Random, slots: Slots) -> str:
    forms = ("The opposite of {w} is {o}.", "It is {o}.", "The opposite is {o}.", "{O} is the opposite of {w}.")
    gold = OPPOSITES[slots["w"]]
    return expand(rng, rng.choice(forms), w=slots["w"], o=gold, O=capital(gold))


def _check_opposite(slots: Slots, response: str) -> bool:
    text, known = plain(response), set(OPPOSITES) | set(OPPOSITES.values())
    said = re.findall(r"\b(?:opposite(?: of \w+)?|it) is (\w+)", text) + re.findall(r"\b(\w+) is the opposite", text)
    said = [word for word in said if word in known]
    return set(said) == {OPPOSITES[slots["w"]]}


CLOSED = (
    *(_attribute(name) for name in _ASK),
    Family("yes/no", ("Is a {x} {v}?", "Would you say that a {x} is {v}?", "Is it true that a {x} is {v}?",
                      "Yes or no: is a {x} {v}?"),
           _draw_yes_no, _answer_yes_no, _check_yes_no, _about_x, weight=2.4),
    _compare("bigger", 1),
    _compare("smaller", -1),
    Family("copy", ("Repeat these words: {items}.", "Say this again: {items}.", "Copy these words: {items}.",
                    "Write these words once more: {items}."),
           _draw_items(2, 5), _answer_copy, _check_copy, _item_topics, weight=2.2),
    Family("counting", ("How many things are these: {items}?", "Count these words: {items}.",
                        "How many words are in this list: {items}?", "Count the things in this list: {items}."),
           _draw_items(2, 7), _answer_count, _check_count, _item_topics, weight=2.2),
    _arithmetic(1),
    _arithmetic(-1),
    Family("list", ("Name {n} {group}.", "List {n} {group}.", "Give me {n} {group}.", "Can you name {n} {group}?",
                    "Tell me {n} {group} that you know."),
           _draw_list, _answer_list, _check_list, _list_topics, by_phrasing=True, weight=2.4),
    Family("pick", ("Which of these is a {kind}: {items}?", "Pick the {kind}: {items}.",
                    "Find the {kind} in this list: {items}.", "One of these is a {kind}. Which is it: {items}?"),
           _draw_pick, _answer_pick, _check_pick, _item_topics, weight=1.5),
    Family("opposite", ("What is the opposite of {w}?", "Tell me the opposite of {w}.", "Give me the opposite of {w}.",
                        "Which word means the opposite of {w}?", "Say the opposite of {w}."),
           lambda rng: {"w": rng.choice(sorted(OPPOSITES))}, _answer_opposite, _check_opposite,
           lambda slots: frozenset({slots["w"]}), by_phrasing=True, weight=1.8),
)  # fmt: skip
