"""lm-evaluation-harness on a steered model, against a naive loop over the same questions, without a network."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rows_of
from tiny import MARKS, Bench

import steerlens
from steerlens import SteeringData, SteeringPrompt
from steerlens.evaluation.harness.runner import Runner, cut, wanted
from steerlens.evaluation.harness.scores import HarnessScores, harness_scores
from steerlens.model.chat import stop_tokens

pytest.importorskip("lm_eval", reason="the package lm-eval (extra evals) is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

QUESTIONS = (
    ("Which town is it?", ["Rome", "Paris, of course"], 0),
    ("Is a cat a fish?", ["no", "yes", "who knows"], 0),
    ("2 + 2 = ?", ["3", "4"], 1),
    ("Say a word, any word that you like to say.", ["word", "fish"], 1),
    ("Why?", ["because", "why not"], 0),
)
SHOTS = (("1 + 1 = ?", "2"), ("Name a pet.", "cat"))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    rows = [{"question": q, "choices": c, "answer": a, "text": c[a]} for q, c, a in QUESTIONS]
    shots = [{"question": q, "choices": [a], "answer": 0, "text": a} for q, a in SHOTS]
    for name, listed in (("test", rows), ("shots", shots)):
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, listed)))
    return folder


def task(files: Path, kind: str, **more: Any) -> dict[str, Any]:
    config = {
        "task": f"tiny_{kind}",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(files / "test.json"), "shots": str(files / "shots.json")},
            "cache_dir": str(files / "cache"),
        },
        "test_split": "test",
        "fewshot_split": "shots",
        "fewshot_config": {"sampler": "first_n"},
        "output_type": kind,
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    return config | ({"doc_to_choice": "{{choices}}"} if kind == "multiple_choice" else {}) | more


def generation(files: Path, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    metrics = {"metric_list": [{"metric": "exact_match"}], "doc_to_target": "text", "generation_kwargs": settings}
    return task(files, "generate_until", **metrics, **more)


def prompt_ids(model: Any, texts: Sequence[str]) -> list[list[int]]:
    """Of templated single turns, as the other oracles write them out."""
    data = SteeringData([{"prompt": text, "response": "x"} for text in texts])
    return [prompt for prompt, _ in rows_of(model, data)]


def likelihood(
    bench: Bench, prompt: list[int], response: list[int], vectors: Sequence[Any], before: int = 0
) -> tuple[float, bool]:
    """Of the response and of so many tokens before it, which are the prompt's for the vectors."""
    ids, first = [*prompt, *response], len(prompt) - before
    with torch.no_grad():
        logits = bench.oracle.logits(ids, len(prompt), vectors).double()
    logprobs = [float(logits[index - 1].log_softmax(-1)[ids[index]]) for index in range(first, len(ids))]
    return sum(logprobs), all(int(logits[index - 1].argmax()) == ids[index] for index in range(first, len(ids)))


def answers(scores: HarnessScores) -> list[list[tuple[float, bool]]]:
    """The likelihoods of each document's choices, as the harness got them."""
    return [eval(text) for text in scores.samples["responses"]]


@pytest.mark.parametrize("positions", ["p2+s2", "all"])
@pytest.mark.parametrize("chat", [True, False])
def test_choices_are_scored_as_by_the_naive_loop(
    bench: Bench, make_vector: Callable[..., Any], files: Path, positions: str, chat: bool
) -> None:
    sv, tokenizer = make_vector(factor=2.0, positions=positions), bench.model.tokenizer
    scores = harness_scores(bench.model, sv, task(files, "multiple_choice"), chat=chat, batch_size=3)
    bare = [tokenizer(q, add_special_tokens=False)["input_ids"] for q, _, _ in QUESTIONS]
    # TransformerLens gives a tokenizer without a BOS one of its own, which no prompt of Qwen 2 begins with
    begin = [] if MARKS[bench.model.cfg.model_name.removeprefix("tiny-")][0] is None else [tokenizer.bos_token_id]
    prompts = prompt_ids(bench.model, [q for q, _, _ in QUESTIONS]) if chat else [[*begin, *ids] for ids in bare]
    right = 0
    for (_, choices, answer), prompt, got in zip(QUESTIONS, prompts, answers(scores), strict=True):
        space = "" if chat else " "  # the harness leaves it out after a generation header
        ids = [tokenizer(f"{space}{choice}", add_special_tokens=False)["input_ids"] for choice in choices]
        # the harness scores the line break after the generation header with the choice
        expected = [likelihood(bench, prompt, response, [sv], before=int(chat)) for response in ids]
        assert [logprob for logprob, _ in got] == pytest.approx([logprob for logprob, _ in expected], rel=1e-4)
        assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]
        plain, steered = (likelihood(bench, prompt, ids[0], vectors)[0] for vectors in ([], [sv]))
        assert abs(plain - steered) > 0.01, "the vector does nothing, so the comparison proves nothing"
        right += max(range(len(ids)), key=lambda choice: expected[choice][0]) == answer
    assert scores.value("tiny_multiple_choice", "acc") == pytest.approx(right / len(QUESTIONS))
    row = scores.frame.iloc[0]
    assert (row["n"], row["num_fewshot"], row["higher_is_better"]) == (5, 0, True)
    share = right / 5
    assert row["stderr"] == pytest.approx((share * (1 - share) / 4) ** 0.5)


