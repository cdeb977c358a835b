"""The methods of extraction: against algebra on hand-made activations, and on planted directions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from oracle import relative

import steerlens
from steerlens.extraction import difference, principal_component, probe
from steerlens.model.activations import Activations, collect

LAYER = 1


def made(positive: torch.Tensor, negative: torch.Tensor, paired: bool = True) -> Activations:
    """Activations of one layer, one token a text."""
    counts = [torch.ones(len(x), dtype=torch.long) for x in (positive, negative)]
    return Activations(positive[:, None], counts[0], negative[:, None], counts[1], (0,), "last", paired)


# --- the methods on hand-made activations ---------------------------------------------------------------------------


def random_activations(seed: int, n_positive: int, n_negative: int, width: int, paired: bool) -> Activations:
    source = torch.Generator().manual_seed(seed)
    positive = torch.randn(n_positive, width, generator=source) + torch.linspace(-1, 2, width)
    return made(positive, torch.randn(n_negative, width, generator=source) + 3, paired)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_paired", [True, False])
def test_principal_component_is_the_top_eigenvector_with_a_sign(seed, is_paired):
    found = random_activations(seed, 12, 12 if is_paired else 7, 9, is_paired)
    positive, negative = found.positive[:, 0].double(), found.negative[:, 0].double()
    differences = positive - (negative if is_paired else negative.mean(0))
    values, vectors = np.linalg.eigh((differences.T @ differences).numpy())
    component = principal_component(found, 0)
    assert abs(float(component @ torch.from_numpy(vectors[:, -1]))) == pytest.approx(1)
    assert float((differences @ component).square().sum()) == pytest.approx(values[-1])
    assert float(component @ found.mean_difference(0)) > 0
    swapped = made(found.negative[:, 0], found.positive[:, 0], is_paired)
    assert float(principal_component(swapped, 0) @ swapped.mean_difference(0)) > 0


def test_principal_component_is_not_centred():
    """Differences of 5 along one axis with a spread of 1 along another: centred, only the spread would be left."""
    spread = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]).repeat(3, 1)
    found = made(torch.tensor([5.0, 0.0, 0.0]) + spread, torch.zeros(6, 3))
    assert principal_component(found, 0).tolist() == pytest.approx([1, 0, 0], abs=1e-6)


@pytest.mark.parametrize(("n_positive", "n_negative", "width"), [(40, 40, 8), (12, 5, 30), (60, 25, 20)])
def test_probe_is_at_the_minimum_of_what_it_says(n_positive, n_negative, width):
    """The gradient of the documented loss, written out by autograd in the texts' own coordinates."""
    found = random_activations(0, n_positive, n_negative, width, False)
    direction = probe(found, 0)
    texts = torch.cat([found.positive, found.negative])[:, 0].double()
    labels = torch.tensor([1.0] * n_positive + [0.0] * n_negative).double()
    scale = texts.sub(texts.mean(0)).square().mean().sqrt()
    scores = texts @ direction / scale
    low, high = -1e3, 1e3  # the intercept by bisection: at the minimum, mean probability = share of positives
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((scores + middle).sigmoid().mean()) < n_positive / len(texts) else (low, middle)
    w = direction.clone().requires_grad_()
    log_loss = torch.nn.functional.softplus(-(2 * labels - 1) * (texts @ w / scale + low)).sum()
    (log_loss + w.square().sum() / 2).backward()
    assert w.grad is not None and float(w.grad.norm()) < 1e-6 * len(texts)
    assert float(direction.norm()) > 0.1


def test_probe_looks_past_a_correlated_nuisance():
    """The classes differ along e0 alone, while most of the spread is a nuisance that e1 carries and e0 shares.

    w is proportional to C^-1 mu there; the difference in means is mu.
    """
    source = torch.Generator().manual_seed(0)
    nuisance = torch.randn(2, 4000, 1, generator=source)
    noise = 0.3 * torch.randn(2, 4000, 3, generator=source)
    texts = noise + nuisance * torch.tensor([1.0, 1.0, 0.0])
    texts[0] += torch.tensor([0.5, 0.0, 0.0])
    found = made(texts[0], texts[1])
    covariance = 0.09 * torch.eye(3) + torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])
    best = torch.linalg.solve(covariance, torch.tensor([0.5, 0.0, 0.0])).double()
    direction = probe(found, 0)
    assert float(direction @ best / direction.norm() / best.norm()) > 0.998
    assert abs(float(difference(found, 0)[1])) < 0.1


@pytest.mark.parametrize("method", [difference, principal_component, probe])
def test_a_scale_and_a_shift_of_the_stream_leave_the_direction(method):
    found = random_activations(1, 20, 20, 10, True)
    moved = made(100 * found.positive[:, 0] + 7, 100 * found.negative[:, 0] + 7)
    a, b = method(found, 0), method(moved, 0)
    assert relative(a / a.norm(), b / b.norm()) < 1e-5


