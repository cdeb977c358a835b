"""Case 07: numbers that are none never become a score or a mean, in the harness and with an autoencoder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import CHATML, Talker, characters, talker, vector
from random_sae import FIXED, randn
from random_sae import vector as near_the_sae
from tiny import WIDTH

import steerlens
from steerlens.analysis import SAE, effect_recovery, feature_effects, residual_statistics
from steerlens.model.numbers import NotFiniteError
from steerlens.steering.recording import divergence

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def made(tmp_path: Path) -> Talker:
    return talker(tmp_path, characters(tmp_path / "t", CHATML), dtype="float16")


def task(folder: Path, kind: str) -> dict[str, Any]:
    rows = [{"question": "2 + 2 =", "choices": ["4", "5"], "answer": 0, "text": "4"}]
    (folder / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    files = {"data_files": {"test": str(folder / "rows.json")}, "cache_dir": str(folder / "cache")}
    generates = kind == "generate_until"
    config: dict[str, Any] = {"task": kind, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
    config |= {"output_type": kind, "doc_to_text": "{{question}}", "doc_to_target": "text" if generates else "answer"}
    config |= {"metric_list": [{"metric": "exact_match" if generates else "acc"}]}
    return config | ({"generation_kwargs": {"until": ["."]}} if generates else {"doc_to_choice": "{{choices}}"})


@pytest.mark.parametrize("kind", ["multiple_choice", "generate_until"])
@pytest.mark.parametrize("chat", [True, False])
def test_case_07_the_harness_scores_nothing_from_overflow(made: Talker, kind: str, chat: bool, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the package lm-eval (extra evals) is not installed")
    whole = steerlens.harness_scores(made.model, vector(factor=1.0), task(tmp_path, kind), chat=chat, max_gen_toks=3)
    assert whole.frame["value"].between(0, 1).all()
    with pytest.raises(NotFiniteError, match="lower the factor, or load the model in bfloat16 or float32"):
        steerlens.harness_scores(made.model, vector(factor=7e4), task(tmp_path, kind), chat=chat, max_gen_toks=3)


MEANS: dict[str, Callable[..., Any]] = {
    "feature_effects": lambda model, sv, sae: feature_effects(model, sv, sae, **FIXED, allow=("model",)),
    "effect_recovery": lambda model, sv, sae: effect_recovery(model, sv, sae, **FIXED, ks=(1,), n_random=2, allow=("model",)),
}


@pytest.mark.parametrize("measure", MEANS.values(), ids=MEANS)
def test_case_07_no_mean_of_features_from_overflow(measure: Any, made: Talker, sae: SAE) -> None:
    with pytest.raises(
        ValueError, match=r"not finite: the model overflows under a vector of norm .*: use a smaller factor|not num"
    ):
        measure(made.model, near_the_sae(randn(WIDTH, seed=5)).replace(factor=7e4), sae)


def test_case_07_activations_that_overflow_are_no_mean(model: Any, sae: SAE) -> None:
    huge = replace(sae, W_enc=sae.W_enc.sign() * 3e38)
    with pytest.raises(NotFiniteError, match="activations of the SAE are not finite"):
        feature_effects(model, near_the_sae(randn(WIDTH, seed=5)), huge, **FIXED)


def test_case_07_forbidden_words_are_no_overflow(tmp_path: Path) -> None:
    made = talker(tmp_path, characters(tmp_path / "t", CHATML))
    head = made.model.original_model.lm_head
    sv, prompts = vector(), ["Hi", "Ho there"]
    allowed = torch.arange(head.out_features) < 100
    with torch.no_grad():
        head.bias = torch.nn.Parameter(torch.zeros(head.out_features).masked_fill(~allowed, -torch.inf))
    hidden = torch.randn(2, 3, head.in_features, generator=torch.Generator().manual_seed(0))
    steered, plain = head(hidden)
    assert torch.allclose(divergence(steered, plain), divergence(steered[:, allowed], plain[:, allowed]))
    assert divergence(steered.masked_fill(allowed & (torch.arange(len(allowed)) > 0), -torch.inf), plain).isfinite().all()
    assert (divergence(plain.masked_fill(~allowed, 0.0), plain) == torch.inf).all(), "a word that only the plain model forbids"
    assert steerlens.mean_kl(made.model, sv, prompts) > 0
    measured = steerlens.side_effects(made.model, sv, prompts, max_new_tokens=4).frame
    assert (measured.query("vector == 'vector'")["kl"] > 0).all()
    assert "inf" not in str(steerlens.explain_speed(made.model)), "plain and hooked passes forbid the same words"
    assert divergence(steered * torch.nan, plain).isnan().all()


def test_case_07_a_model_that_overflows_by_itself(made: Talker, sae: SAE) -> None:
    with torch.no_grad():
        made.model.original_model.model.embed_tokens.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"not finite|not numbers"):
        feature_effects(made.model, near_the_sae(randn(WIDTH, seed=5)), sae, **FIXED, allow=("model",))
    with pytest.raises(ValueError, match="the activations after layer 1 are not finite"):
        residual_statistics(made.model, ["Hi there, you all"] * 20, 1)