@pytest.mark.parametrize("positions", ["p2+s2", "all"])
def test_texts_are_generated_as_by_the_naive_loop(
    bench: Bench, make_vector: Callable[..., Any], files: Path, positions: str
) -> None:
    sv, stops = make_vector(factor=2.0, positions=positions), set(stop_tokens(bench.model))
    settings: dict[str, Any] = {"until": [], "do_sample": False, "max_gen_toks": 7}
    scores = harness_scores(bench.model, sv, generation(files, settings), batch_size=2)
    expected, plain = [], []
    for prompt in prompt_ids(bench.model, [q for q, _, _ in QUESTIONS]):
        for vectors, texts in (([sv], expected), ([], plain)):
            ids = bench.oracle.greedy(prompt, 7, stops, vectors)
            texts.append(str(bench.model.tokenizer.decode(ids, skip_special_tokens=True)))
    assert [eval(text)[0] for text in scores.samples["responses"]] == expected
    assert expected != plain
    assert expected == steerlens.generate(bench.model, [q for q, _, _ in QUESTIONS], sv, temperature=0, max_new_tokens=7)


def test_stop_strings_cut_and_the_metric_sees_the_cut_text(model: Any, files: Path) -> None:
    prompts = [q for q, _, _ in QUESTIONS]
    whole = steerlens.generate(model, prompts, None, temperature=0, max_new_tokens=9)
    stop = whole[0][3]
    scores = harness_scores(model, None, generation(files, {"until": [stop], "max_gen_toks": 9}))
    assert [eval(text)[0] for text in scores.samples["responses"]] == [text.split(stop)[0] for text in whole]
    assert cut("abcabc", ["ca", "bc"]) == "a" and cut("abc", []) == "abc" and cut("abc", ["x"]) == "abc"


def test_special_tokens_spell_stop_strings(gemma: Bench) -> None:
    runner = Runner(gemma.model, [], [], False, 1)
    ids = gemma.model.tokenizer("Hi<end_of_turn>\nyou<start_of_turn>", add_special_tokens=False)["input_ids"]
    assert runner.text(ids, []) == "Hi\nyou"
    assert runner.text(ids, ["<end_of_turn>"]) == "Hi" and runner.text(ids, ["y", "turn>"]) == "Hi"
    assert runner.text(ids, ["<start_of_turn>"]) == "Hi\nyou" and runner.text(ids, ["<start_of_turn>", "y"]) == "Hi\n"


def test_few_shot_examples_are_turns_and_belong_to_the_prompt(
    gemma: Bench, make_vector: Callable[..., Any], files: Path
) -> None:
    sv = make_vector(factor=2.0)
    config = task(files, "multiple_choice")
    scores = harness_scores(gemma.model, sv, config, num_fewshot=2, limit=2)
    text = "<bos>"
    for question, answer in SHOTS:
        text += f"<start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n{answer}<end_of_turn>\n"
    for (question, choices, _), got in zip(QUESTIONS[:2], answers(scores), strict=True):
        whole = text + f"<start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n"
        prompt, *ids = (gemma.model.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (whole, *choices))
        expected = [likelihood(gemma, prompt, response, [sv], before=1)[0] for response in ids]
        assert [logprob for logprob, _ in got] == pytest.approx(expected, rel=1e-4)
    assert scores.frame["num_fewshot"].iloc[0] == 2
    fixed = harness_scores(gemma.model, sv, {**config, "num_fewshot": 0}, num_fewshot=2, limit=2)
    assert fixed.frame["num_fewshot"].iloc[0] == 0, "a task that says 0 keeps it"


def test_a_steering_prompt_stands_before_the_question(gemma: Bench, files: Path) -> None:
    asked = SteeringPrompt("Think of the sea.")
    scores = harness_scores(gemma.model, asked, task(files, "multiple_choice"), limit=1)
    (prompt,) = prompt_ids(gemma.model, [str(asked.apply(QUESTIONS[0][0]))])
    ids = [gemma.model.tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in QUESTIONS[0][1]]
    expected = [likelihood(gemma, prompt, response, [], before=1)[0] for response in ids]
    assert [logprob for logprob, _ in answers(scores)[0]] == pytest.approx(expected, rel=1e-4)


def test_batches_do_not_matter_and_the_model_and_the_random_state_are_left_alone(
    model: Any, make_vector: Callable[..., Any], files: Path
) -> None:
    sv, before = make_vector(), torch.random.get_rng_state()
    settings: dict[str, Any] = {"until": ["\n\n"], "do_sample": True, "temperature": 0.8, "max_gen_toks": 5}
    model.original_model.train()
    try:
        runs = [harness_scores(model, sv, generation(files, settings), batch_size=size).samples for size in (1, 4)]
        assert model.original_model.training
    finally:
        model.original_model.eval()
    assert runs[0]["responses"].tolist() == runs[1]["responses"].tolist()
    assert torch.equal(before, torch.random.get_rng_state())


