"""Directions without optimisation: a difference in means, a principal component, a probe, or a row that is given.

These are the baselines of Bao et al. 2026 (Sec. 4) and AxBench (Wu et al. 2025). The residual stream of the texts with the
concept and of those without is collected once, after any number of blocks; a method then turns it into a unit direction.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypedDict, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .arguments import is_whole
from .data import SteeringData, as_data
from .keywords import keywords_of, with_keywords
from .model.activations import Activations, collect
from .model.bridge import Bridge, check_layer, check_model, hook_name
from .model.identity import identity
from .positions import PositionFunction, canonical_positions
from .steering.hooks import check_fits
from .vector import SteeringVector

SAME = 1e-9
"""Class means that differ by less than this share of their norm are the same up to rounding of float64 sums."""


# --- methods --------------------------------------------------------------------------------------------------------


def difference(activations: Activations, layer: int) -> Float[Tensor, " d_model"]:
    """The difference in means over tokens (DiffMean: Marks and Tegmark 2023; Wu et al. 2025; CAA: Rimsky et al. 2024)."""
    return activations.mean_difference(layer)


def principal_component(activations: Activations, layer: int) -> Float[Tensor, " d_model"]:
    """The first principal component of positive minus negative text means (RepE: Zou et al. 2023), not centred.

    It is the top eigenvector of the differences' second-moment matrix, which is what pairs in random order come to in RepE.
    Texts that are not paired are compared with the mean of the negatives. A component has no sign of its own: it gets that
    of its product with the difference in means.
    """
    positive, negative = activations.at(layer)
    differences = positive - (negative if activations.paired else negative.mean(0))
    component = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    return component if component @ activations.mean_difference(layer) >= 0 else -component


def probe(activations: Activations, layer: int) -> Float[Tensor, " d_model"]:
    """The weight vector of a logistic regression that tells positive from negative text means.

    It minimises the summed log-loss plus |w|^2 / 2, with a free intercept: scikit-learn's `LogisticRegression` at its default
    C = 1. Texts are centred and divided by one number, the root mean square of their coordinates; a scale for each
    coordinate would turn the weight vector out of the residual stream's coordinates.
    """
    positive, negative = activations.at(layer)
    texts = torch.cat([positive, negative])
    texts = texts - texts.mean(0)
    inputs = F.pad(texts / texts.square().mean().sqrt(), (0, 1), value=1.0)  # the intercept's input stands last
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).double()
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64)
    shrunk = torch.ones_like(weights)
    shrunk[-1] = 0
    solver = torch.optim.LBFGS([weights], max_iter=1000, tolerance_grad=1e-8, tolerance_change=0, line_search_fn="strong_wolfe")

    def loss() -> float:
        scores = inputs @ weights
        weights.grad = inputs.T @ (scores.sigmoid() - labels) + shrunk * weights  # by hand: no autograd to be switched off
        penalty = (shrunk * weights.square()).sum() / 2
        return float(F.binary_cross_entropy_with_logits(scores, labels, reduction="sum") + penalty)

    solver.step(loss)
    return weights[:-1]


METHODS: dict[str, Callable[[Activations, int], Tensor]] = {
    "difference": difference,
    "pca": principal_component,
    "probe": probe,
}


# --- vectors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How to extract; `extract` explains each."""

    method: str = "difference"
    tokens: str = "all"
    positions: str | PositionFunction = "all"
    factor: int | float | None = None
    batch_size: int = 16


class ExtractSettings(TypedDict, total=False):
    """The keywords of `extract` beside the layer, for type checkers (see `steerlens.training.settings`)."""

    method: str
    tokens: str
    positions: str | PositionFunction
    factor: int | float | None
    batch_size: int


@with_keywords(keywords_of(Choices), several="extract_layers")
def extract(model: Bridge, data: Any, *, layer: int, **settings: Unpack[ExtractSettings]) -> SteeringVector:
    """A steering vector from the activations of texts with the concept and of texts without it; nothing is trained.

    Args:
        model: a TransformerBridge; it is left as it came.
        data: `SteeringData`, or anything it can be built from. Responses are compared with the neutral responses to the same
            prompts; if no row has one, with `data.negatives`.
        layer: 0-based block whose output is read and edited; for several see `extract_layers`.
        method: "difference" (in means), "pca" (first principal component of the differences) or "probe" (logistic
            regression); see `difference`, `principal_component` and `probe`.
        tokens: those that are read: "all" of prompt and response but those that every prompt begins with (AxBench's definition;
            see `prefix_length`), "response", or "last". Class means weigh tokens equally, as AxBench's do.
        positions: those that the vector edits.
        factor: of the unit direction. None takes the projection of the difference of the class means on it, so that
            `vector` of the method "difference" is the raw difference (CAA's vector at multiplier 1).
        batch_size: texts per forward pass; the result does not depend on it.

    Returns:
        The vector with a unit direction.

    Raises:
        ValueError, DataError: settings or data that cannot be used, before any work starts (see `collect`); class means that
            are equal or not finite; a direction without a default factor.
        TypeError: an unknown keyword, or a list as `layer`.
    """
    (vector,) = _extracted(model, data, [layer], Choices(**settings)).values()
    return vector


@with_keywords(keywords_of(Choices))
def extract_layers(
    model: Bridge, data: Any, *, layers: Sequence[int], **settings: Unpack[ExtractSettings]
) -> dict[int, SteeringVector]:
    """A steering vector at each of several layers, at the cost of one: layer -> vector, in the order of `layers`.

    All other arguments and the errors are those of `extract`.
    """
    return _extracted(model, data, layers, Choices(**settings))


