"""Case 05: unsteered scores of lm-evaluation-harness are those of its own `hf` model, on every tokenizer."""

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from chat_models import CHATML, GEMMA, TEMPLATES, characters, pieces, small_llama
from smollm2 import smollm2

import steerlens
from steerlens.evaluation.harness import scores as harness
from steerlens.evaluation.harness.runner import Runner, adapter

lm_eval = pytest.importorskip("lm_eval", reason="the package lm-eval (extra evals) is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

QUESTIONS = (
    ("Which town is it?", ["Rome", "Paris, of course"]),
    ("Is a cat a fish? ", ["no", "yes", "who knows"]),
    ("<bos>2 + 2 =", ["3", "4"]),
    ("", ["Hello world", "Hello"]),
    ("Say\n", ["Hello", "fish"]),
)
CONTEXT = 96
"""Of the models that are made here, in tokens."""
TEXTS = ("Hello", " A cat is no fish.\n\nHello world! " * 3, "x" * CONTEXT, "x" * (CONTEXT + 1) + "\n", "")


class Both(NamedTuple):
    """A model with its tokenizer, as steerlens loads it and as Hugging Face does."""

    model: Any
    hf: Any
    tokenizer: Any


def plain(folder: Path, tokenizer: Any) -> Both:
    hf = small_llama(len(tokenizer), CONTEXT)
    hf.save_pretrained(folder / "model")
    return Both(steerlens.load_model(folder / "model", tokenizer=tokenizer, device="cpu"), hf, tokenizer)


def terrarium(_folder: Path) -> Both:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from steerlens.files import TERRARIUM_WEIGHTS

    hf = AutoModelForCausalLM.from_pretrained(TERRARIUM_WEIGHTS)
    return Both(steerlens.load_model("terrarium", device="cpu"), hf, AutoTokenizer.from_pretrained(TERRARIUM_WEIGHTS))


def smollm(_folder: Path) -> Both:
    """What transformers makes of the file is copied on its way to steerlens, and what it reads again and again is kept:
    reading the file takes most of these tests' time."""
    path = smollm2()
    import gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made: dict[type, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GGUFReader", "get_tensor_name_map"):
            patch.setattr(gguf, name, cache(getattr(gguf, name)))
        for kind in (AutoModelForCausalLM, AutoTokenizer):

            def read(*args: Any, kind: Any = kind, read: Any = kind.from_pretrained, **settings: Any) -> Any:
                found = read(*args, **settings)
                if settings.get("gguf_file"):
                    made[kind] = copy.deepcopy(found[0] if isinstance(found, tuple) else found)
                return found

            patch.setattr(kind, "from_pretrained", read)
        model = steerlens.load_model(path, device="cpu")
    return Both(model, made[AutoModelForCausalLM], made[AutoTokenizer])


MAKERS: dict[str, Callable[[Path], Both]] = {
    "BOS": lambda folder: plain(folder, characters(folder / "t", CHATML)),
    "template's BOS": lambda folder: plain(folder, characters(folder / "t", GEMMA)),
    "no BOS": lambda folder: plain(folder, characters(folder / "t", CHATML, bos_first=False, add_bos_token=False)),
    "SentencePiece": lambda folder: plain(folder, pieces(folder / "t", TEMPLATES["llama2"])),
    "line break and letter": lambda folder: plain(folder, characters(folder / "t", CHATML, merges=[("\n", "R"), ("\n", "y")])),
    "letter and line break": lambda folder: plain(folder, characters(folder / "t", CHATML, merges=[("t", "\n"), ("a", "y")])),
    "Terrarium": terrarium,
    "SmolLM2": smollm,
}
each = pytest.mark.parametrize("name", MAKERS)
modes = pytest.mark.parametrize("chat", [False, True], ids=["bare", "chat"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Both]:
    """Name of a tokenizer -> its models, made once."""
    return cache(lambda name: MAKERS[name](tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module", autouse=True)
def no_index() -> Iterator[None]:
    """The index of the harness's own tasks, which takes seconds to read, has no part in tasks given as dicts."""
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "_own_tasks", cache(lambda: TaskManager(include_defaults=False)))
        yield


def hflm(made: Both) -> Any:
    from lm_eval.models.huggingface import HFLM

    own: Any = HFLM  # its registry hides the class from the type checker
    return own(pretrained=made.hf, tokenizer=made.tokenizer, batch_size=1, device="cpu")


def asked(*arguments: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, arguments, 0)


def ours(made: Both, chat: bool = False, max_gen_toks: int = 256) -> Any:
    return adapter(Runner(made.model, [], [], chat, 2), max_gen_toks, 0, False)


@modes
@each
def test_case_05_unsteered_scores_are_lm_evals_own(both: Callable[[str], Both], tmp_path: Path, name: str, chat: bool) -> None:
    made = both(name)
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
    found = harness.harness_scores(made.model, None, dict(task), chat=chat, batch_size=2)
    loaded = harness._load(dict(task), None, None, 1234)
    right: Any = lm_eval.evaluator.evaluate(
        hflm(made), loaded, apply_chat_template=chat, fewshot_as_multiturn=chat, bootstrap_iters=0
    )
    expected = [sample["filtered_resps"] for sample in right["samples"]["tiny_choice"]]
    got = [eval(text) for text in found.samples["responses"]]
    for mine, theirs in zip(got, expected, strict=True):
        assert [greedy for _, greedy in mine] == [bool(greedy) for _, greedy in theirs]
        assert [logprob for logprob, _ in mine] == pytest.approx([logprob for logprob, _ in theirs], rel=1e-4, abs=1e-4)
    assert found.value("tiny_choice", "acc") == right["results"]["tiny_choice"]["acc,none"]


@each
def test_case_05_whole_texts_have_lm_evals_own_likelihoods(both: Callable[[str], Both], name: str) -> None:
    made = both(name)
    texts = list(TEXTS)
    if name != "SmolLM2":  # its context of 8192 tokens is too long for a test
        texts.append(" A cat is no fish,\nHello world!" * (made.hf.config.max_position_embeddings // 4))
        assert len(made.tokenizer(texts[-1])["input_ids"]) > 2 * made.hf.config.max_position_embeddings
    requests = [asked(text) for text in texts]
    mine, theirs = ours(made).loglikelihood_rolling(requests), hflm(made).loglikelihood_rolling(requests)
    assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)


@modes
@each
def test_case_05_greedy_texts_are_lm_evals_own(both: Callable[[str], Both], name: str, chat: bool) -> None:
    made = both(name)
    model, own = ours(made, chat, max_gen_toks=6), hflm(made)
    contexts = [q or "Say" for q, _ in QUESTIONS if not (chat and q.startswith("<bos>"))]
    contexts = contexts[1 : 3 if name == "SmolLM2" else 4]  # which is slow
    if chat:
        talks = [[{"role": "user", "content": text}] for text in contexts]
        contexts = [own.apply_chat_template(talk) for talk in talks]
        assert contexts == [model.apply_chat_template(talk) for talk in talks]
    ends = ["<|im_end|>"] if chat else []  # here a turn's end ends a text, there only if the generation config says so
    whole = own.generate_until([asked(text, {"until": [*ends], "max_gen_toks": 8}) for text in contexts])
    assert model.generate_until([asked(text, {"until": [*ends], "max_gen_toks": 8}) for text in contexts]) == whole
    stops = sorted({text[3:5] for text in whole if len(text) > 4} | {text[1:2] for text in whole if len(text) > 4})[:3]
    assert stops, "no text is long enough to be cut"
    settings = {"until": [*stops, *ends], "max_gen_toks": 6, "do_sample": False, "temperature": 0.0}
    cut = own.generate_until([asked(text, copy.deepcopy(settings)) for text in contexts])
    assert model.generate_until([asked(text, copy.deepcopy(settings)) for text in contexts]) == cut
    assert any(len(short) < len(text) for short, text in zip(cut, whole, strict=True))


@pytest.mark.parametrize(
    ("name", "choice", "shared"),
    [
        ("BOS", "Rome", 0),  # the whole prompt
        ("template's BOS", "Rome", 0),
        ("no BOS", "Rome", 0),
        ("SentencePiece", "Rome", 0),
        ("line break and letter", "Rome", 1),  # its last line break is one token with the letter
        ("line break and letter", "Paris", 0),
        ("letter and line break", "Rome", 1),  # of "t" and the line break the harness has the "t" alone
    ],
)
def test_the_edited_prompt_is_that_of_generate(both: Callable[[str], Both], name: str, choice: str, shared: int) -> None:
    runner = Runner(both(name).model, [], [], True, 2)
    context = runner.template([{"role": "user", "content": "Which town is it?"}], True)
    pair, prompt = runner.pair(context, choice), runner.encode(context)
    assert pair.n_prompt == len(prompt) - shared
    assert list(pair.context + pair.continuation)[: pair.n_prompt] == prompt[: pair.n_prompt]
    assert pair.fed.prompt == tuple(prompt[: pair.n_prompt])
    theirs = hflm(both(name))._encode_pair(context, choice)
    assert (list(pair.context), list(pair.continuation)) == theirs
    with torch.no_grad():
        logits = both(name).hf(torch.tensor([theirs[0] + theirs[1]])).logits[0].log_softmax(-1)
    sums = [logits[len(theirs[0]) - 1 + index, token] for index, token in enumerate(theirs[1])]
    ((_, scored),) = runner.score([pair])
    assert scored.logprob == pytest.approx(float(sum(sums)), rel=1e-4)
