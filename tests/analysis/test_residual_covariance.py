"""Statistics of the residual stream, against a naive loop over plain hooks."""

from typing import Any

import pytest
import torch
from conftest import PROMPTS, RESPONSES, rows_of
from naive import naive_residuals
from tiny import WIDTH, Bench

from steerlens.analysis import residual_statistics


def test_statistics_against_a_naive_loop(bench: Bench, data: Any) -> None:
    found = residual_statistics(bench.model, data, 2, batch_size=2)
    tokens = torch.cat([naive_residuals(bench, [*p, *r], 2)[1:] for p, r in rows_of(bench.model, data)]).double()
    assert found.n_tokens == len(tokens)
    assert torch.allclose(found.mean.double(), tokens.mean(0), atol=1e-3)
    wanted = tokens.T.cov()
    assert torch.allclose(found.covariance.double(), wanted, atol=1e-4 * float(wanted.abs().max()))
    whole = residual_statistics(bench.model, list(PROMPTS), 2, responses=list(RESPONSES), batch_size=5)
    assert torch.allclose(whole.covariance, found.covariance, atol=1e-4 * float(wanted.abs().max()))
    assert found.to_frame()["share"].sum() == pytest.approx(1) and f"Over {len(tokens)} tokens" in found.summary()


def test_a_conversation_is_one_text(model: Any) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Good day"},
        {"role": "user", "content": "Why?" * 20},
    ]
    assert residual_statistics(model, turns, 1).n_tokens == residual_statistics(model, [turns], 1).n_tokens > WIDTH


def test_statistics_that_would_mislead_are_refused(model: Any, data: Any) -> None:
    with pytest.raises(ValueError, match="tokens for a residual stream of 48 dimensions: give more texts"):
        residual_statistics(model, "Hi", 1, chat=False)
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        residual_statistics(model, data, 9)
    with pytest.raises(ValueError, match="the data have responses of their own"):
        residual_statistics(model, data, 1, responses=["x"])
