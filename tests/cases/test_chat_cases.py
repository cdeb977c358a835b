"""Cases from the field, by their number in the table: conversations, tokenizers, templates, passes and loading.

The right values come from plain Hugging Face (apply_chat_template, a greedy loop with one hook) or from lm-eval's own model.
"""

import subprocess
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import (
    CHATML,
    GEMMA,
    HARMONY,
    LLAMA2,
    LLAMA3,
    PHI3,
    QWEN3,
    SMOLLM3,
    TEMPLATES,
    characters,
    decoded,
    pieces,
    small_llama,
    talker,
    vector,
)
from oracle import edited_places

import steerlens
from steerlens.model.chat import decode_response, encode_prompt, encode_with_responses, rendered_form, stop_tokens, turn_end
from steerlens.model.identity import identity
from steerlens.model.numbers import NotFiniteError
from steerlens.model.support import UnsupportedModelError
from steerlens.steering.prompt_tracking import SteeringError

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi there"}]
NEW = 5
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": NEW}


@pytest.mark.parametrize("template", [PHI3, GEMMA], ids=["dropped", "refused"])
@pytest.mark.parametrize("system", ["Be brief.", "Hi"], ids=["other", "part of the question"])
def test_case_03_system_message_without_a_branch_is_folded(tmp_path: Path, template: str, system: str) -> None:
    made = talker(tmp_path, characters(tmp_path / "t", template))
    conversation = [{"role": "system", "content": system}, SYSTEM[1]]
    folded = made.ids(f"{system}\n\nHi there")
    assert encode_prompt(made.model, conversation) == folded != made.ids("Hi there")
    stops = set(stop_tokens(made.model))
    expected = decoded(made.tokenizer, made.oracle.greedy(folded, NEW, stops, [vector()]))
    assert steerlens.generate(made.model, [conversation], vector(), **GREEDY) == [expected]


def test_case_03_a_dropped_message_is_refused(tmp_path: Path) -> None:
    template = PHI3.replace("for m in messages", "for m in messages[-1:]")
    made = talker(tmp_path, characters(tmp_path / "t", template))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day"}, SYSTEM[1]]
    with pytest.raises(ValueError, match="drops the user message"):
        encode_prompt(made.model, turns)


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@pytest.mark.parametrize("bos_first", [True, False])
def test_case_04_chat_prompts_are_those_of_the_tokenizer_on_disk(tmp_path: Path, template: str, bos_first: bool) -> None:
    tokenizer = characters(tmp_path / "t", TEMPLATES[template], bos_first=bos_first, add_bos_token=bos_first)
    made = talker(tmp_path, tokenizer)
    off = {"enable_thinking": False} if "enable_thinking" in TEMPLATES[template] else {}
    expected = made.ids("Hi there", **off)
    assert encode_prompt(made.model, "Hi there") == expected
    assert encode_prompt(made.model, "Hi there", chat=False) == list(made.tokenizer("Hi there")["input_ids"])
    edits = steerlens.audit(made.model, "Hi there", vector("p2"), max_new_tokens=2)
    assert [edit.index for edit in edits.edits] == edited_places("p2", len(expected), len(expected))
    stops = set(stop_tokens(made.model))
    right = made.oracle.greedy(expected, NEW, stops, [vector("p2")])
    assert steerlens.generate(made.model, "Hi there", vector("p2"), **GREEDY) == [decoded(made.tokenizer, right)]


def test_case_04_transformer_lens_changes_the_tokenizer(tmp_path: Path) -> None:
    """So that the test above tests something."""
    made = talker(tmp_path, characters(tmp_path / "t", CHATML, bos_first=False, add_bos_token=False))
    assert made.model.tokenizer("Hi")["input_ids"] != made.tokenizer("Hi")["input_ids"]


