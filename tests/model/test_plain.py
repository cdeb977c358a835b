"""Plain passes against hooked ones, on the tiny models: the same numbers, and the bridge as it was."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conftest import PROMPTS
from model_state import State
from tiny import ARCHITECTURES, boot, make_bench, make_hf, save_tokenizer

import steerlens
from steerlens import PerPrompt, TrainConfig, explain_speed
from steerlens.model import plain
from steerlens.model.halves import why_whole

CONFIG = TrainConfig(epochs=2, batch_size=3, factor_lr=0.2, direction_lr=0.02)


@contextmanager
def through_hook_points(model: Any) -> Iterator[None]:
    """A user's hook that changes nothing stands on the model, so that no pass is plain."""
    with model.hooks(fwd_hooks=[("hook_embed", lambda value, hook: None)]):
        assert "there is a hook at" in str(plain.why_hooked(model))
        yield


def both(model: Any, run: Callable[[], Any]) -> tuple[Any, Any]:
    """What a call gives on plain passes, and through hook points."""
    assert plain.why_hooked(model) is None
    ours = run()
    with through_hook_points(model):
        return ours, run()


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_texts(bench: Any, make_vector: Any, temperature: float) -> None:
    vectors = PerPrompt([make_vector(0), make_vector(1, positions="all"), None, make_vector(2, form="clamp"), make_vector(3)])
    for steer in (None, make_vector(), [make_vector(), make_vector(5, layer=3, positions="response")], vectors):
        run = lambda steer=steer: steerlens.generate(  # noqa: E731 - called twice at once
            bench.model, PROMPTS, steer, temperature=temperature, seed=3, max_new_tokens=12
        )
        ours, right = both(bench.model, run)
        assert ours == right


def test_audits_and_recordings(bench: Any, make_vector: Any) -> None:
    sv = make_vector(positions="p2+s1")
    ours, right = both(bench.model, lambda: steerlens.audit(bench.model, PROMPTS, sv))
    assert ours.rows == right.rows and len(ours.edits) == len(right.edits)
    for edit, other in zip(ours.edits, right.edits, strict=True):
        assert (edit.row, edit.index, edit.phase, edit.layer) == (other.row, other.index, other.phase, other.layer)
        assert edit.relative == pytest.approx(other.relative, rel=1e-5)
    ours, right = both(bench.model, lambda: steerlens.mean_kl(bench.model, sv, PROMPTS, max_new_tokens=4))
    assert ours == pytest.approx(right, rel=1e-5)


def test_activations(bench: Any, data: Any) -> None:
    data = steerlens.SteeringData(list(data), negatives=[steerlens.Example("Hi", "No.")])
    ours, right = both(bench.model, lambda: steerlens.collect(bench.model, data, layers=[0, 2]))
    torch.testing.assert_close(ours.positive, right.positive, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "form", "layers", "positions"),
    [
        ("lang", "add", [1], "p2+s2"),
        ("lang", "add", [2, 0], "all"),
        ("simpo", "add", [1], "p2+s2"),
        ("reps", "clamp", [1], "all"),
        ("dpo", "add", [3], "s2"),
        ("lang", "loreft", [1], "p2+s2"),
        ("simpo", "direft", [1], "prompt"),
        ("lang", "null", [1], "all"),
    ],
)
def test_losses_and_trained_vectors(
    bench: Any, data: Any, objective: str, form: str, layers: list[int], positions: str
) -> None:
    rows = [{"prompt": e.prompt, "response": e.response, "neutral": "No, not at all."} for e in data]
    settings = {"objective": objective, "form": form, "positions": positions, "config": CONFIG, "progress": False}
    run = lambda: steerlens.train_layers(bench.model, rows, layers=layers, **settings)  # noqa: E731 - called twice at once
    assert why_whole(bench.model, min(layers)) is None
    ours, right = both(bench.model, run)
    for layer in layers:
        a, b = ours[layer], right[layer]
        assert a.history["loss"].to_numpy() == pytest.approx(b.history["loss"].to_numpy(), rel=2e-5)
        torch.testing.assert_close(a.direction, b.direction, rtol=1e-3, atol=1e-4)
        assert a.factor == pytest.approx(b.factor, rel=1e-4)
    loss = lambda: steerlens.loss(bench.model, ours[layers[0]], rows, objective)  # noqa: E731 - called twice at once
    ours_loss, right_loss = both(bench.model, loss)
    assert ours_loss == pytest.approx(right_loss, rel=1e-5)


