"""The embedded world without its model: families, concepts, the split, the sampler, and the judge."""

from collections import defaultdict
from random import Random

import pytest

from steerlens import terrarium
from steerlens.terrarium.concepts import all_concepts, both_request, forbid_request, get_concept, include_request
from steerlens.terrarium.corpus import question, requested, sample
from steerlens.terrarium.entities import ENTITIES, VALUES
from steerlens.terrarium.families import FAMILIES, FAMILY_NAMES, corrected, misspelt, recognise
from steerlens.terrarium.judge import Judge, fluency
from steerlens.terrarium.open_ended import OPEN
from steerlens.terrarium.outside import outside_prompt, refusal, small_talk
from steerlens.terrarium.questions import held_out

SEA = "the sea and sailing"


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


def drawn(n: int, seed: int = 11, held: bool = True):
    """`n` questions over all families in turn."""
    rng = Random(seed)
    return [question(rng, (FAMILIES[i % len(FAMILIES)],), held) for i in range(n)]


def concept_of(i: int):
    everything = list(all_concepts().values())
    return everything[i % len(everything)]


def test_size_of_the_world():
    assert len(ENTITIES) >= 100
    assert len(FAMILY_NAMES) >= 12
    assert len(terrarium.concepts("development")) == 8
    assert len(terrarium.concepts("test")) == 14
    assert terrarium.concepts() == terrarium.concepts("development") + terrarium.concepts("test")
    with pytest.raises(ValueError, match="split"):
        terrarium.concepts("train")


def test_lexicons_are_disjoint_and_their_own_pieces_carry_them():
    rng = Random(0)
    for concept in all_concepts().values():
        assert len(concept.words) >= 18, concept.name
        for other in all_concepts().values():
            if other is not concept:
                assert not concept.words & other.words, (concept.name, other.name)
        pieces = [*concept.calls, *concept.acts, *concept.scenes, *concept.similes]
        for _ in range(20):
            text = concept.fill(rng, " ".join(("{call}", "{act}", "{scene}", "{simile}")))
            assert len(concept.terms(text)) >= 2
            assert not any(other.terms(text) for other in all_concepts().values() if other is not concept), text
        assert len(pieces) >= 20


def test_lexicons_are_absent_from_the_world_outside_them():
    rng = Random(5)
    texts = [q.answer for q in drawn(1500, held=False)] + [refusal(rng) for _ in range(300)]
    texts += [small_talk(rng)[1] for _ in range(100)]
    texts += [str(value) for values in VALUES.values() for value in values] + list(ENTITIES)
    everything = "\n".join(texts)
    for concept in all_concepts().values():
        assert not concept.terms(everything), (concept.name, concept.terms(everything))


def test_gold_answers_pass_their_own_check_plain_and_woven():
    rng = Random(3)
    for i, one in enumerate(drawn(400)):
        assert one.check(one.answer), one
        woven = concept_of(i).weave(rng, one.answer, dense=i % 2 == 0)
        assert one.check(woven), (one.prompt, woven)


def test_woven_answers_score_near_two(judge: Judge):
    rng, totals = Random(4), defaultdict(list)
    for i, one in enumerate(drawn(200)):
        concept = concept_of(i)
        for dense in (True, False):
            scores = judge.score(concept.name, one.prompt, concept.weave(rng, one.answer, dense))
            totals[dense].append(scores.overall)
    assert sum(totals[True]) / len(totals[True]) > 1.97
    assert sum(totals[False]) / len(totals[False]) > 1.9


def test_neutral_answers_score_two_two_zero(judge: Judge):
    scores = [judge.score(concept_of(i).name, one.prompt, one.answer) for i, one in enumerate(drawn(400))]
    assert all(s.concept == 0 and s.instruct == 2 and s.overall == 0 for s in scores)
    assert sum(s.fluency == 2 for s in scores) / len(scores) > 0.97


def test_shuffled_text_is_not_fluent(judge: Judge):
    rng = Random(6)
    for i, one in enumerate(drawn(300)):
        text = concept_of(i).weave(rng, one.answer, dense=True) if i % 2 else one.answer
        words = text.split()
        if len(words) < 8 or one.family in ("copy", "counting"):
            continue
        rng.shuffle(words)
        assert fluency(" ".join(words)) == 0, words


def test_shuffled_lists_and_short_answers_lose_fluency():
    assert fluency("is A yellow. lemon") == 0
    assert fluency("") == 0
    assert fluency("zxqv blorp gnarf.") == 0


def test_repetition_and_broken_endings_cost_fluency():
    good = "A lemon is a small yellow fruit. It has a thick peel."
    assert fluency(good) == 2
    assert fluency(good.removesuffix(".")) == 1
    assert fluency(" ".join([good] * 3)) == 0
    assert fluency("A lemon is yellow. " * 8) == 0


def test_wrong_answers_lower_instruct(judge: Judge):
    cases = {
        "What colour is a lemon?": ("A lemon is yellow.", "A lemon is green.", "The hat is black."),
        "Is a lemon blue?": ("A lemon is yellow, so no.", "A lemon is blue, so yes.", "The hat is black."),
        "Which is bigger, a cow or a bee?": (
            "A cow is large and a bee is tiny, so the cow is bigger.",
            "A cow is large and a bee is tiny, so the bee is bigger.",
            "The hat is black.",
        ),
        "What is three plus four?": ("Three plus four is seven.", "Three plus four is eight.", "The hat is black."),
        "Describe a lemon.": ("A lemon is a small yellow fruit.", "A lemon is a huge blue tool.", "The hat is black."),
        "Repeat these words: cup, cow.": ("Cup, cow.", "Cow, cow.", "The hat is black."),
        "Tell me a story about a lemon.": (
            "Once there was a small yellow lemon on the table.",
            "Once there was a small green lemon on the table.",
            "The hat is black.",
        ),
    }
    for prompt, texts in cases.items():
        assert [judge.score(SEA, prompt, text).instruct for text in texts] == [2, 1, 0], prompt


