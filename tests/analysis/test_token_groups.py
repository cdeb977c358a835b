"""The groups of tokens against the template written out by hand, on four architectures and on the embedded model."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import pytest
from conftest import PROMPTS
from tiny import MARKS, Bench

import steerlens
from steerlens.analysis.token_groups import GROUPS, token_groups
from steerlens.model.batches import EncodedExample
from steerlens.steering.recording import encode

USER, MODEL, END = "<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n"


def by_group(model: Any, prompt: Any, response: str = "So it is.", chat: bool = True) -> list[tuple[str, str]]:
    """(group, its text), run by run."""
    (example,) = encode(model, [prompt], [response], chat=chat)
    ids = [*example.prompt, *example.response]
    groups = token_groups(model, prompt, example, chat)
    assert len(groups) == len(ids) and set(groups) <= set(GROUPS)
    runs = groupby(zip(groups, ids, strict=True), key=lambda pair: pair[0])
    return [(group, model.tokenizer.decode([token for _, token in run])) for group, run in runs]


# "1" and "2" are what the instruction is replaced by; the others repeat parts of the template
@pytest.mark.parametrize("prompt", [*PROMPTS, "1", "2", "12", "21", "\n", "user\n", "<start_of_turn>model\n", "1 or 2?"])
def test_groups_are_those_of_the_template(bench: Bench, prompt: str) -> None:
    mark = MARKS[bench.model.cfg.model_name.removeprefix("tiny-")][0]
    expected = [("bos", mark)] if mark else []
    expected += [("template prefix", USER), ("instruction", prompt)]
    expected += [("template suffix", END + MODEL), ("response", "So it is.")]
    assert by_group(bench.model, prompt) == expected


def test_without_a_template_only_bos_is_not_instruction(bench: Bench, benches: Callable[..., Bench]) -> None:
    name = bench.model.cfg.model_name.removeprefix("tiny-")
    mark = MARKS[name][0]
    expected = ([("bos", mark)] if mark else []) + [("instruction", "1 town"), ("response", "So it is.")]
    assert by_group(bench.model, "1 town", chat=False) == expected
    assert by_group(benches(name, template=False).model, "1 town") == expected


def test_of_a_conversation_the_instruction_is_everything_said(model: Any) -> None:
    talk = [("user", "Hi"), ("assistant", "Hello"), ("user", "Hi")]
    messages = [{"role": role, "content": text} for role, text in talk]
    said = f"Hi{END}{MODEL}Hello{END}{USER}Hi"
    groups = [("bos", "<bos>"), ("template prefix", USER), ("instruction", said), ("template suffix", END + MODEL)]
    assert by_group(model, messages) == [*groups, ("response", "So it is.")]
    assert by_group(model, messages[:1]) == by_group(model, "Hi")


def test_an_empty_response_has_no_tokens(model: Any) -> None:
    assert [group for group, _ in by_group(model, "Hi", "")] == list(GROUPS[:4])


def test_an_example_of_another_prompt_is_refused(model: Any) -> None:
    (example,) = encode(model, ["Hi"], ["Yes"])
    cases: Sequence[tuple[EncodedExample, str, bool]] = [(example, "Ho", True), (example, "Hi", False)]
    for other, prompt, chat in cases:
        with pytest.raises(ValueError, match="not those of this prompt"):
            token_groups(model, prompt, other, chat)


def test_the_embedded_model() -> None:
    model = steerlens.load_model("terrarium")
    for prompt in ("Tell me about foxes.", "1", "a"):
        groups = dict(by_group(model, prompt))
        assert groups["instruction"].strip() == prompt
        assert prompt not in (groups["template prefix"], groups["template suffix"])