def _extracted(model: Bridge, data: Any, layers: Sequence[int], choices: Choices) -> dict[int, SteeringVector]:
    if choices.method not in METHODS:
        raise ValueError(f"method {choices.method!r} is unknown; use {', '.join(METHODS)}")
    if choices.factor is not None and not math.isfinite(choices.factor):
        raise ValueError(f"the factor is {choices.factor!r}; it must be finite")
    positions = canonical_positions(choices.positions)
    data = as_data(data)
    activations = collect(model, data, layers=layers, tokens=choices.tokens, batch_size=choices.batch_size)
    source = {
        "method": choices.method,
        "tokens": choices.tokens,
        "n_positive": len(activations.positive),
        "n_negative": len(activations.negative),
        "negatives": "neutral responses" if activations.paired else "shared",
        "negatives_hash": None if activations.paired else SteeringData(data.negatives).hash,
        "data_hash": data.hash,
        "factor_source": "given" if choices.factor is not None else "difference of class means along the direction",
        "made_by": "steerlens.extract",
    }
    vectors = {}
    for layer in activations.layers:
        direction, projection = _direction(activations, layer, choices.method, choices.factor is None)
        factor = projection if choices.factor is None else choices.factor
        vectors[layer] = _vector(model, direction, layer, factor, positions, data.concept, source)
    return vectors


def from_direction(
    model: Bridge,
    direction: Float[Tensor, " d_model"],
    *,
    layer: int,
    factor: int | float,
    positions: str | PositionFunction = "all",
    concept: str | None = None,
    source: str | None = None,
) -> SteeringVector:
    """A steering vector of a direction found elsewhere, such as `sae_direction(sae, feature)`, made a unit vector.

    Args:
        model: the TransformerBridge it belongs to.
        direction: of any length but zero.
        layer: 0-based block whose output is edited.
        factor: of the unit direction.
        positions: the tokens that are edited.
        concept: what it stands for, in words.
        source: where it is from, kept in the provenance.

    Raises:
        ValueError: a direction that is zero, not finite or of another width; a layer that does not exist; what
            `SteeringVector` refuses.
    """
    check_model(model)
    check_layer(model, layer)
    known = {
        "method": "given direction",
        "source": source,
        "factor_source": "given",
        "made_by": "steerlens.from_direction",
    }
    vector = _vector(model, _unit(direction, "the direction"), layer, factor, positions, concept, known)
    check_fits(model, vector)
    return vector


def sae_direction(sae: Any, feature: SupportsIndex) -> Float[Tensor, " d_model"]:
    """What a feature of a sparse autoencoder writes: its decoder row, made a unit vector.

    Args:
        sae: any object with a decoder `W_dec` of shape (n_features, d_model), such as SAELens's.
        feature: the row, counted from 0.

    Raises:
        TypeError: there is no such decoder.
        ValueError: the feature does not exist, or its row is zero or not finite.
    """
    decoder = getattr(sae, "W_dec", None)
    if not isinstance(decoder, Tensor) or decoder.ndim != 2:
        found = "none" if decoder is None else f"{type(decoder).__name__} {tuple(getattr(decoder, 'shape', ()))}"
        raise TypeError(f"{type(sae).__name__} has no decoder W_dec of shape (n_features, d_model): found {found}")
    if not is_whole(feature) or not 0 <= operator.index(feature) < len(decoder):
        raise ValueError(f"feature {feature!r} does not exist: the decoder has rows 0 to {len(decoder) - 1}")
    return _unit(decoder[operator.index(feature)], f"the decoder row of feature {operator.index(feature)}")


def _direction(activations: Activations, layer: int, method: str, sized: bool) -> tuple[Tensor, float]:
    """A unit direction, and the projection of the difference of the class means on it; `sized` if it is to be the factor."""
    positive, negative = activations.class_means(layer)
    change = positive - negative
    if not change.isfinite().all():
        raise ValueError(f"the activations after layer {layer} are not finite; load the model in bfloat16 or float32")
    if change.norm() <= SAME * positive.norm():
        raise ValueError(f"positives and negatives have the same mean activations after layer {layer}: are the texts the same?")
    direction = _unit(METHODS[method](activations, layer), f"the direction of method {method!r} at layer {layer}")
    projection = float(change @ direction.double())
    if sized and projection <= 0:
        raise ValueError(
            f"layer {layer}: the class means differ by {projection:.4g} along the direction of method {method!r}, which gives "
            "no factor; pass factor=..."
        )
    return direction, projection


def _unit(direction: Tensor, name: str) -> Float[Tensor, " d_model"]:
    try:
        values = torch.as_tensor(direction).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:  # each for other values that are no numbers
        raise TypeError(f"{name} is {direction!r:.60}; it must be one row of d_model numbers") from error
    if values.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(values.shape)}; it must be one row of d_model numbers")
    norm = float(values.norm())
    if not math.isfinite(norm) or norm == 0:
        raise ValueError(f"{name} has norm {norm}; no unit vector points along it")
    return (values / norm).float()


def _vector(
    model: Bridge,
    direction: Float[Tensor, " d_model"],
    layer: int,
    factor: int | float,
    positions: str | PositionFunction,
    concept: str | None,
    source: dict[str, Any],
) -> SteeringVector:
    """The vector with its provenance."""
    known = identity(model)
    acts_at = {
        "layer": int(layer),
        "hook_point": hook_name(layer),
        "positions": canonical_positions(positions) if isinstance(positions, str) else "function",
    }
    return SteeringVector(
        direction,
        factor,
        layer,
        positions,
        concept=concept,
        model_name=known["model_name"],
        provenance=known | acts_at | source,
    )