def test_answers_to_other_questions_of_the_family_are_wrong():
    questions, accepted = drawn(700), 0
    for one, other in zip(questions, questions[len(FAMILIES) :], strict=False):
        assert one.family == other.family
        accepted += one.key != other.key and one.check(other.answer)
    assert accepted / len(questions) < 0.02


def test_concept_grades(judge: Judge):
    prompt, answer = "Describe a lemon.", "A lemon is a small yellow fruit"
    grades = [f"{answer}.", f"{answer}, like the tide.", f"{answer}, like a sailor on the sea."]
    assert [judge.score(SEA, prompt, text).concept for text in grades] == [0, 1, 2]
    assert judge.score("music and songs", prompt, grades[2]).concept == 0


def test_unknown_concept_and_unknown_prompt(judge: Judge):
    with pytest.raises(ValueError, match=r"no concept 'the see'.*the sea and sailing"):
        judge.score("the see", "Describe a lemon.", "A lemon is yellow.")
    for make in (terrarium.data, terrarium.test_prompts, terrarium.suppressing_prompts, terrarium.steering_prompt):
        with pytest.raises(ValueError, match="no concept"):
            make("the see")
    unasked = judge.score(SEA, "Explain quantum physics in simple words.", "I am sorry, but I do not know that.")
    assert unasked.instruct is None and unasked.overall is None


def test_questions_are_recognised_behind_requests_in_lower_case_and_misspelt():
    rng = Random(8)
    for i, one in enumerate(drawn(500)):
        concept, other = concept_of(i), concept_of(i + 1)
        request = (include_request(rng, concept), forbid_request(rng, concept), both_request(rng, concept, other))[i % 3]
        prompt = requested(rng, one.prompt, request)
        prompt = misspelt(rng, prompt) if i % 2 else prompt
        prompt = prompt.lower() if i % 5 == 0 else prompt
        found = recognise(prompt)
        assert found is not None, prompt
        assert found.family.name == one.family, (prompt, found)
        assert found.family.check(found.slots, one.answer), (prompt, found)


def test_misspelling_is_undone():
    assert corrected("lemno") == "lemon"
    assert corrected("descibe") == "describe"
    assert recognise("descibe a lemno") is not None
    assert recognise("What colour is a zeppelin?") is None


def test_outside_prompts_are_not_recognised():
    rng = Random(9)
    assert not [p for p in (outside_prompt(rng) for _ in range(300)) if recognise(p) is not None]


def test_the_training_sampler_never_asks_what_is_held_out():
    rng = Random(10)
    keys = [key for _ in range(2000) for key in sample(rng).keys]
    assert len(keys) > 1200
    assert not any(held_out(key) for key in keys)


def test_the_mix_has_every_ingredient():
    rng = Random(12)
    kinds = [sample(rng).kind for _ in range(1500)]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert {"plain", "include", "forbid", "both", "same", "outside", "small talk", "about", "document"} == set(shares)
    assert 0.40 < shares["plain"] < 0.55 and 0.22 < shares["include"] < 0.33


def test_data_and_test_prompts_are_disjoint_and_seeded():
    for name in terrarium.concepts():
        train, test = terrarium.data(name), terrarium.test_prompts(name, n=20)
        prompts = [example.prompt for example in train.examples]
        assert len(prompts) == len(set(prompts)) == 72 and len(set(test)) == 20
        assert not set(prompts) & set(test)
    assert terrarium.data(SEA, n=9, seed=3).examples == terrarium.data(SEA, n=9, seed=3).examples
    assert terrarium.data(SEA, n=9, seed=3).examples != terrarium.data(SEA, n=9, seed=4).examples
    assert terrarium.test_prompts(SEA) == terrarium.test_prompts(SEA) != terrarium.test_prompts(SEA, seed=1)


def test_data_weaves_densely_and_answers(judge: Judge):
    for name in terrarium.concepts():
        concept = get_concept(name)
        for example in terrarium.data(name, n=24).examples:
            first = example.response.split(". ")[0] + example.response.split("! ")[0]
            assert concept.terms(first), example
            assert judge.score(name, str(example.prompt), example.response).instruct == 2
            assert example.neutral is not None and not concept.terms(example.neutral)


def test_data_questions_are_training_combinations_and_test_questions_are_held_out():
    for i, name in enumerate(terrarium.concepts("development")):
        for prompt, expected in (
            *((example.prompt, False) for example in terrarium.data(name, n=12, seed=i).examples),
            *((prompt, True) for prompt in terrarium.test_prompts(name, n=12, seed=i)),
        ):
            found = recognise(str(prompt))
            assert found is not None
            assert found.family in OPEN
            assert held_out(found.family.key(found.slots, 0)) is expected, prompt


def test_suppressing_prompts_forbid_and_ask_the_same(judge: Judge):
    asked, forbidden = terrarium.test_prompts(SEA), terrarium.suppressing_prompts(SEA)
    assert all(question in prompt and len(prompt) > len(question) for question, prompt in zip(asked, forbidden, strict=False))
    assert SEA in terrarium.steering_prompt(SEA)


def test_utility_questions():
    asked = terrarium.utility_questions(100)
    assert len(asked) == 100 and len({q.prompt for q in asked}) == 100
    assert all(q.held_out and q.check(q.answer) and not q.check("I am sorry.") for q in asked)
    assert len({q.family for q in asked}) >= 9
