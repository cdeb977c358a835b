"""The lower half once, and logits a few at a time: the same numbers, wherever they are kept."""

from typing import Any

import pytest
import torch
from conftest import PROMPTS

import steerlens
from steerlens import TrainConfig
from steerlens.model import halves
from steerlens.model.batches import encode_data
from steerlens.model.frozen import frozen
from steerlens.training import lower_half as kept

CONFIG = TrainConfig(epochs=2, batch_size=3, factor_lr=0.2, direction_lr=0.02)


def train(model: Any, data: Any, **settings: Any) -> Any:
    return steerlens.train(model, data, layer=2, config=CONFIG, progress=False, **settings)


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a.direction, b.direction, rtol=1e-3, atol=1e-4)
    assert a.history["loss"].to_numpy() == pytest.approx(b.history["loss"].to_numpy(), rel=1e-5)


@pytest.mark.parametrize("size", [1, 200, 166 * 7])
def test_chunks_of_logits_change_nothing(bench: Any, data: Any, monkeypatch: Any, size: int) -> None:
    whole = train(bench.model, data)
    monkeypatch.setattr(halves, "CHUNK", {"cpu": size, "other": size})
    same(train(bench.model, data), whole)


def test_logprobs_and_their_gradient_against_autograd(bench: Any) -> None:
    states = torch.randn(9, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.arange(9) + 40
    with frozen(bench.model):
        assert halves.why_whole(bench.model, 0) is None
        ours = halves.token_logprobs(bench.model, states, targets)
        (slope,) = torch.autograd.grad((ours * torch.arange(9)).sum(), states)
        right = halves.unembed(bench.model, states).log_softmax(-1)[torch.arange(9), targets]
        (expected,) = torch.autograd.grad((right * torch.arange(9)).sum(), states)
    torch.testing.assert_close(ours, right)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-6)


def test_kept_in_a_file_where_memory_is_short(gemma: Any, data: Any, monkeypatch: Any) -> None:
    whole, made = train(gemma.model, data), []
    from_file = torch.from_file
    monkeypatch.setattr(kept, "free_memory", lambda device: 0)
    monkeypatch.setattr(torch, "from_file", lambda *args, **kwargs: made.append(from_file(*args, **kwargs)) or made[-1])
    same(train(gemma.model, data), whole)
    assert len(made) == 1 and not made[0].requires_grad


def test_blocks_below_run_once(gemma: Any, data: Any) -> None:
    model, runs = gemma.model, {0: 0, 1: 0, 3: 0}

    def count(layer: int) -> Any:
        def note(*_: Any) -> None:
            runs[layer] += 1

        return model.blocks[layer].original_component.mlp.original_component.register_forward_hook(note)

    train(model, data)  # what is tried once is tried
    handles = [count(layer) for layer in runs]
    train(model, data)
    for handle in handles:
        handle.remove()
    assert runs[0] == runs[1] == 1 and runs[3] == 4  # one pass over all rows; two epochs of two steps


def test_weights_that_change_on_the_way_are_noticed(tmp_path: Any, data: Any) -> None:
    """A callback changes a weight below the edited layer: what was kept no longer holds."""
    from tiny import make_bench

    def losses(model: Any) -> Any:
        def change(step: Any) -> None:
            if step.row["step"] == 0:
                with torch.no_grad():
                    model.blocks[0].mlp.original_component.down_proj.weight.mul_(3.0)

        return train(model, data, callbacks=[change]).history["loss"].to_numpy()

    ours = losses(make_bench("llama", tmp_path / "a").model)
    model = make_bench("llama", tmp_path / "b").model
    with model.hooks(fwd_hooks=[("hook_embed", lambda value, hook: None)]):
        right = losses(model)
    assert ours == pytest.approx(right, rel=1e-5)


def test_rows_of_the_table_are_the_models_own(bench: Any, data: Any) -> None:
    rows = encode_data(bench.model, data)
    with frozen(bench.model):
        found = kept.lower_half(bench.model, rows, 1, 64)
        assert found is not None
        for row in rows:
            tokens = torch.tensor([row.prompt + row.response])
            values = {}
            bench.model.run_with_hooks(
                tokens, fwd_hooks=[("blocks.1.hook_resid_post", lambda v, hook, values=values: values.update(v=v))]
            )
            residual = found.of(bench.model, [row])
            assert residual is not None and residual.layer == 1
            torch.testing.assert_close(residual.values, values["v"], rtol=1e-5, atol=1e-5)
    assert len(PROMPTS) == len(rows)
