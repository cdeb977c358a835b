"""What the tests of features share: shapes, texts and vectors that suit the random autoencoder of the fixture sae."""

from typing import Any

import torch
from conftest import PROMPTS, RESPONSES
from torch import Tensor

import steerlens

LAYER, N = 1, 120
KNOWN: dict[str, Any] = {"model_name": "tiny-gemma2", "provenance": {"weight_processing": "raw"}}
FIXED: dict[str, Any] = {"prompts": PROMPTS, "responses": RESPONSES}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(direction: Tensor, factor: float = 2.0, **fields: Any) -> Any:
    return steerlens.SteeringVector(direction, factor, LAYER, **{**KNOWN, **fields})
