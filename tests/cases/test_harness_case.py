"""Case 05: unsteered scores of lm-evaluation-harness are those of its own `hf` model, on every tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_models import CHATML, TEMPLATES, characters, pieces, small_llama
from smollm2 import smollm2

import steerlens
from steerlens.evaluation.harness import scores as harness

lm_eval = pytest.importorskip("lm_eval", reason="the package lm-eval (extra evals) is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

QUESTIONS = (
    ("Which town is it?", ["Rome", "Paris, of course"]),
    ("Is a cat a fish? ", ["no", "yes", "who knows"]),
    ("<bos>2 + 2 =", ["3", "4"]),
    ("", ["Hello world", "Hello"]),
    ("Say\n", ["Hello", "fish"]),
)


def plain(folder: Path, tokenizer: Any) -> tuple[Any, Any, Any]:
    """A model with a tokenizer: as steerlens loads it, and as Hugging Face does."""
    hf = small_llama(len(tokenizer))
    hf.save_pretrained(folder / "model")
    return steerlens.load_model(folder / "model", tokenizer=tokenizer, device="cpu"), hf, tokenizer


def terrarium(folder: Path) -> tuple[Any, Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from steerlens.files import TERRARIUM_WEIGHTS

    hf = AutoModelForCausalLM.from_pretrained(TERRARIUM_WEIGHTS)
    return steerlens.load_model("terrarium", device="cpu"), hf, AutoTokenizer.from_pretrained(TERRARIUM_WEIGHTS)


def smollm(folder: Path) -> tuple[Any, Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = smollm2()
    files = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    hf = AutoModelForCausalLM.from_pretrained(**files)
    return steerlens.load_model(path, device="cpu"), hf, AutoTokenizer.from_pretrained(**files)


MAKERS: dict[str, Callable[[Path], tuple[Any, Any, Any]]] = {
    "BOS": lambda folder: plain(folder, characters(folder / "t", CHATML)),
    "no BOS": lambda folder: plain(folder, characters(folder / "t", CHATML, bos_first=False, add_bos_token=False)),
    "SentencePiece": lambda folder: plain(folder, pieces(folder / "t", TEMPLATES["llama2"])),
    "Terrarium": terrarium,
    "SmolLM2": smollm,
}


@pytest.mark.parametrize("chat", [False, True], ids=["bare", "chat"])
@pytest.mark.parametrize("name", MAKERS)
def test_case_05_unsteered_scores_are_lm_evals_own(tmp_path: Path, name: str, chat: bool) -> None:
    from lm_eval.models.huggingface import HFLM

    model, hf, tokenizer = MAKERS[name](tmp_path)
    questions = [(q or "Say", c) if chat else (q, c) for q, c in QUESTIONS if not (chat and q.startswith("<bos>"))]
    rows = [{"question": q, "choices": c, "answer": 0} for q, c in questions]
    (tmp_path / "test.json").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "test.json")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    }
    found = harness.harness_scores(model, None, dict(task), chat=chat, batch_size=2)
    own = HFLM(pretrained=hf, tokenizer=tokenizer, batch_size=1, device="cpu")  # pyright: ignore[reportCallIssue] - its registry hides the class
    loaded = harness._load(dict(task), None, None, 1234)
    right: Any = lm_eval.evaluator.evaluate(own, loaded, apply_chat_template=chat, fewshot_as_multiturn=chat, bootstrap_iters=0)
    expected = [sample["filtered_resps"] for sample in right["samples"]["tiny_choice"]]
    got = [eval(text) for text in found.samples["responses"]]
    for ours, theirs in zip(got, expected, strict=True):
        mine, right_ones = ([logprob for logprob, _ in both] for both in (ours, theirs))
        if chat:  # the harness counts the line break after the generation header to each choice, here it is the prompt's
            mine, right_ones = ([logprob - both[0] for logprob in both] for both in (mine, right_ones))
        else:
            assert [greedy for _, greedy in ours] == [bool(greedy) for _, greedy in theirs]
        assert mine == pytest.approx(right_ones, rel=1e-4, abs=1e-4)
    assert found.value("tiny_choice", "acc") == right["results"]["tiny_choice"]["acc,none"]
