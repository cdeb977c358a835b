"""Rotary scaling that switches on length: nested by kinds of layers, and in passes that the user runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import CHATML, Talker, characters, small_llama, talker, vector
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

import steerlens
from steerlens.analysis import token_effects
from steerlens.model.forward import pad
from steerlens.model.support import UnsupportedModelError

LIMIT = 40
KINDS = {
    "longrope": {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [9.0] * 6},
    "dynamic": {"rope_type": "dynamic"},
}
SIDES = "rotary scaling of .* changes beyond 40 for a whole batch"


def scaling(kind: str) -> dict[str, Any]:
    return KINDS[kind] | {"factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": LIMIT}


def nested(folder: Path, kind: str) -> Talker:
    """A Gemma 3 whose layers of full attention alone are scaled."""
    torch.manual_seed(3)
    config = small_llama(100).config.to_diff_dict()
    shape: dict[str, Any] = {
        name: value for name, value in config.items() if isinstance(value, (int, float)) and "rope" not in name
    }
    tokenizer = characters(folder / "t", CHATML)
    rope = {"full_attention": scaling(kind), "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    shape |= {"vocab_size": len(tokenizer), "head_dim": 12, "max_position_embeddings": LIMIT if kind == "dynamic" else 512}
    hf = Gemma3ForCausalLM(Gemma3TextConfig(**shape, layer_types=layers, sliding_window=16, rope_parameters=rope))
    made = talker(folder, tokenizer, hf.eval(), blocks=hf.model.layers)
    made.model.cfg.n_ctx = 512
    return made


def flat(folder: Path, kind: str) -> Talker:
    tokenizer = characters(folder / "t", CHATML)
    config = small_llama(len(tokenizer)).config
    config.rope_parameters = scaling(kind)
    config.max_position_embeddings = LIMIT if kind == "dynamic" else 512
    made = talker(folder, tokenizer, type(small_llama(9))(config).eval())
    made.model.cfg.n_ctx = 512
    return made


def padded(*lengths: int) -> dict[str, torch.Tensor]:
    """Rows of letters, padded on the left."""
    width = max(lengths)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    return {"input_ids": torch.full((len(lengths), width), 40) * mask, "attention_mask": mask}


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_nested_by_kinds_of_layers(tmp_path: Path, kind: str) -> None:
    made = nested(tmp_path, kind)
    with pytest.raises(UnsupportedModelError, match=f"{kind} {SIDES}"):
        steerlens.generate(made.model, ["Hi", "x" * 50], vector(), temperature=0, max_new_tokens=2)
    with pytest.raises(UnsupportedModelError, match=SIDES):
        steerlens.loss(made.model, None, [{"prompt": "Hi", "response": "a"}, {"prompt": "x" * 50, "response": "b"}])
    assert len(steerlens.generate(made.model, ["Hi", "Hey"], vector(), max_new_tokens=2)) == 2


@pytest.mark.parametrize("make", [flat, nested])
@pytest.mark.parametrize("kind", KINDS)
def test_passes_of_the_user_inside_a_block(tmp_path: Path, make: Any, kind: str) -> None:
    made = make(tmp_path, kind)
    hf = made.model.original_model
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    refused = [(8, 50), (LIMIT - 1,)] + ([(50,)] if kind == "dynamic" else [])
    for lengths in refused:
        with steerlens.steer(made.model, vector()), pytest.raises(UnsupportedModelError, match=SIDES):
            hf.generate(**padded(*lengths), **settings)
    for lengths in [(8, 9), (LIMIT - 4,)] + ([] if kind == "dynamic" else [(50, 52)]):
        with steerlens.steer(made.model, vector()):
            whole = hf.generate(**padded(*lengths), **settings)[:, -4:]
        for row, n in enumerate(lengths):
            with steerlens.steer(made.model, vector()):
                assert hf.generate(**padded(n), **settings)[0, -4:].equal(whole[row])
    with steerlens.steer(made.model, vector()), pytest.raises(UnsupportedModelError, match="row 1 has 50 tokens"):
        hf(**padded(8, 50))


def test_given_responses_count(tmp_path: Path) -> None:
    made = flat(tmp_path, "longrope")
    with pytest.raises(UnsupportedModelError, match=SIDES):
        token_effects(made.model, vector(), ["Hi", "Ho"], ["a", "x" * 50])
    with pytest.raises(UnsupportedModelError, match=SIDES):
        pad(made.model, [[1] * 30, [1] * 80], "right")
