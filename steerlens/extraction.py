"""Directions without optimisation: a difference in means, a principal component, a probe, or a row that is given.

These are the baselines of Bao et al. 2026 (Sec. 4) and AxBench (Wu et al. 2025). The residual stream of the texts with the
concept and of those without is collected once, after any number of blocks; a method then turns it into a unit direction.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex, overload

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .data import DataError, SteeringData, as_data
from .likelihood import Batch, EncodedExample, collate, encode_data
from .model import Bridge, HookFunction, Padded, check_layer, check_model, encode_prompt, forward, frozen, hook_name, identity
from .passes import announced
from .positions import PositionFunction, canonical_positions
from .steering import check_fits
from .vector import SteeringVector

TOKENS = ("all", "response", "last")
"""Tokens that are looked at: prompt and response without the template's beginning; the response; the text's last token."""
SAME = 1e-9
"""Class means that differ by less than this share of their norm are the same up to rounding of float64 sums."""


@dataclass(frozen=True, eq=False)
class Activations:
    """The residual stream of texts with and without a concept, averaged over each text's tokens. On the CPU."""

    positive: Float[Tensor, "text layer d_model"]
    positive_counts: Int[Tensor, " text"]
    """Tokens that each mean is over."""
    negative: Float[Tensor, "negative layer d_model"]
    negative_counts: Int[Tensor, " negative"]
    layers: tuple[int, ...]
    """The block after which each entry of the layer axis was read."""
    tokens: str
    paired: bool
    """Whether negative text i is a neutral response to the prompt of positive text i."""

    def at(self, layer: int) -> tuple[Float[Tensor, "text d_model"], Float[Tensor, "negative d_model"]]:
        """Text means of the positives and of the negatives after one block, float64.

        Raises:
            ValueError: the layer was not collected.
        """
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r} was not collected; there are {', '.join(map(str, self.layers))}")
        index = self.layers.index(layer)
        return self.positive[:, index].double(), self.negative[:, index].double()

    def class_means(self, layer: int) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
        """Mean over all tokens of all positives, and of all negatives, float64."""
        positive, negative = self.at(layer)
        return _token_mean(positive, self.positive_counts), _token_mean(negative, self.negative_counts)

    def mean_difference(self, layer: int) -> Float[Tensor, " d_model"]:
        """Mean over all positive tokens minus mean over all negative tokens, float64."""
        positive, negative = self.class_means(layer)
        return positive - negative


def _token_mean(means: Float[Tensor, "text d_model"], counts: Int[Tensor, " text"]) -> Float[Tensor, " d_model"]:
    return counts.double() @ means / counts.sum()


# --- collecting -----------------------------------------------------------------------------------------------------


def collect(model: Bridge, data: Any, *, layers: Sequence[int], tokens: str = "all", batch_size: int = 16) -> Activations:
    """Read the residual stream after blocks, each text passing once through the model whatever the number of layers.

    Positives are the prompts with their responses. Negatives are the same prompts with their neutral responses; if no row
    has one, `data.negatives`. Inside a `steer` block the steered residual stream is read.

    Args:
        model: a TransformerBridge; it is left as it came.
        data: `SteeringData`, or anything it can be built from.
        layers: 0-based blocks whose output is read.
        tokens: "all" (prompt and response without the tokens that every prompt begins with, see `prefix_length`), "response",
            or "last" (of the text).
        batch_size: texts per forward pass; the result does not depend on it.

    Raises:
        ValueError: no layers, a layer that does not exist, unknown tokens, or a batch size below 1.
        DataError: nothing to compare with, a row without neutral response while others have one, or a row that is too
            long for the model; the message names it.
    """
    check_model(model)
    for layer in layers:
        check_layer(model, layer)
    if not layers:
        raise ValueError("layers is empty: name at least one block")
    if tokens not in TOKENS:
        raise ValueError(f"tokens {tokens!r} are unknown; use {', '.join(TOKENS)}")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    places = tuple(dict.fromkeys(map(operator.index, layers)))
    positive, negative, paired = _texts(model, as_data(data))
    # each text once, by length: equal texts get equal numbers, whatever stands beside them in the data
    unique = sorted({*positive, *negative}, key=lambda text: (text.length, text.prompt, text.response))
    with frozen(model), torch.no_grad():
        parts = [_read(model, unique[i : i + batch_size], places, tokens) for i in range(0, len(unique), batch_size)]
    means, counts = torch.cat([part.means for part in parts]), torch.cat([part.counts for part in parts])
    row = {text: index for index, text in enumerate(unique)}
    ours, theirs = [row[text] for text in positive], [row[text] for text in negative]
    return Activations(means[ours], counts[ours], means[theirs], counts[theirs], places, tokens, paired)


class _Texts(NamedTuple):
    positive: list[EncodedExample]
    negative: list[EncodedExample]
    paired: bool


def _texts(model: Bridge, data: SteeringData) -> _Texts:
    """Prompts with responses, and what they are compared with."""
    with_neutral = [example.neutral is not None for example in data]
    if any(with_neutral):
        if not all(with_neutral):
            raise DataError(
                f"row {with_neutral.index(False)} has no neutral response while others have one: give every row one, or "
                "leave them all out and give SteeringData(..., negatives=...)"
            )
        rows = encode_data(model, data, neutral=True)
        neutral = [EncodedExample(row.prompt, row.neutral) for row in rows if row.neutral is not None]
        return _Texts([EncodedExample(row.prompt, row.response) for row in rows], neutral, True)
    if not data.negatives:
        raise DataError(
            "there is nothing to compare the responses with: give every row a neutral response, or texts without the "
            "concept as SteeringData(..., negatives=...)"
        )
    try:
        negatives = encode_data(model, SteeringData(data.negatives))
    except DataError as error:
        raise DataError(f"in the negatives, {error}") from error
    return _Texts(encode_data(model, data), negatives, False)