def test_case_06_prompt_and_response_are_encoded_together(tmp_path: Path) -> None:
    made = talker(tmp_path, pieces(tmp_path / "t", LLAMA2))
    prompt, (response,) = encode_with_responses(made.model, "world", ["Hello world"])
    text = made.tokenizer.apply_chat_template([{"role": "user", "content": "world"}], tokenize=False)
    whole = made.tokenizer(text + "Hello world", add_special_tokens=False)["input_ids"]
    assert prompt == made.ids("world") and [*prompt, *response] == whole
    assert made.tokenizer.convert_ids_to_tokens(response) == ["Hello", "▁world"]
    expected = made.oracle.loss([(prompt, response)], [vector()])
    found = steerlens.loss(made.model, vector(), [{"prompt": "world", "response": "Hello world"}])
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_case_07_overflow_is_refused(tmp_path: Path, temperature: float) -> None:
    made = talker(tmp_path, characters(tmp_path / "t", CHATML), dtype="float16")
    with pytest.raises(NotFiniteError, match=r"token 0 of row 0 .* after layer 1 .*float16: lower the factor"):
        steerlens.generate(made.model, "Hi", vector(factor=7e4), temperature=temperature, max_new_tokens=3)


def test_case_08_recurrent_state_counts_one_prompt(tmp_path: Path) -> None:
    from tiny import WIDTH
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = characters(tmp_path / "t", CHATML)
    torch.manual_seed(0)
    size: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": WIDTH, "state_size": 4, "num_hidden_layers": 3}
    config: Any = MambaConfig(**size, initializer_range=0.25, eos_token_id=2, pad_token_id=0)
    hf = MambaForCausalLM(config).eval()
    made = talker(tmp_path, tokenizer, hf, hf.backbone.layers)
    prompts = ["Hi there", "Hi"]
    edits = steerlens.audit(made.model, prompts, vector("p2+s2"), max_new_tokens=4)
    for row, prompt in enumerate(prompts):
        n_prompt = len(made.ids(prompt))
        assert {edit.index for edit in edits.edits if edit.row == row} == set(edited_places("p2+s2", n_prompt, n_prompt))
    assert {edit.phase for edit in edits.edits} == {"prefill"}
    stops = set(stop_tokens(made.model))
    right = [decoded(made.tokenizer, made.oracle.greedy(made.ids(p), NEW, stops, [vector()])) for p in prompts]
    assert steerlens.generate(made.model, prompts, vector(), **GREEDY) == right
    with pytest.raises((ValueError, SteeringError), match="state"), steerlens.steer(made.model, vector()):
        made.model.original_model.generate(torch.tensor([made.ids("Hi")]), max_new_tokens=3, do_sample=False)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_case_09_rotary_scaling_that_switches_on_length(tmp_path: Path, kind: str) -> None:
    tokenizer = characters(tmp_path / "t", CHATML)
    hf = small_llama(len(tokenizer))
    scaling: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        factors = {"short_factor": [1.0] * 6, "long_factor": [4.0] * 6, "original_max_position_embeddings": 40}
        scaling |= factors
    else:
        hf.config.max_position_embeddings = 40
    hf.config.rope_parameters = scaling
    hf = type(hf)(hf.config).eval()
    made = talker(tmp_path, tokenizer, hf)
    made.model.cfg.n_ctx = 512
    short, long = ["Hi", "Hey"], ["x" * 50, "y" * 60]
    stops = set(stop_tokens(made.model))
    right = [decoded(made.tokenizer, made.oracle.greedy(made.ids(p), NEW, stops, [vector()])) for p in (*short, *long)]
    assert steerlens.generate(made.model, short, vector(), **GREEDY) == right[:2]
    if kind == "longrope":
        assert steerlens.generate(made.model, long, vector(), **GREEDY) == right[2:]
    else:
        with pytest.raises(UnsupportedModelError, match="dynamic rotary scaling"):
            steerlens.generate(made.model, long, vector(), **GREEDY)
    for mixed in ([short[0], long[0]], ["x" * 18]):
        with pytest.raises(UnsupportedModelError, match=f"{kind} rotary scaling .* changes beyond 40"):
            steerlens.generate(made.model, mixed, vector(), temperature=0, max_new_tokens=20)
    with pytest.raises(UnsupportedModelError, match="rotary scaling"):
        steerlens.loss(made.model, None, [{"prompt": "Hi", "response": "a"}, {"prompt": "x" * 50, "response": "b"}])


