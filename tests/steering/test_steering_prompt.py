"""Steering prompts: the same as a prompt written by hand, beside vectors and alone, and hidden from the judge."""

import inspect
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import PROMPTS

import steerlens
from steerlens import PerPrompt, Scores, ScriptedJudge, SteeringPrompt
from steerlens.evaluation.scoring import accuracy
from steerlens.steering import hooks as steering

SEA = SteeringPrompt("Mention the sea.", concept="sea")
CHAT = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "Name a town."},
]
SETTINGS: dict[str, Any] = {"max_new_tokens": 8, "seed": 3}


def by_hand(prompt: str, text: str = SEA.text) -> str:
    return f"{text}\n\nQuestion: {prompt}"


HAND = [by_hand(prompt) for prompt in PROMPTS]


# --- the prompt -------------------------------------------------------------------------------------------------------


def test_the_text_stands_before_the_instruction() -> None:
    assert SEA.apply("Name a town.") == "Mention the sea.\n\nQuestion: Name a town."
    assert SteeringPrompt("Be brief.", separator=" ").apply("Why?") == "Be brief. Why?"


def test_in_a_conversation_it_stands_in_the_last_message() -> None:
    before = [dict(message) for message in CHAT]
    changed = SEA.apply(CHAT)
    assert changed == [*before[:2], {"role": "user", "content": by_hand("Name a town.")}]
    assert before == CHAT and changed is not CHAT and changed[-1] is not CHAT[-1]
    assert SEA.apply(({"role": "user", "content": "Why?"},)) == [{"role": "user", "content": by_hand("Why?")}]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it must be a text"):
        SteeringPrompt(text)


# --- generating -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [True, False])
def test_generate_is_as_with_the_prompt_written_by_hand(model: Any, chat: bool) -> None:
    responses = steerlens.generate(model, PROMPTS, SEA, chat=chat, **SETTINGS)
    assert responses == steerlens.generate(model, HAND, chat=chat, **SETTINGS)
    assert responses != steerlens.generate(model, PROMPTS, chat=chat, **SETTINGS), "it does something"


def test_one_prompt_and_conversations(model: Any) -> None:
    written = [*CHAT[:2], {"role": "user", "content": by_hand("Name a town.")}]
    assert steerlens.generate(model, CHAT, SEA, **SETTINGS) == steerlens.generate(model, written, **SETTINGS)
    assert steerlens.generate(model, "Why?", SEA, **SETTINGS) == steerlens.generate(model, by_hand("Why?"), **SETTINGS)


@pytest.mark.parametrize("positions", ["p2+s2", "all"])
def test_beside_a_vector_it_is_the_prompt_by_hand_and_the_vector(
    model: Any, make_vector: Callable[..., Any], positions: str
) -> None:
    sv = make_vector(positions=positions)
    expected = steerlens.generate(model, HAND, sv, **SETTINGS)
    assert steerlens.generate(model, PROMPTS, [SEA, sv], **SETTINGS) == expected
    assert steerlens.generate(model, PROMPTS, [sv, SEA], **SETTINGS) == expected
    assert expected != steerlens.generate(model, PROMPTS, sv, **SETTINGS)
    assert expected != steerlens.generate(model, HAND, **SETTINGS)


def test_per_prompt_mixes_vectors_steering_prompts_and_none(model: Any, make_vector: Callable[..., Any]) -> None:
    """In batches of two, so that the rows of each are found again."""
    first, second, brief = make_vector(1), make_vector(2, layer=2, positions="all"), SteeringPrompt("Be brief.")
    mixed = PerPrompt([SEA, first, None, second, brief])
    written = [by_hand(PROMPTS[0]), *PROMPTS[1:4], by_hand(PROMPTS[4], "Be brief.")]
    expected = steerlens.generate(model, written, PerPrompt([None, first, None, second, None]), **SETTINGS)
    assert steerlens.generate(model, PROMPTS, mixed, batch_size=2, **SETTINGS) == expected
    plain = steerlens.generate(model, PROMPTS, **SETTINGS)
    assert [a == b for a, b in zip(plain, expected, strict=True)] == [False, False, True, False, False]


def test_a_wrong_number_of_them_is_refused(model: Any) -> None:
    for n in (1, 3):
        with pytest.raises(ValueError, match=f"PerPrompt has {n} vectors for 2 prompts"):
            steerlens.generate(model, PROMPTS[:2], PerPrompt([SEA] * n), **SETTINGS)


def test_the_text_counts_for_the_context(model: Any) -> None:
    with pytest.raises(ValueError, match=r"prompt 1 has \d+ tokens.*exceeds the context"):
        steerlens.generate(model, ["a", "b"], PerPrompt([None, SteeringPrompt("x" * 600)]), **SETTINGS)


def test_steer_refuses_it_and_says_where_it_goes(
    model: Any, make_vector: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the test-time type checks, as a user would."""
    monkeypatch.setattr(steering, "as_list", inspect.unwrap(steering.as_list))
    steer = contextmanager(inspect.unwrap(steering.steer))
    wrong: Any
    for wrong in (SEA, [make_vector(), SEA]):
        with pytest.raises(TypeError, match=r"changes the prompt.*give it to generate or evaluate"), steer(model, wrong):
            pass


# --- judging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_prompt", [False, True])
def test_the_judge_is_shown_the_prompt_without_it(model: Any, per_prompt: bool) -> None:
    judge = ScriptedJudge(lambda concept, prompt, response: Scores(1, 2, 2))
    steer = PerPrompt([SEA, None, SEA, None, SEA, SEA]) if per_prompt else SEA
    evaluation = steerlens.evaluate(model, steer, "sea", [*PROMPTS, CHAT], judge, **SETTINGS)
    shown = [*PROMPTS, "Name a town."]
    assert [call[:2] for call in judge.calls] == [("sea", prompt) for prompt in shown]
    assert evaluation.frame["prompt"].tolist() == shown
    responses = steerlens.generate(model, [*PROMPTS, CHAT], steer, **SETTINGS)
    assert [call[2] for call in judge.calls] == responses == evaluation.frame["response"].tolist()


def test_accuracy_asks_with_it(model: Any) -> None:
    answers: dict[str, str] = dict(zip(PROMPTS, steerlens.generate(model, HAND, max_new_tokens=8, temperature=0), strict=True))

    class Asked:
        def __init__(self, prompt: str) -> None:
            self.prompt = prompt

        def check(self, response: str) -> bool:
            return response == answers[self.prompt]

    questions = [Asked(prompt) for prompt in PROMPTS]
    assert accuracy(model, SEA, questions, max_new_tokens=8) == 1
    assert accuracy(model, None, questions, max_new_tokens=8) < 1


def test_the_first_of_several_stands_first(model: Any) -> None:
    first, second = SteeringPrompt("Be kind."), SteeringPrompt("Be brief.")
    written = "Be kind.\n\nQuestion: Be brief.\n\nQuestion: Hi"
    expected = steerlens.generate(model, written, **SETTINGS)
    assert steerlens.generate(model, "Hi", [first, second], **SETTINGS) == expected
    assert steerlens.generate(model, "Hi", [second, first], **SETTINGS) != expected