def test_bfloat16(tmp_path: Any, data: Any, make_vector: Any) -> None:
    model = boot(make_hf("gemma2").to(torch.bfloat16), "tiny-half", save_tokenizer(tmp_path))
    assert plain.why_hooked(model) is None and plain.difference(model) == 0 and why_whole(model, 1) is None
    ours, right = both(model, lambda: steerlens.generate(model, PROMPTS, make_vector(), temperature=0, max_new_tokens=8))
    assert ours == right
    ours, right = both(model, lambda: steerlens.loss(model, make_vector(), data))
    assert ours == pytest.approx(right, rel=1e-2)


def test_the_bridge_is_as_before(bench: Any, data: Any, make_vector: Any) -> None:
    state, tokens = State(bench.model), torch.tensor([[1, 9, 11, 12]])
    before = bench.model(tokens)
    steerlens.train(bench.model, data, layer=1, config=CONFIG, progress=False)
    steerlens.generate(bench.model, PROMPTS, make_vector(), max_new_tokens=3)

    def stop(_step: Any) -> None:
        assert "Bridge" in type(bench.model.original_model.get_submodule(name)).__name__
        raise KeyboardInterrupt

    name = next(n for n, m in bench.model.original_model.named_modules() if "Bridge" in type(m).__name__)
    with pytest.raises(KeyboardInterrupt):
        steerlens.train(bench.model, data, layer=1, config=CONFIG, progress=False, callbacks=[stop])
    state.check_same(bench.model)
    assert torch.equal(bench.model(tokens), before)


def test_rule_is_said(gemma: Any, make_vector: Any) -> None:
    model = gemma.model
    assert explain_speed(model).count("\n") == 1 and "to the last bit" in explain_speed(model)
    with steerlens.steer(model, make_vector()):
        assert "there is a hook at blocks.1" in explain_speed(model) and "plain" not in explain_speed(model)
    handle = model.blocks[0].attn.register_forward_hook(lambda *_: None)
    assert "PyTorch hook" in explain_speed(model)
    handle.remove()
    with pytest.raises(ValueError, match="layer 99"):
        explain_speed(model, layer=99)
    assert "plain" in explain_speed(model)


def test_a_difference_is_found(tmp_path: Any) -> None:
    """Somebody has put another forward in the place of a module's own, which the component above it does not call."""
    model = make_bench("llama", tmp_path).model
    assert plain.why_hooked(model) is None
    attention = model.blocks[2].attn.original_component
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: (forward(*args, **kwargs)[0] * 1.001, None)
    assert "differ from hooked ones" in str(plain.why_hooked(model))
    del attention.forward
    assert plain.why_hooked(model) is None


def test_changed_weights_count(tmp_path: Any, data: Any) -> None:
    model = make_bench("qwen2", tmp_path).model
    before = steerlens.loss(model, None, data)
    with torch.no_grad():
        model.original_model.get_output_embeddings().weight.mul_(0.5)
    ours, right = both(model, lambda: steerlens.loss(model, None, data))
    assert ours == pytest.approx(right, rel=1e-5) and ours != pytest.approx(before, rel=1e-2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_keeps_a_model_alive(architecture: str, tmp_path: Any) -> None:
    model = make_bench(architecture, tmp_path).model
    assert why_whole(model, 1) is None
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