def test_case_10_the_templates_turn_end_stops(tmp_path: Path) -> None:
    tokenizer = characters(tmp_path / "t", CHATML)
    hf, end = small_llama(len(tokenizer)), tokenizer.convert_tokens_to_ids("<|im_end|>")
    first = talker(tmp_path / "first", tokenizer, hf)
    free = first.oracle.greedy(first.ids("Hi"), 8, set())
    step = next(i for i in range(2, 8) if free[i] not in free[:i])
    rows = hf.lm_head.weight.data  # so that the turn ends there
    rows[[free[step], end]] = rows[[end, free[step]]].clone()
    made = talker(tmp_path / "second", tokenizer, hf)
    assert made.oracle.greedy(made.ids("Hi"), 8, {end}) == free[:step]
    assert tokenizer.eos_token_id != end and turn_end(made.model) == (end,)
    assert steerlens.generate(made.model, "Hi", temperature=0, max_new_tokens=8) == [decoded(tokenizer, free[:step])]
    last = tokenizer.convert_ids_to_tokens(free[step - 1])
    for stop in (last, free[step - 1]):
        cut = free[: free.index(free[step - 1])]
        assert steerlens.generate(made.model, "Hi", stop=stop, temperature=0, max_new_tokens=8) == [decoded(tokenizer, cut)]
    with pytest.raises(ValueError, match="0 tokens"):
        steerlens.generate(made.model, "Hi", stop="")
    _, (response,) = encode_with_responses(made.model, "Hi", ["ok"], append_eos=True)
    assert response == [*tokenizer("ok", add_special_tokens=False)["input_ids"], end]


@pytest.mark.parametrize("positions", ["p2+s2", "response"])
def test_case_11_manual_loops(tmp_path: Path, positions: str) -> None:
    made = talker(tmp_path, characters(tmp_path / "t", CHATML))
    prompt = made.ids("Hi")

    def loop() -> list[int]:
        tokens = torch.tensor([prompt])
        for _ in range(NEW):
            tokens = torch.cat([tokens, made.model(tokens)[:, -1:].argmax(-1)], dim=1)
        return tokens[0, len(prompt) :].tolist()

    with pytest.raises(SteeringError, match="prompt_lengths"), steerlens.steer(made.model, vector(positions)):
        loop()
    with steerlens.steer(made.model, vector(positions), prompt_lengths=[len(prompt)]):
        assert loop() == made.oracle.greedy(prompt, NEW, set(), [vector(positions)])


def test_case_14_dates_are_part_of_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = characters(tmp_path / "t", LLAMA3)
    made = talker(tmp_path / "a", tokenizer)
    fixed = talker(tmp_path / "b", tokenizer, made.hf, template_args={"date_string": "01 Jan 2026"})

    def on(day: int) -> tuple[Any, Any]:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime(2030, 5, day)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        return identity(made.model)["template_form"], identity(fixed.model)["template_form"]

    (moving, still), (later, same) = on(3), on(4)
    assert moving != later and still == same and still["template_args"] == {"date_string": "01 Jan 2026"}
    assert encode_prompt(fixed.model, "Hi") == made.ids("Hi", date_string="01 Jan 2026")
    assert "01 Jan 2026" in made.tokenizer.decode(encode_prompt(fixed.model, "Hi"))


@pytest.mark.parametrize("template", [QWEN3, SMOLLM3], ids=["qwen3", "smollm3"])
def test_case_15_thinking_is_off_unless_asked_for(tmp_path: Path, template: str) -> None:
    tokenizer = characters(tmp_path / "t", template)
    off = talker(tmp_path / "a", tokenizer)
    on = talker(tmp_path / "b", tokenizer, off.hf, template_args={"enable_thinking": True})
    without, thinking = off.ids("Hi", enable_thinking=False), off.ids("Hi", enable_thinking=True)
    assert encode_prompt(off.model, "Hi") == without != thinking == encode_prompt(on.model, "Hi")
    assert rendered_form(off.model) != rendered_form(on.model)
    stops = set(stop_tokens(off.model))
    for ids, arguments in ((without, None), (thinking, {"enable_thinking": True})):
        right = off.oracle.greedy(ids, NEW, stops, [vector()])
        found = steerlens.generate(off.model, "Hi", vector(), template_args=arguments, **GREEDY)
        assert found == [decoded(tokenizer, right)]


