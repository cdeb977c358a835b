"""ReFT forms and several layers through the one training loop, against naive passes and identities."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from conftest import PROMPTS, RESPONSES, rows_of
from oracle import edited_places
from torch import Tensor

import steerlens
from steerlens import SteeringVector, TrainConfig
from steerlens.interventions import orthonormal
from steerlens.model.frozen import frozen
from steerlens.training import scaling
from steerlens.training.loop import backward, train_together
from steerlens.training.settings import Settings
from steerlens.training.setup import prepare

CONFIG = TrainConfig(epochs=3, batch_size=3, factor_init=0.3, direction_init=4.0, factor_lr=0.3, direction_lr=0.05)
NEUTRALS = ("No idea.", "A town, I think", "Cats eat what they are given.", "Hello", "x and y")


def train(model: Any, data: Any, **settings: Any) -> Any:
    return steerlens.train(model, data, **({"layer": 1, "config": CONFIG, "progress": False} | settings))


def train_layers(model: Any, data: Any, layers: Any, **settings: Any) -> Any:
    return steerlens.train_layers(model, data, layers=layers, **({"config": CONFIG, "progress": False} | settings))


def runs_of(model: Any, data: Any, config: TrainConfig, layers: Any = (1,), **settings: Any) -> Any:
    return prepare(model, {"x": data}, layers, settings=Settings(config=config, seed=0, **settings))["x"]


def reft(h: Tensor, rows: Tensor, read: Tensor, bias: Tensor, form: str) -> Tensor:
    """The formula, a token at a time."""
    along = [u @ token for token in h for u in rows]
    inner = torch.stack([w @ token + b for token in h for w, b in zip(read, bias, strict=True)])
    if form == "loreft":
        inner = inner - torch.stack(along)
    return h + inner.view(len(h), len(rows)) @ rows


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
@pytest.mark.parametrize(("form", "rank"), [("loreft", 1), ("loreft", 3), ("direft", 2)])
def test_value_and_gradient_equal_naive_passes(benches: Any, data: Any, architecture: str, form: str, rank: int) -> None:
    bench = benches(architecture)
    run = runs_of(bench.model, data, replace(CONFIG, batch_size=5), form=form, rank=rank)
    (site,) = run.sites
    with torch.no_grad():  # away from the start, where nothing is read
        site.read += 0.3 * torch.randn(site.read.shape, generator=torch.Generator().manual_seed(1))
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (site.direction, site.read, site.bias)]
    with frozen(bench.model):
        (loss,) = backward(bench.model, [run], [run.examples])
    raw, read, bias = leaves
    gram_schmidt: list[Tensor] = []
    for row in raw:
        rest = row - sum(((row @ u) * u for u in gram_schmidt), torch.zeros(()))
        gram_schmidt.append(rest / rest.norm() if form == "loreft" else row)
    rows, size = torch.stack(gram_schmidt), site.scales
    total, n_tokens = torch.zeros(()), 0
    for prompt, response in rows_of(bench.model, data):
        places = edited_places("p2+s2", len(prompt), len(prompt) + len(response))
        edit = partial(reft, rows=rows, read=size[:, None] * read, bias=size * bias, form=form)
        with bench.oracle.hooked([(1, edit, places)]):
            total = total + bench.oracle.surprise((prompt, response))
        n_tokens += len(response)
    (total / n_tokens).backward()
    assert loss == pytest.approx(float(total.detach()) / n_tokens, rel=1e-5)
    for ours, theirs in zip((site.direction, site.read, site.bias), leaves, strict=True):
        assert float((ours.grad - theirs.grad).norm() / theirs.grad.norm()) < 1e-5
        assert float(theirs.grad.norm()) > 0


@pytest.mark.parametrize(("reft_form", "plain_form"), [("loreft", "clamp"), ("direft", "add")])
@pytest.mark.parametrize("positions", ["p2+s2", "all"])
def test_rank_one_reft_starts_as_the_steering_vector(
    model: Any, data: Any, reft_form: str, plain_form: str, positions: str
) -> None:
    settings = {"config": TrainConfig(epochs=1, batch_size=5, shuffle=False), "positions": positions}
    a, b = (train(model, data, form=form, **settings) for form in (reft_form, plain_form))
    for column in ("loss", "direction_norm") if plain_form == "add" else ("loss",):
        assert a.history[column][0] == pytest.approx(b.history[column][0], rel=1e-4 if column == "loss" else 0.2)


@pytest.mark.parametrize(("form", "rank"), [("loreft", 1), ("loreft", 4), ("direft", 1), ("direft", 3)])
def test_reft_trains_saves_loads_and_steers(model: Any, data: Any, tmp_path: Any, form: str, rank: int) -> None:
    sv = train(model, data, form=form, rank=rank, config=TrainConfig(epochs=10, batch_size=5, factor_init=0.3, factor_lr=0.3))
    assert (sv.rank, sv.factor, sv.direction.shape) == (rank, 1.0, (rank, sv.d_model))
    if form == "loreft":
        torch.testing.assert_close(sv.direction @ sv.direction.T, torch.eye(rank), atol=1e-5, rtol=0)
    assert float(sv.read.abs().max()) > 0
    assert steerlens.loss(model, sv, data) < steerlens.loss(model, None, data)
    again = SteeringVector.load(sv.save(tmp_path / "reft.safetensors"))
    assert again == sv and hash(again) == hash(sv)
    texts = steerlens.generate(model, list(PROMPTS), sv, temperature=0, max_new_tokens=6)
    assert texts == steerlens.generate(model, list(PROMPTS), again, temperature=0, max_new_tokens=6)
    alone = [steerlens.generate(model, p, sv, temperature=0, max_new_tokens=6)[0] for p in PROMPTS]
    assert texts == alone
    plain = steerlens.generate(model, list(PROMPTS), temperature=0, max_new_tokens=6)
    assert texts != plain
    assert steerlens.generate(model, list(PROMPTS), sv.scaled(0), temperature=0, max_new_tokens=6) == plain
    assert len(steerlens.audit(model, PROMPTS[0], sv, max_new_tokens=2).edits) == 4
    judge = steerlens.ScriptedJudge(lambda *_: steerlens.Scores(1, 1, 1))
    assert steerlens.evaluate(model, sv, "fish", list(PROMPTS), judge, max_new_tokens=3).overall == 1.0


def test_forms_mix_in_one_batch(model: Any, data: Any, make_vector: Callable[..., Any]) -> None:
    low, high = (train(model, data, form="loreft", rank=rank) for rank in (1, 3))
    listed = [low, None, make_vector(), high, make_vector(form="clamp")]
    together = steerlens.generate(model, list(PROMPTS), steerlens.PerPrompt(listed), temperature=0, max_new_tokens=6)
    pairs = zip(PROMPTS, listed, strict=True)
    assert together == [steerlens.generate(model, p, sv, temperature=0, max_new_tokens=6)[0] for p, sv in pairs]


def test_reft_vectors_are_checked() -> None:
    rows, read, bias = torch.eye(2, 6), torch.ones(2, 6), torch.ones(2)
    made = SteeringVector(rows, 1.0, 0, form="loreft", read=read, bias=bias)
    assert torch.equal(made.vector, torch.tensor([1.0, 1, 0, 0, 0, 0]))
    assert made.scaled(2.0).norm == pytest.approx(2 * 2**0.5)
    assert made != SteeringVector(rows, 1.0, 0, form="loreft", read=2 * read, bias=bias)
    base: dict[str, Any] = {"direction": rows, "factor": 1.0, "layer": 0, "form": "loreft", "read": read, "bias": bias}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"read": None}, "needs read"),
        ({"direction": 2 * rows}, "must be orthonormal"),
        ({"bias": torch.tensor([1.0, torch.nan])}, "the bias holds NaN"),
        ({"form": "add"}, "must be one row of d_model numbers"),
        ({"form": "add", "direction": torch.ones(6)}, "read and bias belong to direft and loreft"),
    ]
    for fields, words in cases:
        with pytest.raises(ValueError, match=words):
            SteeringVector(**(base | fields))
    with pytest.raises(ValueError, match="vectors of form 'loreft' have no sum"):
        _ = made + made


def test_layers_are_trained_together(benches: Any, data: Any) -> None:
    """One loss, a gradient at each layer, equal to a naive pass with both hooks on."""
    bench = benches("llama")
    run = runs_of(bench.model, data, replace(CONFIG, batch_size=5), layers=[0, 2])
    with frozen(bench.model):
        (loss,) = backward(bench.model, [run], [run.examples])
    leaves = [(s.direction.detach().clone().requires_grad_(), s.factor.detach().clone().requires_grad_()) for s in run.sites]
    total, n_tokens = torch.zeros(()), 0
    for prompt, response in rows_of(bench.model, data):
        places = edited_places("p2+s2", len(prompt), len(prompt) + len(response))
        edits = [(at, lambda h, v=v, a=a: h + a * v, places) for at, (v, a) in zip((0, 2), leaves, strict=True)]
        with bench.oracle.hooked(edits):
            total = total + bench.oracle.surprise((prompt, response))
        n_tokens += len(response)
    (total / n_tokens).backward()
    assert loss == pytest.approx(float(total.detach()) / n_tokens, rel=1e-5)
    for site, (v, alpha) in zip(run.sites, leaves, strict=True):
        assert v.grad is not None and alpha.grad is not None
        assert float((site.direction.grad - v.grad).norm() / v.grad.norm()) < 1e-5
        assert float(site.factor.grad) == pytest.approx(float(alpha.grad), rel=1e-4)


def test_layers_give_a_vector_each(model: Any, data: Any) -> None:
    config = TrainConfig(epochs=20, batch_size=5, factor_init=0.3, factor_lr=0.3)
    trained = train_layers(model, data, [2, 0], config=config)
    assert list(trained) == [2, 0]
    pair = list(trained.values())
    assert [sv.layer for sv in pair] == [2, 0]
    assert [sv.provenance["hook_point"] for sv in pair] == ["blocks.2.hook_resid_post", "blocks.0.hook_resid_post"]
    assert torch.equal(torch.tensor(pair[0].history["loss"]), torch.tensor(pair[1].history["loss"]))
    assert steerlens.loss(model, pair, data) < steerlens.loss(model, None, data)
    assert steerlens.generate(model, PROMPTS[0], pair, temperature=0) != steerlens.generate(model, PROMPTS[0], temperature=0)
    only, alone = train_layers(model, data, [1]), train(model, data, layer=1)
    assert only == {1: alone} and only[1].history.equals(alone.history)


def test_training_at_layers_goes_on_from_what_it_gave(model: Any, data: Any) -> None:
    """A list in the order of the layers and a mapping from them mean the same."""
    first = train_layers(model, data, [2, 0], seed=3)
    by_layer, listed = (train_layers(model, data, [2, 0], init=init) for init in (first, list(first.values())))
    for layer, sv in by_layer.items():
        assert torch.equal(sv.direction, listed[layer].direction) and sv.factor == listed[layer].factor
        assert not torch.equal(sv.direction, train_layers(model, data, [2, 0])[layer].direction)
    with pytest.raises(ValueError, match=r"init has vectors for the layers \[2, 0\], and none for \[1\]"):
        train_layers(model, data, [2, 1], init=first)


def test_many_data_sets_at_many_layers_are_as_alone(model: Any, data: Any) -> None:
    other = steerlens.SteeringData([{"prompt": p, "response": r[::-1]} for p, r in zip(PROMPTS, RESPONSES, strict=True)])
    for layers, form in (([0, 2], {}), ([1], {"form": "loreft", "rank": 2})):
        full: dict[str, Any] = {"config": CONFIG, "progress": False} | form
        together = train_together(model, {"a": data, "b": other}, layers, None, full)  # pyright: ignore[reportArgumentType]
        for name, rows in (("a", data), ("b", other)):
            alone = steerlens.train_layers(model, rows, layers=layers, **full)
            for many, single in zip(together[name], alone.values(), strict=True):
                torch.testing.assert_close(many.vector, single.vector, atol=1e-4, rtol=1e-3)


def test_a_second_factor_for_suppression_is_trained(model: Any) -> None:
    rows = zip(PROMPTS, RESPONSES, NEUTRALS, strict=True)
    paired = steerlens.SteeringData([{"prompt": p, "response": r, "neutral": n} for p, r, n in rows], concept="fish")
    config = TrainConfig(epochs=6, batch_size=5, factor_init=0.3, factor_lr=0.3, null_factor_init=2.0, null_factor_lr=0.05)
    sv = train(model, paired, objective="reps", config=config)
    trained = sv.provenance["null_factor"]
    assert trained != 2.0 and sv.history["null_factor"].iloc[-1] == pytest.approx(trained)
    assert sv.history["null_factor"].iloc[0] == pytest.approx(2.0, abs=0.051)  # Adam's first step is the learning rate
    fixed = train(model, paired, objective="reps", config=TrainConfig(epochs=6, batch_size=5, factor_init=0.3, factor_lr=0.3))
    assert "null_factor" not in fixed.provenance and "null_factor" not in fixed.history
    as_trained = steerlens.loss(model, sv, paired, "reps")
    assert as_trained != steerlens.loss(model, sv.replace(provenance={}), paired, "reps")
    with pytest.raises(ValueError, match="'lang' has no Null intervention"):
        train(model, paired, objective="lang", config=config)


def test_what_does_not_go_together_is_refused(model: Any, data: Any, make_vector: Callable[..., Any]) -> None:
    rows = zip(PROMPTS, RESPONSES, NEUTRALS, strict=True)
    paired = steerlens.SteeringData([{"prompt": p, "response": r, "neutral": n} for p, r, n in rows])
    for settings, words in (
        ({"rank": 2}, "a steering vector of form 'add' has rank 1; direft and loreft have others"),
        ({"form": "loreft", "rank": 0}, "rank 0: it must be a whole number"),
        ({"form": "loreft", "rank": 49}, "rank 49: the residual stream has 48 dimensions"),
        ({"form": "null", "objective": "reps"}, "is itself the Null intervention"),
        ({"form": "loreft", "init": make_vector()}, "init has form 'add' and rank 1; form 'loreft' of rank 1"),
        ({"form": "loreft", "objective": "reps"}, "has no Null intervention"),
    ):
        with pytest.raises(ValueError, match=words):
            train(model, paired, **settings)
    for layers, settings, words in (
        ([], {}, "must be at least one, each once"),
        ([1, 1], {}, "must be at least one, each once"),
        ([0, 9], {}, "layer 9 does not exist"),
        ([0, 1], {"init": make_vector()}, "init has 1 vectors for 2 layers"),
    ):
        with pytest.raises(ValueError, match=words):
            train_layers(model, paired, layers, **settings)
    trained = train(model, paired, form="loreft")
    with pytest.raises(ValueError, match="no Null intervention"):
        steerlens.loss(model, trained, paired, "reps")


def test_training_goes_on_from_a_reft(model: Any, data: Any) -> None:
    first = train(model, data, form="loreft", rank=2)
    still = TrainConfig(epochs=1, batch_size=5, factor_lr=0.0, direction_lr=0.0)
    again = train(model, data, form="loreft", rank=2, init=first, config=still)
    torch.testing.assert_close(again.direction, first.direction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.vector, first.vector, atol=1e-4, rtol=1e-4)
    assert again.history["loss"][0] == pytest.approx(steerlens.loss(model, first, data), rel=1e-5)


def test_orthonormal_is_differentiable_and_matches_gram_schmidt() -> None:
    given = torch.randn(3, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
    made = orthonormal(given)
    first = given[0] / given[0].norm()
    second = given[1] - (given[1] @ first) * first
    torch.testing.assert_close(made[:2], torch.stack([first, second / second.norm()]))
    made.sum().backward()
    assert given.grad is not None and bool(given.grad.isfinite().all())


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("form", ["loreft", "direft"])
def test_a_reft_starts_as_large_as_a_vector_and_reads_as_it_writes(model: Any, data: Any, form: str, rank: int) -> None:
    run = runs_of(model, data, CONFIG, form=form, rank=rank)
    (site,) = run.sites
    size = scaling.initial_factor(CONFIG, site.direction.shape[-1]) * CONFIG.direction_init / 3**0.5
    assert float((site.moment().scales @ site.moment().directions).norm()) == pytest.approx(size, rel=0.35)
    assert not site.read.any()
    rates = {id(parameter): rate for parameter, rate in site.trained()}
    assert rates[id(site.read)] == CONFIG.factor_lr / site.direction.shape[-1]
    assert (rates[id(site.bias)], rates[id(site.direction)]) == (CONFIG.factor_lr, CONFIG.direction_lr)
    sv = train(model, data, form=form, rank=rank, config=replace(CONFIG, epochs=1, batch_size=5))
    scale = (site.direction.norm(dim=-1) if form == "loreft" else torch.ones(rank)) / rank**0.5
    moved = (sv.read.abs().max(dim=-1).values / scale).tolist()  # Adam's first step is the learning rate
    assert max(moved) <= CONFIG.factor_lr / sv.d_model * 8 and max(moved) > 0
    assert set(sv.history["factor_lr"]) == {CONFIG.factor_lr}


def test_layers_start_apart(model: Any, data: Any) -> None:
    first, second, third = (site.direction.detach() for site in runs_of(model, data, CONFIG, layers=[0, 1, 2]).sites)
    for a, b in ((first, second), (second, third), (first, third)):
        assert abs(float(torch.nn.functional.cosine_similarity(a, b, dim=0))) < 0.6
    assert torch.equal(first, runs_of(model, data, CONFIG, layers=[0]).sites[0].direction)


def test_null_is_trained_as_a_strength(model: Any, data: Any) -> None:
    sv = train(model, data, form="null", config=replace(CONFIG, epochs=1, batch_size=5, null_factor_lr=0.01))
    assert sv.history["factor"][0] == pytest.approx(1.0, abs=0.0101) and sv.history["factor"][0] != 1.0
    higher = train(model, data, form="null", config=replace(CONFIG, epochs=1, batch_size=5, null_factor_init=2.0))
    assert higher.factor == pytest.approx(2.0, abs=0.101) and "null_factor" not in higher.provenance


def test_going_on_keeps_pace(model: Any, data: Any) -> None:
    """A continued LoReFT moves about as far in a step as a fresh one."""
    one = replace(CONFIG, epochs=1, batch_size=5)
    first = train(model, data, form="loreft", rank=2, config=one, seed=0)
    start = runs_of(model, data, one, form="loreft", rank=2).sites[0].moment()
    second = train(model, data, form="loreft", rank=2, config=one, init=first)
    fresh = float((first.vector - start.scales @ start.directions).norm())
    assert float((second.vector - first.vector).norm()) == pytest.approx(fresh, rel=0.6)


def test_callbacks_see_the_direction_itself(model: Any, data: Any) -> None:
    steps: list[Any] = []
    sv = train(model, data, form="loreft", rank=2, callbacks=[steps.append])
    torch.testing.assert_close(steps[-1].direction, sv.direction)
    plain = train(model, data, callbacks=[steps.append])
    torch.testing.assert_close(steps[-1].direction, plain.direction)


def test_equality_looks_at_what_acts() -> None:
    d = torch.tensor([1.0, 2.0, 0.0])
    assert SteeringVector(d, 2.0, 0) == SteeringVector(2 * d, 1.0, 0)
    assert SteeringVector(d, 2.0, 0, form="null") != SteeringVector(2 * d, 1.0, 0, form="null")
    assert SteeringVector(d, 0.0, 0, form="clamp") != SteeringVector(d.flip(0), 0.0, 0, form="clamp")
    same = SteeringVector(d, 0.5, 0, form="clamp"), SteeringVector(d, 0.5, 0, form="clamp")
    assert same[0] == same[1] and hash(same[0]) == hash(same[1])
