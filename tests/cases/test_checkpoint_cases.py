"""Checkpoints that are no causal language model, or not a whole one, and calls whose errors came from deep inside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers as hf
from chat_models import CHATML, characters, small_llama, vector
from unchecked import without_type_checks

import steerlens
from steerlens.model.support import UnsupportedModelError, check_supported
from steerlens.steering.recording import encode

SIZE: dict[str, Any] = {
    "vocab_size": 178,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder / "model")
    characters(folder / "model", CHATML)
    return folder / "model"


def llama(kind: str, **settings: Any) -> Any:
    return getattr(hf, kind)(hf.LlamaConfig(**SIZE | settings))


def bert(kind: str, **settings: Any) -> Any:
    return getattr(hf, kind)(hf.BertConfig(**SIZE | settings))


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "LlamaModel": (
        lambda: llama("LlamaModel"),
        r"\(LlamaModel\) lacks weights of a LlamaForCausalLM.*: lm_head.weight: load a",
    ),
    "classifier": (lambda: llama("LlamaForSequenceClassification", pad_token_id=0), "a classifier, whose language head"),
    "tied classifier": (
        lambda: llama("LlamaForSequenceClassification", pad_token_id=0, tie_word_embeddings=True),
        "a classifier, whose language head",
    ),
    "tokens": (lambda: llama("LlamaForTokenClassification"), "a classifier, whose language head"),
    "answers": (lambda: llama("LlamaForQuestionAnswering"), "answers by choosing"),
    "BertModel": (lambda: bert("BertModel"), r"\(BertModel\), as TransformerLens takes it, \(BertForMaskedLM\) is a masked"),
    "BertForMaskedLM": (lambda: bert("BertForMaskedLM"), "a masked language model"),
    "BertForPreTraining": (lambda: bert("BertForPreTraining"), "a masked language model"),
    "BertLMHeadModel": (lambda: bert("BertLMHeadModel"), "its tokens see later ones"),
    "BartForCausalLM": (
        lambda: hf.BartForCausalLM(
            hf.BartConfig(
                vocab_size=178,
                d_model=48,
                decoder_layers=2,
                decoder_attention_heads=4,
                is_decoder=True,
                is_encoder_decoder=False,
            )
        ),
        r"\(BartForCausalLM\), as TransformerLens takes it, .* is an encoder-decoder model",
    ),
    "CLIPTextModel": (lambda: hf.CLIPTextModel(hf.CLIPTextConfig(**SIZE)), "TransformerLens has no adapter for it"),
    "PersimmonForCausalLM": (
        lambda: hf.PersimmonForCausalLM(hf.PersimmonConfig(**SIZE)),
        r"\(PersimmonForCausalLM\) cannot be steered: TransformerLens has no adapter for it",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_checkpoints_of_something_else(tmp_path: Path, kind: str) -> None:
    make, words = OTHERS[kind]
    folder = saved(tmp_path, make())
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        steerlens.load_model(folder, device="cpu")
    assert str(folder) in str(caught.value)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, llama("LlamaForCausalLM"))
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    lost = ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    safetensors.torch.save_file({k: v for k, v in weights.items() if k not in lost}, path, {"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=rf"would be random: {lost[0]}, {lost[1]}: load"):
        steerlens.load_model(folder, device="cpu")


def test_a_bare_model_whose_head_is_its_embedding(tmp_path: Path) -> None:
    plain: Any = hf.GPT2Model(hf.GPT2Config(vocab_size=178, n_embd=48, n_layer=2, n_head=4))
    model: Any = steerlens.load_model(saved(tmp_path, plain), device="cpu")
    assert model.original_model.get_output_embeddings().weight.equal(plain.wte.weight)
    tied = steerlens.load_model(saved(tmp_path / "tied", llama("LlamaModel", tie_word_embeddings=True)), device="cpu")
    assert type(tied.original_model).__name__ == "LlamaForCausalLM"


def test_a_bridge_that_the_user_booted(tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(str(saved(tmp_path, bert("BertForMaskedLM"))), device="cpu")
    with pytest.raises(UnsupportedModelError, match="a masked language model"):
        check_supported(model)


# --- errors from deep inside ----------------------------------------------------------------------------------------------


CALLS: dict[str, Callable[[Any], Any]] = {
    "generate": lambda model: steerlens.generate(model, ["Hi", "zz"], max_new_tokens=2),
    "loss": lambda model: steerlens.loss(model, vector(), [{"prompt": "a", "response": "zz"}]),
    "train": lambda model: steerlens.train(model, [{"prompt": "zz", "response": "a"}], layer=1, epochs=1),
    "mean_kl": lambda model: steerlens.mean_kl(model, vector(), ["zz"]),
    "collect": lambda model: steerlens.collect(model, [{"prompt": "zz", "response": "a", "neutral": "b"}], layers=[1]),
    "harness": lambda model: pad_rows(model),
}


def pad_rows(model: Any) -> Any:
    from steerlens.model.forward import pad

    return pad(model, [[1, 2], [1, model.cfg.d_vocab]], "left")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_tokenizer_of_more_tokens_than_the_model(tmp_path: Path, call: Callable[[Any], Any]) -> None:
    tokenizer = characters(tmp_path / "t", CHATML)
    small_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    size = len(tokenizer)
    tokenizer.add_tokens(["zz"])
    tokenizer.save_pretrained(tmp_path / "more")
    model = steerlens.load_model(
        tmp_path / "model", tokenizer=hf.AutoTokenizer.from_pretrained(tmp_path / "more"), device="cpu"
    )
    with pytest.raises(ValueError, match=rf"has the token {size}, and .* has embeddings for 0 to {size - 1} only"):
        call(model)


@pytest.mark.parametrize("name", ["generate", "loss", "steer", "mean_kl", "evaluate", "audit", "select_factor", "scan_layers"])
def test_the_model_is_looked_at_first(name: str) -> None:
    function: Any = getattr(steerlens, name)
    with pytest.raises(TypeError, match=r"missing|expected a TransformerBridge"):
        function(None)
    with pytest.raises(TypeError, match=r"expected a TransformerBridge, as steerlens\.load_model gives, got NoneType"):
        function(None, *["a"] * required(function))


def required(function: Any) -> int:
    """Arguments by position that a function needs beside its model."""
    import inspect

    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) - 1


def test_scripts_that_are_none() -> None:
    assert without_type_checks("test_checkpoint_cases", "refused_scripts") == [True] * 4


def refused_scripts() -> list[bool]:
    """Whether each is refused with a message; run without the tests' type checks, as users run it."""
    answers = []
    for script in (None, 3, "replies", {"a": 1}):
        given: Any = script
        try:
            steerlens.ScriptedJudge(given)
            answers.append(False)
        except TypeError as error:
            answers.append("it must be a function or a list of Scores" in str(error))
    return answers


def test_sets_have_no_order() -> None:
    assert without_type_checks("test_checkpoint_cases", "refused_sets") == [True] * 6


def refused_sets() -> list[bool]:
    model, sv = steerlens.load_model("terrarium"), steerlens.SteeringVector(torch.ones(160), 1.0, 1)
    unordered: Any = {"Hi", "Ho"}
    fixed: Any = frozenset(unordered)
    seeds: Any = {1, 2}
    given: Any = {sv, sv.scaled(2)}
    calls: list[Callable[[], Any]] = [
        lambda: steerlens.generate(model, unordered),
        lambda: steerlens.mean_kl(model, sv, fixed),
        lambda: steerlens.generate(model, ["a", "b"], given),
        lambda: steerlens.generate(model, ["a", "b"], seed=seeds),
        lambda: steerlens.PerPrompt(given),
        lambda: encode(model, ["a", "b"], unordered),
    ]
    answers = []
    for call in calls:
        try:
            call()
            answers.append(False)
        except (ValueError, TypeError) as error:
            answers.append("set, which has no order" in str(error) or "must be" in str(error))
    return answers
