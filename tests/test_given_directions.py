"""Vectors from directions that a user gives, and directions from the decoder of an SAE."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import LAYERS, WIDTH

import steerlens
from steerlens.extraction import from_direction, sae_direction


def test_from_direction(model, tmp_path):
    row = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)) * 5
    sv = from_direction(model, row.bfloat16().requires_grad_(), layer=2, factor=7, concept="cats", source="by hand")
    assert float(sv.direction.norm()) == pytest.approx(1) and sv.factor == 7 and sv.layer == 2 and sv.positions == "all"
    assert float(sv.direction @ row / row.norm()) == pytest.approx(1, abs=1e-4)
    assert sv.concept == "cats" and sv.model_name == "tiny-gemma2"
    expected = {
        "method": "given direction",
        "source": "by hand",
        "factor_source": "given",
        "made_by": "steerlens.from_direction",
        "hook_point": "blocks.2.hook_resid_post",
        "positions": "all",
    }
    assert expected.items() <= dict(sv.provenance).items()
    assert steerlens.SteeringVector.load(sv.save(tmp_path / "v.safetensors")) == sv
    tiny = from_direction(model, torch.full((WIDTH,), 1e-30), layer=0, factor=1)
    assert float(tiny.direction.norm()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("direction", "settings", "words"),
    [
        (torch.zeros(WIDTH), {}, "the direction has norm 0"),
        (torch.full((WIDTH,), math.nan), {}, "the direction has norm nan"),
        (torch.ones(WIDTH + 1), {}, f"direction has {WIDTH + 1} entries, the residual stream of tiny-gemma2 has {WIDTH}"),
        (torch.ones(WIDTH), {"layer": LAYERS}, "layer 4 does not exist"),
        (torch.ones(WIDTH), {"factor": math.inf}, "the factor is inf"),
        (torch.ones(WIDTH), {"positions": "nowhere"}, "positions 'nowhere'"),
    ],
)
def test_from_direction_refuses(model, direction, settings, words):
    with pytest.raises(ValueError, match=words):
        from_direction(model, direction, **({"layer": 0, "factor": 1.0} | settings))


def test_sae_direction(model):
    decoder = torch.nn.Parameter(torch.arange(12, dtype=torch.float32).reshape(3, 4))
    found = sae_direction(SimpleNamespace(W_dec=decoder), np.int64(1))
    assert found.tolist() == pytest.approx((decoder[1] / decoder[1].norm()).tolist()) and not found.requires_grad
    with pytest.raises(ValueError, match="feature 3 does not exist: the decoder has rows 0 to 2"):
        sae_direction(SimpleNamespace(W_dec=decoder), 3)
    with pytest.raises(ValueError, match="feature -1 does not exist"):
        sae_direction(SimpleNamespace(W_dec=decoder), -1)
    with pytest.raises(ValueError, match="the decoder row of feature 0 has norm 0"):
        sae_direction(SimpleNamespace(W_dec=torch.zeros(3, 4)), 0)
    with pytest.raises(TypeError, match=r"Linear has no decoder W_dec of shape \(n_features, d_model\): found none"):
        sae_direction(torch.nn.Linear(2, 2), 0)
    with pytest.raises(TypeError, match=r"found Tensor \(4,\)"):
        sae_direction(SimpleNamespace(W_dec=torch.zeros(4)), 0)