# --- planted truths -------------------------------------------------------------------------------------------------


def planted(seed: int, n_positive: int, n_negative: int, width: int, sigma: float, norm: float) -> tuple[Activations, Any]:
    source = torch.Generator().manual_seed(seed)
    mu = torch.randn(width, generator=source)
    mu = norm * mu / mu.norm()
    shared = 10 * torch.randn(width, generator=source)  # the mean that both classes have
    positive = sigma * torch.randn(n_positive, width, generator=source) + shared + mu
    return made(positive, sigma * torch.randn(n_negative, width, generator=source) + shared, False), mu.double()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_positive", "n_negative"), [(72, 72), (20, 200)])
def test_the_error_of_a_planted_difference_is_the_sampling_error(seed, n_positive, n_negative):
    width, sigma, norm = 256, 0.5, 4.0
    found, mu = planted(seed, n_positive, n_negative, width, sigma, norm)
    error = float((difference(found, 0) - mu).norm())
    expected = sigma * math.sqrt(width * (1 / n_positive + 1 / n_negative))
    assert expected / 1.2 < error < 1.2 * expected  # its own spread is 1 / sqrt(2 width) = 4 %
    cosine = float(torch.cosine_similarity(difference(found, 0), mu, dim=0))
    assert math.tan(math.acos(cosine)) == pytest.approx(expected / norm, rel=0.2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("method", "factor"), [(principal_component, 1.1), (probe, 2)])
def test_a_planted_direction_is_recovered(seed, method, factor):
    """In white noise the difference in means is the best estimate; a probe, which fits the spread too, is wider of it."""
    found, mu = planted(seed, 72, 72, 64, 0.5, 4.0)
    angles = [math.acos(float(torch.cosine_similarity(f(found, 0), mu, dim=0))) for f in (difference, method)]
    assert angles[1] < factor * angles[0]


def test_a_vector_planted_in_a_model_is_found(gemma, data, make_vector):
    """Positive and negative texts are the same; positives are read while the model is steered at every token."""
    sv = make_vector(layer=LAYER, positions="all")
    same = steerlens.SteeringData([{"prompt": e.prompt, "response": e.response, "neutral": e.response} for e in data])
    plain = collect(gemma.model, same, layers=[LAYER])
    with steerlens.steer(gemma.model, sv):
        steered = collect(gemma.model, same, layers=[LAYER])
    mixed = Activations(steered.positive, steered.positive_counts, plain.negative, plain.negative_counts, (LAYER,), "all", True)
    assert relative(difference(mixed, LAYER), sv.vector) < 1e-5
    assert float(torch.cosine_similarity(principal_component(mixed, LAYER), sv.vector.double(), dim=0)) > 0.9999


def test_a_planted_vector_is_found_in_a_steered_model_within_the_sampling_error(benches: Any, make_vector: Any) -> None:
    """Texts sampled from a steered model: half of them read with the vector on, the other half without.

    Both halves have the same distribution, so the difference in means is the vector, up to the sampling error that the
    spread of the text means foretells; on equal texts it is the vector exactly.
    """
    model = benches("llama").model
    truth = make_vector(5, factor=1.0, positions="all")
    prompts = [f"Say {a}{b}" for a in "abcdefghijkl" for b in "mnopqrstuv"]
    responses = steerlens.generate(model, prompts, truth, max_new_tokens=20, batch_size=60)
    examples = [steerlens.Example(p, r, r) for p, r in zip(prompts, responses, strict=True) if r.strip()]
    halves = [steerlens.SteeringData(examples[start::2], "planted") for start in (0, 1)]
    with steerlens.steer(model, truth):
        on = [collect(model, half, layers=[LAYER], tokens="response") for half in halves]
    off = [collect(model, half, layers=[LAYER], tokens="response") for half in halves]
    exact = on[0].class_means(LAYER)[0] - off[0].class_means(LAYER)[0]
    torch.testing.assert_close(exact.float(), truth.vector, atol=1e-4, rtol=1e-4)
    error = on[0].class_means(LAYER)[0] - off[1].class_means(LAYER)[0] - truth.vector.double()
    spreads = [float(part.at(LAYER)[0].var(0).sum()) / len(half) for part, half in zip((on[0], off[1]), halves, strict=True)]
    expected = math.sqrt(sum(spreads))
    assert 0.5 * expected < float(error.norm()) < 1.5 * expected
    found = on[0].class_means(LAYER)[0] - off[1].class_means(LAYER)[0]
    assert float(torch.nn.functional.cosine_similarity(found, truth.vector.double(), dim=0)) > 0.9
