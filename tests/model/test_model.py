"""Text to tokens: the chat template, one BOS and never two, and what ends a response."""

from collections.abc import Callable
from typing import Any

import pytest
from tiny import Bench

from steerlens.model.chat import decode_response, encode_prompt, encode_with_responses, stop_tokens
from steerlens.model.forward import pad
from steerlens.model.identity import identity
from steerlens.model.tokenizer import token_strings

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "Go"}]
TURN = "<start_of_turn>user\nHi<end_of_turn>\n"
STARTS = {"gemma2": "<bos>", "llama": "<bos>", "qwen2": "", "gpt2": "<eos>"}


def text_of(model: Any, prompt: Any, **options: Any) -> str:
    return model.tokenizer.decode(encode_prompt(model, prompt, **options))


@pytest.mark.parametrize("architecture", STARTS)
def test_a_prompt_is_put_into_the_template(benches: Callable[..., Bench], architecture: str) -> None:
    model, turn, header = benches(architecture).model, STARTS[architecture] + TURN, "<start_of_turn>model\n"
    assert text_of(model, "Hi") == turn + header
    assert text_of(model, CHAT) == f"{turn}{header}Yes<end_of_turn>\n<start_of_turn>user\nGo<end_of_turn>\n{header}"


@pytest.mark.parametrize("architecture", STARTS)
def test_bare_text(benches: Callable[..., Bench], architecture: str) -> None:
    """With the BOS if there is one, and without a template even in a chat."""
    start, without = STARTS[architecture], benches(architecture, template=False).model
    for model in (benches(architecture).model, without):
        assert text_of(model, "Hi", chat=False) == start + "Hi"
    assert text_of(without, "Hi") == start + "Hi"
    assert identity(without)["template_hash"] is None
    with pytest.raises(ValueError, match=f"cannot be rendered: the tokenizer of tiny-{architecture} has no chat template"):
        encode_prompt(without, CHAT)


def test_never_two_bos(model: Any) -> None:
    assert text_of(model, "<bos>Hi", chat=False) == "<bos>Hi"
    assert text_of(model, "<bos><bos>Hi", chat=False) == "<bos>Hi"
    assert text_of(model, "<bos>" + TURN, chat=False) == "<bos>" + TURN


def test_prompts_that_cannot_be_encoded(benches: Callable[..., Bench]) -> None:
    with pytest.raises(ValueError, match="cannot be rendered: chat=False"):
        encode_prompt(benches("gemma2").model, CHAT, chat=False)
    with pytest.raises(ValueError, match="the prompt is empty"):
        encode_prompt(benches("qwen2").model, "", chat=False)


def answer(model: Any, text: str, **options: Any) -> list[int]:
    return encode_with_responses(model, "Hi", [text], **options).responses[0]


def test_responses(model: Any) -> None:
    """The template's end of turn ends a response in training."""
    ids = answer(model, "Yes!")
    assert model.tokenizer.decode(ids) == "Yes!" and decode_response(model, ids) == "Yes!"
    assert answer(model, "Yes!", max_tokens=2) == ids[:2]
    end = model.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert answer(model, "Yes!", append_eos=True) == [*ids, end]
    assert answer(model, "Yes!", max_tokens=4, append_eos=True) == ids
    assert answer(model, "Yes!", max_tokens=5, append_eos=True) == [*ids, end]


def test_stop_tokens(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the generation config, the tokenizer and the template, which ends a turn with token 5."""
    assert stop_tokens(model, chat=False) == {2}
    assert stop_tokens(model) == {2, 5}
    monkeypatch.setattr(model.original_model.generation_config, "eos_token_id", [2, 9])
    assert stop_tokens(model) == {2, 5, 9}
    assert stop_tokens(model, ["A", 7], chat=False) == {2, 9, 7, 40}
    for wrong in ("two", 10**6, -1):
        with pytest.raises(ValueError, match="stop"):
            stop_tokens(model, [wrong])


def test_padding(model: Any) -> None:
    left, right = pad(model, [[7, 8, 9], [6]], "left"), pad(model, [[7, 8, 9], [6]], "right")
    assert left.tokens.tolist() == [[7, 8, 9], [0, 0, 6]] and left.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert right.tokens.tolist() == [[7, 8, 9], [6, 0, 0]] and right.mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_tokens_without_a_text_have_a_name(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As parts of a character have in byte-level vocabularies: they would all read the same."""
    assert token_strings(model, [1, 6, 40]) == ["<bos>", "\n", "A"]
    texts = {0: "", 4: "\ufffd", 40: "A"}
    monkeypatch.setattr(model.tokenizer, "decode", lambda ids: texts[ids[0]])
    assert token_strings(model, [0, 4, 40]) == ["<pad>", "<start_of_turn>", "A"]