class _Part(NamedTuple):
    means: Float[Tensor, "text layer d_model"]
    counts: Int[Tensor, " text"]


def _read(model: Bridge, texts: Sequence[EncodedExample], layers: Sequence[int], tokens: str) -> _Part:
    """One forward pass: each text's mean over its chosen tokens, after each block."""
    batch = collate(model, texts)
    mask = _chosen(model, batch, tokens)
    sums: dict[int, Tensor] = {}

    def reader(layer: int) -> HookFunction:
        def read(hidden: Tensor, hook: Any) -> None:
            kept = hidden.masked_fill(~mask.to(hidden.device)[..., None], 0)
            sums[layer] = kept.sum(1, dtype=torch.float32).cpu()

        return read

    with announced(model, batch.prompt_mask.sum(-1)):  # to a steer block around it
        padded = Padded(batch.tokens, batch.token_mask.long())
        forward(model, padded, [(hook_name(layer), reader(layer)) for layer in layers], keep=1)
    counts = mask.sum(-1).cpu()
    return _Part(torch.stack([sums[layer] for layer in layers], 1) / counts[:, None, None], counts)


def _chosen(model: Bridge, batch: Batch, tokens: str) -> Bool[Tensor, "batch pos"]:
    if tokens == "response":
        return batch.response_mask
    places = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    if tokens == "last":
        return places == batch.token_mask.sum(-1, keepdim=True) - 1
    return batch.token_mask & (places >= prefix_length(model))


def prefix_length(model: Bridge) -> int:
    """Tokens that every templated prompt begins with (AxBench's prefix_length), at least the first one.

    The first token, BOS or not, takes in attention that has nowhere to go, and its residual stream is far larger than any
    other: it would decide a mean.
    """
    one, two = encode_prompt(model, "1"), encode_prompt(model, "2")
    shared = next((place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0)
    return max(1, shared)


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


@overload
def extract(
    model: Bridge,
    data: Any,
    *,
    layer: int,
    method: str = "difference",
    tokens: str = "all",
    positions: str | PositionFunction = "all",
    factor: int | float | None = None,
    batch_size: int = 16,
) -> SteeringVector: ...
@overload
def extract(
    model: Bridge,
    data: Any,
    *,
    layer: Sequence[int],
    method: str = "difference",
    tokens: str = "all",
    positions: str | PositionFunction = "all",
    factor: int | float | None = None,
    batch_size: int = 16,
) -> dict[int, SteeringVector]: ...
def extract(
    model: Bridge,
    data: Any,
    *,
    layer: int | Sequence[int],
    method: str = "difference",
    tokens: str = "all",
    positions: str | PositionFunction = "all",
    factor: int | float | None = None,
    batch_size: int = 16,
) -> SteeringVector | dict[int, SteeringVector]:
    """A steering vector from the activations of texts with the concept and of texts without it; nothing is trained.

    Args:
        model: a TransformerBridge; it is left as it came.
        data: `SteeringData`, or anything it can be built from. Responses are compared with the neutral responses to the same
            prompts; if no row has one, with `data.negatives`.
        layer: 0-based block whose output is read and edited; a sequence gives a vector for each, at the cost of one.
        method: "difference" (in means), "pca" (first principal component of the differences) or "probe" (logistic
            regression); see `difference`, `principal_component` and `probe`.
        tokens: those that are read: "all" of prompt and response but those that every prompt begins with (AxBench's definition;
            see `prefix_length`), "response", or "last". Class means weigh tokens equally, as AxBench's do.
        positions: those that the vector edits.
        factor: of the unit direction. None takes the projection of the difference of the class means on it, so that
            `vector` of the method "difference" is the raw difference (CAA's vector at multiplier 1).
        batch_size: texts per forward pass; the result does not depend on it.

    Returns:
        The vector with a unit direction, or layer -> vector.

    Raises:
        ValueError, DataError: settings or data that cannot be used, before any work starts (see `collect`); class means that
            are equal or not finite; a direction without a default factor.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; use {', '.join(METHODS)}")
    if factor is not None and not math.isfinite(factor):
        raise ValueError(f"the factor is {factor!r}; it must be finite")
    positions = canonical_positions(positions)
    data = as_data(data)
    layers = layer if isinstance(layer, Sequence) else (layer,)
    activations = collect(model, data, layers=layers, tokens=tokens, batch_size=batch_size)
    source = {
        "method": method,
        "tokens": tokens,
        "n_positive": len(activations.positive),
        "n_negative": len(activations.negative),
        "negatives": "neutral responses" if activations.paired else "shared",
        "negatives_hash": None if activations.paired else SteeringData(data.negatives).hash,
        "data_hash": data.hash,
        "factor_source": "given" if factor is not None else "difference of class means along the direction",
        "made_by": "steerlens.extract",
    }
    vectors = {}
    for place in activations.layers:
        direction, projection = _direction(activations, place, method, factor is None)
        size = projection if factor is None else factor
        vectors[place] = _vector(model, direction, place, size, positions, data.concept, source)
    return vectors if isinstance(layer, Sequence) else vectors[activations.layers[0]]


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
    if isinstance(feature, bool) or not isinstance(feature, SupportsIndex) or not 0 <= operator.index(feature) < len(decoder):
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
    values = torch.as_tensor(direction).detach().cpu().double()
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
    place = {
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
        provenance=known | place | source,
    )