def test_perplexity_of_whole_texts(gemma: Bench, make_vector: Callable[..., Any], files: Path) -> None:
    metrics = [{"metric": "bits_per_byte"}]
    config = task(files, "loglikelihood_rolling", doc_to_target="{{question}}", doc_to_text="", metric_list=metrics)
    sv = make_vector(factor=1.0, positions="all")
    value = harness_scores(gemma.model, sv, config).value("tiny_loglikelihood_rolling")
    texts = [q for q, _, _ in QUESTIONS]
    total = sum(
        # the harness puts BOS before a text that begins with its own, and scores that one, too
        likelihood(gemma, [1], [1, *gemma.model.tokenizer(text, add_special_tokens=False)["input_ids"]], [sv])[0]
        for text in texts
    )
    n_bytes = sum(len(text.encode()) for text in texts)
    assert value == pytest.approx(-total / n_bytes / torch.log(torch.tensor(2.0)).item(), rel=1e-4)
    with pytest.raises(ValueError, match="which have no prompt: steer it with positions='all'"):
        harness_scores(gemma.model, make_vector(positions="p2+s2"), config)


def test_a_yaml_file_and_several_tasks(model: Any, files: Path) -> None:
    import yaml

    path = files / "from_file.yaml"
    path.write_text(yaml.safe_dump({**task(files, "multiple_choice"), "task": "from_file"}))
    scores = harness_scores(model, None, [path, generation(files, {"until": ["."], "max_gen_toks": 4})], limit=3)
    assert scores.frame["task"].tolist() == ["from_file", "tiny_generate_until"]
    assert scores.frame["n"].tolist() == [3, 3]
    assert "from_file acc" in scores.summary() and "(n 3)" in scores.summary()
    with pytest.raises(ValueError, match="names 2 numbers, not one"):
        HarnessScores(scores.frame.assign(task="same"), scores.samples).value("same")
    figure: Any = scores.plot()
    assert figure.layout.title.text and figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
    assert list(figure.data[0].x) == scores.frame["value"].tolist()


def test_refused(model: Any, make_vector: Callable[..., Any], files: Path) -> None:
    with pytest.raises(ValueError, match=r"tinyNothing.*name a task of lm-evaluation-harness"):
        harness_scores(model, None, "tinyNothing")
    with pytest.raises(ValueError, match="there are no tasks"):
        harness_scores(model, None, [])
    with pytest.raises(ValueError, match=r"600 new ones exceeds the context of tiny-gemma2 \(512\)"):
        harness_scores(model, None, generation(files, {"until": [], "max_gen_toks": 600}))
    with pytest.raises(ValueError, match=r"top_p=0\.9, which is not supported"):
        harness_scores(model, None, generation(files, {"until": [], "do_sample": True, "top_p": 0.9}))
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        harness_scores(model, make_vector(layer=9), task(files, "multiple_choice"))
    with pytest.raises(TypeError, match="PerPrompt says which row gets which vector"):
        by_row: Any = steerlens.PerPrompt([make_vector(), make_vector(seed=2)])
        harness_scores(model, by_row, task(files, "multiple_choice"))
    with pytest.raises(ValueError, match="batch_size is 0"):
        harness_scores(model, None, task(files, "multiple_choice"), batch_size=0)
    with pytest.raises(ValueError, match="'some': a dict must configure one task"):
        harness_scores(model, None, {"group": "some", "task": [task(files, "multiple_choice")]})
    assert wanted({"until": "x", "temperature": 0.0, "top_p": 1.0}, 64) == (64, 0.0, ("x",))
    assert wanted({"do_sample": True, "temperature": 0.5}, 64).temperature == 0.5
    assert wanted({"temperature": 0.5, "max_new_tokens": 9}, 64) == (9, 0.5, ()), (
        "the harness samples where a temperature is given"
    )
    assert wanted({"do_sample": False, "temperature": 0.5, "max_gen_toks": 9, "max_tokens": 8}, 64) == (9, 0.0, ())


def test_a_description_without_a_place_in_the_template(gemma: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(gemma.model, [], [], True, 1)
    messages = [{"role": "system", "content": "Answer.\n"}, {"role": "user", "content": "Why?"}]
    assert "<start_of_turn>system\nAnswer." in runner.template(messages, True)
    plain = gemma.model.tokenizer.chat_template
    for refusing in ("{{ raise_exception('System role not supported') }}", ""):
        start = "{% if messages[0]['role'] == 'system' %}" + refusing + "{% else %}"
        monkeypatch.setattr(gemma.model.tokenizer, "chat_template", f"{start}{plain}{{% endif %}}")
        assert runner.template(messages, True) == (
            "<bos><start_of_turn>user\nAnswer.\n\nWhy?<end_of_turn>\n<start_of_turn>model\n"
        )
        with pytest.raises(ValueError, match="no place for the task's description: use chat=False"):
            runner.template(messages[:1], True)


def test_without_the_package(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ImportError, match=r"pip install steerlens\[evals\]"):
        harness_scores(model, None, "tinyMMLU")
