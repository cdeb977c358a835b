"""Templates of other kinds: what they leave out, where they end a turn, which arguments they take, what the identity sees."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import CHATML, HARMONY, QWEN3, SMOLLM3, Talker, characters, decoded, small_llama, talker, vector
from transformers import AutoTokenizer

import steerlens
from steerlens.model.chat import (
    decode_response,
    encode_prompt,
    encode_with_responses,
    render,
    rendered_form,
    response_stops,
    stop_tokens,
    turn_end,
)
from steerlens.model.identity import identity

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "ok"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "get", "arguments": {"city": "Rome"}}}
TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "({{ c.function.name }} {{ c.function.arguments | tojson }}){% endfor %}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKER = CHATML.replace(
    "{{ m['content'] }}", "{% if loop.last and m.reasoning_content %}{{ m.reasoning_content }}{% endif %}{{ m['content'] }}"
)
ALTERNATING = "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}" + CHATML
GLM = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NOT_LAST = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% if not loop.last %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_end|>\n<|im_start|>assistant\n{% endif %}"
)
HASHES = (
    "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n### end\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}"
BOS_FIRST = "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def made(template: str | None, **settings: Any) -> Talker:
        return talker(tmp_path, characters(tmp_path / "t", template), **settings)

    return made


# --- what has to arrive -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["explain the </think> tag", "IMPORTANT </think>b", "<think>a</think>b"])
def test_only_the_assistants_thoughts_may_be_left_out(make: Any, text: str) -> None:
    made = make(QWEN3)
    for turns in ([{**USER, "content": text}], [{**SYSTEM, "content": text}, USER]):
        with pytest.raises(ValueError, match="drops the user message"):
            encode_prompt(made.model, turns)
    thinking = {**ASSISTANT, "content": "<think>hm</think>\n\nok"}
    assert render(made.model, [USER, thinking, USER]) == render(made.model, [USER, ASSISTANT, USER])
    for lost in ("first <think>hm</think>ok", "<think>hm</think>first<think>hm</think>ok"):
        with pytest.raises(ValueError, match="drops the assistant message"):
            encode_prompt(made.model, [USER, {**thinking, "content": lost}, USER])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tool_calls", [CALL]),
        ("images", ["x.png"]),
        ("name", "Bob"),
        ("reasoning_content", "hm"),
        ("text", "more"),
        ("weight", 0),
    ],
)
def test_parts_that_are_not_rendered_are_named(make: Any, key: str, value: Any) -> None:
    made = make(CHATML)
    for index, role in enumerate(("user", "assistant")):
        turns = [USER, ASSISTANT, USER]
        turns[index] = {"role": role, "content": "x", key: value}
        with pytest.raises(ValueError, match=f"drops '{key}' of message {index}"):
            steerlens.generate(made.model, [turns])
    for empty in (None, "", []):
        assert render(made.model, [{**USER, key: empty}]) == render(made.model, [USER])


def test_parts_that_are_rendered_pass(make: Any) -> None:
    made = make(TOOLS)
    calling, result = {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "sunny"}
    turns = [USER, calling, {**result, "tool_call_id": "7"}, USER]
    assert encode_prompt(made.model, turns) == made.ids(turns)
    assert "(get " in render(made.model, turns)
    with pytest.raises(ValueError, match="drops the assistant message 'ok'"):
        encode_prompt(made.model, [USER, {**calling, "content": "ok"}, USER])
    for part in ("[:1]", " | selectattr('id', 'undefined')"):
        template = TOOLS.replace("in m.tool_calls", f"in m.tool_calls{part}")
        made.model.tokenizer.chat_template = template
        with pytest.raises(ValueError, match="drops 'tool_calls' of message 1, or a part of it"):
            encode_prompt(made.model, [USER, {**calling, "tool_calls": [CALL, {**CALL, "id": "2"}]}, result, USER])
    made.model.tokenizer.chat_template = TOOLS.replace("{{ c.function.arguments | tojson }}", "")
    with pytest.raises(ValueError, match="drops 'tool_calls' of message 1"):
        encode_prompt(made.model, turns)


def test_a_template_that_knows_thoughts_may_leave_earlier_ones_out(make: Any) -> None:
    made = make(THINKER)
    turns = [USER, {**ASSISTANT, "reasoning_content": "hm"}, USER]
    assert encode_prompt(made.model, turns) == made.ids([USER, ASSISTANT, USER])


def test_a_part_of_a_folded_system_message(make: Any) -> None:
    made = make(CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"))
    assert "Be brief." in render(made.model, [SYSTEM, USER])
    with pytest.raises(ValueError, match="drops 'name' of message 0"):
        render(made.model, [{**SYSTEM, "name": "Bob"}, USER])


# --- the identity -------------------------------------------------------------------------------------------------------

DATES = {
    "with a system message": ("{% if messages[0]['role'] == 'system' %}", "{% endif %}"),
    "in a longer conversation": ("{% if messages | length > 2 %}", "{% endif %}"),
    "with both": ("{% if messages[0]['role'] == 'system' and messages | length > 2 %}", "{% endif %}"),
}


def at(monkeypatch: pytest.MonkeyPatch, model: Any, *when: int) -> Any:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2030, 5, *when)  # type: ignore[arg-type]

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    return identity(model)["template_form"]


@pytest.mark.parametrize("form", ["%c", "%s"])
def test_the_date_of_a_date_and_time_is(make: Any, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    made = make(f"{{{{ strftime_now('{form}') }}}}{CHATML}")
    assert at(monkeypatch, made.model, 3, 1) == at(monkeypatch, made.model, 3, 2) != at(monkeypatch, made.model, 4, 1)


@pytest.mark.parametrize("where", DATES)
def test_a_date_anywhere_is_part_of_the_identity(make: Any, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    begin, end = DATES[where]
    made = make(f"{begin}Date: {{{{ strftime_now('%d %b %Y') }}}}{end}{CHATML}")
    assert at(monkeypatch, made.model, 3) == at(monkeypatch, made.model, 3) != at(monkeypatch, made.model, 4)


def test_the_time_of_day_is_not(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("{{ strftime_now('%Y-%m-%d, %H:%M:%S') }}{{ strftime_now(\"%-I %p\") }}" + CHATML)
    early, late = (at(monkeypatch, made.model, 3, hour, hour, hour) for hour in (1, 13))
    text = render(made.model, "Hi")
    assert "13:13:13" in text and early == late != at(monkeypatch, made.model, 4, 1, 1, 1)


# --- where a turn ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (GLM, "<|user|>"),
        (NOT_LAST, "<|im_end|>"),
        (ALTERNATING, "<|im_end|>"),
        (PLAIN, "<eos>"),
        (BOS_FIRST, "<eos>"),
    ],
    ids=["chatml", "glm", "not last", "alternating", "plain", "bos"],
)
def test_turn_ends(make: Any, template: str, end: str) -> None:
    made = make(template)
    token = made.tokenizer.convert_tokens_to_ids(end)
    assert turn_end(made.model) == (token,) and stop_tokens(made.model) == {token, made.tokenizer.eos_token_id}
    assert response_stops(made.model).tokens == stop_tokens(made.model) and not response_stops(made.model).sequences
    _, (response,) = encode_with_responses(made.model, "Hi", ["ok"], append_eos=True)
    assert response == [*made.tokenizer("ok", add_special_tokens=False)["input_ids"], token]


def test_a_turn_end_of_several_tokens(make: Any) -> None:
    made = make(HASHES)
    end = tuple(made.tokenizer("\n### end", add_special_tokens=False)["input_ids"])
    assert turn_end(made.model) == end and end[1:] in response_stops(made.model).sequences
    assert stop_tokens(made.model) == {made.tokenizer.eos_token_id}
    _, (response,) = encode_with_responses(made.model, "Hi", ["ok"], append_eos=True)
    assert made.tokenizer.decode(response) == "ok\n### end"


def speaking(folder: Path, template: str, text: str, after: str = "\n") -> Talker:
    """A model that says a text, whose characters differ, after another, and then goes on with it from the beginning."""
    tokenizer = characters(folder / "t", template)
    hf = small_llama(len(tokenizer))
    for parameter in hf.model.layers.parameters():
        torch.nn.init.zeros_(parameter)
    embedding, head = hf.model.embed_tokens.weight.data, hf.lm_head.weight.data
    torch.nn.init.orthogonal_(embedding)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = tokenizer(after, add_special_tokens=False)["input_ids"][-1]
    head.zero_()
    for before, said in zip([start, *ids], [*ids, ids[0]], strict=True):
        head[said] += embedding[before]
    return talker(folder, tokenizer, hf)


@pytest.mark.parametrize(
    ("stop", "expected", "steps"),
    [("def", "abc", 6), (["ef", "cd"], "ab", 4), ("ij", "abcdefgh", 8), (["g", "xg"], "abcdef", 7), ("ga", "abcdef", 8)],
)
def test_texts_of_several_tokens_stop(tmp_path: Path, stop: Any, expected: str, steps: int) -> None:
    made = speaking(tmp_path, CHATML, "abcdefg" if stop == "ga" else "abcdefgh")
    passes: list[int] = []
    made.model.original_model.register_forward_hook(lambda *_: passes.append(1))
    prompts = ["Hi", "Hello there"]
    settings: dict[str, Any] = {"temperature": 0, "max_new_tokens": 8}
    assert steerlens.generate(made.model, prompts, stop=stop, **settings) == [expected] * 2
    assert len(passes) == steps, "ends where the stop does"
    passes.clear()
    uncached = steerlens.generate(made.model, prompts, stop=stop, use_cache=False, **settings)
    assert uncached == [expected] * 2 and len(passes) == steps


def test_a_stop_in_the_prompt_ends_nothing(tmp_path: Path) -> None:
    made = speaking(tmp_path, CHATML, "abcdefgh")
    assert steerlens.generate(made.model, "Hi", stop="\na", temperature=0, max_new_tokens=4) == ["abcd"]


def test_rows_end_at_their_own_stop(tmp_path: Path) -> None:
    """Against a greedy loop of plain Hugging Face, cut by hand."""
    made = talker(tmp_path, characters(tmp_path / "t", CHATML))
    prompts, new = ["Hi", "Hello there", "a", "What?", "no"], 20
    whole = [made.oracle.greedy(made.ids(prompt), new, set(stop_tokens(made.model)), [vector()]) for prompt in prompts]
    stop = decoded(made.tokenizer, whole[0][5:8])
    found = steerlens.generate(made.model, prompts, vector(), stop=stop, temperature=0, max_new_tokens=new)
    texts = [decoded(made.tokenizer, ids) for ids in whole]
    assert len(stop) == 3 and found == [text.partition(stop)[0] for text in texts] and found[0] != texts[0]


def test_a_templates_own_end_of_several_tokens_stops(tmp_path: Path) -> None:
    template = HASHES.replace("### end", "xyz").replace("assistant:\n", "assistant:")
    made = speaking(tmp_path, template, "ab\nxyz", ":")
    assert turn_end(made.model) == tuple(made.tokenizer("\nxyz", add_special_tokens=False)["input_ids"])
    assert steerlens.generate(made.model, "Hi", temperature=0, max_new_tokens=9) == ["ab"]
    audit = steerlens.audit(made.model, "Hi", None, max_new_tokens=9)
    assert audit.rows[0][-2:] == ("a", "b")


# --- what a response says -----------------------------------------------------------------------------------------------

FINAL = "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{FINAL}ans<|end|><|start|>assistant<|channel|>commentary<|message|>call", "ans"),
        (f"{FINAL}ans<|end|><|start|>user<|message|>more<|end|><|start|>assistant{FINAL}else", "ans"),
        (f"{FINAL}ans<|return|>x", "ans"),
        ("<|channel|>final <|constrain|>json<|message|>{}", "{}"),
        ("<|channel|>analysis<|message|>final<|end|>", ""),
        ("<|channel|>commentary to=f<|message|>x", ""),
        ("<|channel|>final", ""),
        ("ans<|end|><|start|>assistant<|channel|>analysis<|message|>zz", "ans"),
        ("ans", "ans"),
    ],
)
def test_a_response_is_the_first_final_message(make: Any, text: str, expected: str) -> None:
    made = make(HARMONY)
    assert decode_response(made.model, made.tokenizer(text, add_special_tokens=False)["input_ids"]) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("x </think> y", "x </think> y"), ("<think>a</think>b", "b"), ("x <think>a</think>", None)]
)
def test_thoughts_are_left_out_where_the_response_begins_with_one(make: Any, text: str, expected: str | None) -> None:
    made = make(QWEN3)
    ids = made.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert decode_response(made.model, ids) == (text if expected is None else expected)
    made.model.tokenizer.chat_template = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    assert decode_response(made.model, ids) == text.rpartition("</think>")[2].lstrip()


# --- arguments and tokenizers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [QWEN3, SMOLLM3], ids=["qwen3", "own tags"])
def test_arguments_that_the_template_does_not_mention(make: Any, template: str) -> None:
    wrong = {"enable_thinkng": True}
    words = r"\['enable_thinkng'\]: the chat template of .* mentions no such name; did you mean 'enable_thinking'"
    with pytest.raises(ValueError, match=words):
        make(template, template_args=wrong)
    made = make(template)
    before = render(made.model, "Hi")
    with pytest.raises(ValueError, match=words):
        steerlens.generate(made.model, "Hi", template_args=wrong)
    with pytest.raises(ValueError, match=words):
        steerlens.train(made.model, [{"prompt": "Hi", "response": "x"}], layer=1, template_args=wrong, progress=False)
    with pytest.raises(ValueError, match=r"\['messages'\]: steerlens sets these itself"):
        steerlens.generate(made.model, "Hi", template_args={"messages": []})
    assert render(made.model, "Hi") == before
    steerlens.generate(made.model, "Hi", template_args={"enable_thinking": True, "chat_template": QWEN3}, max_new_tokens=1)


def test_arguments_without_a_template(make: Any) -> None:
    with pytest.raises(ValueError, match=r"\['enable_thinking'\]: the tokenizer of .* has no chat template"):
        make(None, template_args={"enable_thinking": True})


def test_a_tokenizer_in_the_place_of_another_is_followed(tmp_path: Path) -> None:
    made = talker(tmp_path, characters(tmp_path / "t", CHATML, bos_first=False))
    characters(tmp_path / "u", CHATML, bos_first=False)
    path = tmp_path / "u" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    own, other = made.model.tokenizer, AutoTokenizer.from_pretrained(tmp_path / "u")
    before, form = encode_prompt(made.model, "ab"), rendered_form(made.model)
    assert len(own) == len(other)
    made.model.tokenizer = other
    chat = other.apply_chat_template([{"role": "user", "content": "ab"}], add_generation_prompt=True)["input_ids"]
    assert encode_prompt(made.model, "ab") == chat != before
    made.model.tokenizer = own
    assert encode_prompt(made.model, "ab") == before and rendered_form(made.model) == form