def test_case_15_template_args_go_through_training_and_evaluation(tmp_path: Path) -> None:
    tokenizer = characters(tmp_path / "t", QWEN3)
    off = talker(tmp_path / "a", tokenizer)
    on = talker(tmp_path / "b", tokenizer, off.hf, template_args={"enable_thinking": True})
    before = rendered_form(off.model)
    data, arguments = [{"prompt": "Hi", "response": "Hello"}], {"enable_thinking": True}
    settings: dict[str, Any] = {"config": steerlens.TrainConfig(epochs=2, batch_size=1), "progress": False}
    plain, given, loaded = (
        steerlens.train(model, data, layer=1, template_args=chosen, **settings)
        for model, chosen in ((off.model, None), (off.model, arguments), (on.model, None))
    )
    assert torch.equal(given.direction, loaded.direction) and not torch.equal(given.direction, plain.direction)
    assert given.provenance["template_form"] == loaded.provenance["template_form"] != plain.provenance["template_form"]
    assert given.provenance["template_form"]["template_args"] == arguments
    many = steerlens.train_many(off.model, {"a": data}, layer=1, template_args=arguments, **settings)["a"]
    assert torch.equal(many.direction, given.direction)
    assert rendered_form(off.model) == before
    judge = steerlens.ScriptedJudge(lambda *_: steerlens.Scores(1.0, 1.0, 1.0))
    texts = [
        steerlens.evaluate(model, vector(), "sea", ["Hi"], judge, template_args=chosen, **GREEDY).frame["response"].tolist()
        for model, chosen in ((off.model, None), (off.model, arguments), (on.model, None))
    ]
    assert texts[1] == texts[2] != texts[0]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nhm\n</think>\n\nRome", "Rome"),
        ("<think>\nhm", ""),
        ("Rome", "Rome"),
        ("<think>a</think>b</think>\nc", "c"),
    ],
)
def test_case_15_a_response_is_what_follows_the_thoughts(tmp_path: Path, text: str, expected: str, special: bool) -> None:
    tokenizer = characters(tmp_path / "t", QWEN3)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
        tokenizer.save_pretrained(tmp_path / "t")
    made = talker(tmp_path, tokenizer)
    assert decode_response(made.model, made.tokenizer(text, add_special_tokens=False)["input_ids"]) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Rome", "Rome"),
        ("<|channel|>analysis<|message|>hm", ""),
        ("<|channel|>final<|message|>Rome", "Rome"),
    ],
)
def test_case_15_a_response_is_the_final_channel(tmp_path: Path, text: str, expected: str) -> None:
    made = talker(tmp_path, characters(tmp_path / "t", HARMONY, eos="<|return|>"))
    assert decode_response(made.model, made.tokenizer(text, add_special_tokens=False)["input_ids"]) == expected
    names = set(made.tokenizer.convert_ids_to_tokens(sorted(stop_tokens(made.model))))
    assert "<|return|>" in names and "<|end|>" not in names  # which ends the analysis too


def test_case_16_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Gemma3Config

    Gemma3Config(architectures=["Gemma3ForConditionalGeneration"]).save_pretrained(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("Popen", "run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, lambda *a, **k: pytest.fail("something was run"))
    with pytest.raises(ImportError, match="needs torchvision, which is not installed: install"):
        steerlens.load_model(tmp_path)


@pytest.mark.parametrize("kind", ["T5", "Bart", "Marian"])
def test_case_20_encoder_decoders_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    import transformers

    getattr(transformers, f"{kind}Config")().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{kind}.*is an encoder-decoder model: steerlens steers causal"):
        steerlens.load_model(tmp_path)


def test_case_22_a_pass_of_another_thread_is_refused(tmp_path: Path) -> None:
    made = talker(tmp_path, characters(tmp_path / "t", CHATML))
    inside, leave = threading.Event(), threading.Event()
    caught: list[BaseException] = []

    def elsewhere() -> None:
        inside.wait()
        try:
            made.model.original_model.generate(torch.tensor([made.ids("Hi")]), max_new_tokens=3, do_sample=False)
        except BaseException as error:
            caught.append(error)
        leave.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with steerlens.steer(made.model, vector()):
        inside.set()
        leave.wait()
    thread.join()
    assert len(caught) == 1 and isinstance(caught[0], SteeringError) and "another thread" in str(caught[0])
