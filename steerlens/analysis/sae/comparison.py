"""A vector beside the features of a sparse autoencoder: cosines with their chance level, and a sparse decomposition."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...arguments import checked_call
from ...model.forward import sparse_decomposition
from ...result import Result
from ...vector import SteeringVector
from ..random_directions import check_draws, check_statistics, exceeded, random_rows, spectrum
from ..residual_covariance import ResidualStatistics
from ..vector_sets import Vectors, named_vectors
from .autoencoder import SAE, SAEError, check_coordinates, check_sae

if TYPE_CHECKING:
    import plotly.graph_objects as go

SIDES = ("decoder", "encoder")
DRAWN_AT_ONCE = 512
NULL_LEVEL = 0.95
SMALL = 1e-6
"""Contributions below this share of a vector are no contributions."""


@dataclass(frozen=True, repr=False)
class SAEComparison(Result):
    """Cosines of vectors to all features, and the features that add up to each vector."""

    features: pd.DataFrame
    """One row per vector and feature: see `to_frame`."""
    steps: pd.DataFrame
    """One row per vector and size of its decomposition: see `steps_frame`."""
    parts: pd.DataFrame
    """One row per vector and feature of its largest decomposition: see `parts_frame`."""
    null_cosine: dict[str, float]
    """"decoder" and "encoder" -> |cosine| that the best feature reaches in 5 % of random directions; NaN without statistics."""
    n_random: int
    """Random directions behind the p-values; 0 without statistics."""
    n_tokens: int | None
    """Tokens behind the statistics."""
    source: str | None
    """Of the autoencoder."""

    def to_frame(self) -> pd.DataFrame:
        """One row per vector and feature, by vector and rank at the decoder.

        Columns: vector (name), feature (index), decoder_cosine (of `sv.vector` to the decoder row, what the feature writes),
        decoder_rank (1 = largest |cosine|), decoder_p (two-sided: share of random directions with at least this |cosine| to
        this feature), decoder_p_corrected (share of random directions whose best feature reaches it: corrected for looking
        at all features), the same four for the encoder column (what the feature reads), url (Neuronpedia, or None). p-values
        are NaN without statistics, cosines of features of norm 0 too.
        """
        return self.features.copy()

    def steps_frame(self) -> pd.DataFrame:
        """Columns: vector, n_features (0 up), added (the feature added at this size, -1 for none), explained (1 - |v - sum|^2 /
        |v|^2), random_explained and random_explained_high (mean and 95 % quantile over random directions; NaN without
        statistics)."""
        return self.steps.copy()

    def parts_frame(self) -> pd.DataFrame:
        """Columns: vector, feature, coefficient (activation units, above 0), contribution (coefficient times the norm of the
        decoder row, in residual units), cosine (to the decoder row), url; by contribution."""
        return self.parts.copy()

    def plot(self, vector: str | None = None, top: int = 15) -> "go.Figure":
        """The features with the largest |cosine| to a vector (None = the first), at either side, with the chance band.

        Raises:
            ValueError: there is no vector of that name.
        """
        from ...figures.sae import plot_sae_comparison

        return plot_sae_comparison(self.features, self.null_cosine, self.n_random, self.source, vector, top)

    def plot_decomposition(self) -> "go.Figure":
        """Explained norm against number of features, a line per vector."""
        from ...figures.sae import plot_decomposition

        return plot_decomposition(self.steps)

    def summary(self) -> str:
        """Nearest features and the size of the decomposition, vector by vector."""
        sentences = [self._of(str(name)) for name in self.features["vector"].unique()[:3]]
        further = self.features["vector"].nunique() - len(sentences)
        if further > 0:
            sentences.append(f"{further} further vector(s) in to_frame().")
        if not self.n_random:
            sentences.append("No statistics of the residual stream were given, so there are no p-values.")
        return " ".join(sentences)

    def _of(self, name: str) -> str:
        own, steps = (frame[frame["vector"] == name] for frame in (self.features, self.steps))
        best = [own.sort_values(f"{side}_rank").iloc[0] for side in SIDES]
        near = [
            f"{'decoder row' if side == 'decoder' else 'encoder column'} {int(row['feature'])} (cosine "
            f"{row[f'{side}_cosine']:.3f}{self._chance(float(row[f'{side}_p_corrected']))})"
            for side, row in zip(SIDES, best, strict=True)
        ]
        last = steps.iloc[-1]
        beside = "" if math.isnan(last["random_explained"]) else f" (random directions: {last['random_explained']:.0%})"
        n = int(last["n_features"])
        return (
            f"{name}: nearest are {near[0]} and {near[1]}; {n} feature{' adds' if n == 1 else 's add'} up to "
            f"{last['explained']:.0%} of its squared norm{beside}."
        )

    def _chance(self, p: float) -> str:
        if math.isnan(p):
            return ""
        least = p <= 1 / (1 + self.n_random)
        return f", p {'<=' if least else '='} {p:.2g} corrected for all features"


@checked_call
def compare_to_sae(
    sv: Vectors,
    sae: SAE,
    *,
    statistics: ResidualStatistics | None = None,
    k: int = 16,
    n_random: int = 10_000,
    n_controls: int = 20,
    seed: int = 0,
    allow: str | Sequence[str] = (),
) -> SAEComparison:
    """Compare vectors with every feature of an autoencoder, as it reads (encoder) and writes (decoder).

    What is compared is `sv.vector`, so a negative factor turns the cosines round. Chance is what directions drawn from
    N(0, covariance of the residual stream) reach, since features and vectors both lie where the residual stream varies;
    isotropic directions would make everything significant. Without `statistics` there are no p-values.

    The decomposition is a nonnegative orthogonal matching pursuit on the decoder rows (TransformerLens's, Gurnee et al. 2026).

    Args:
        sv: one vector, several, or several by name.
        statistics: of the residual stream that the vectors edit, from `residual_statistics`.
        k: largest number of features in the decomposition.
        n_random: random directions for the p-values, of which the smallest possible is 1 / (1 + n_random).
        n_controls: of them, how many are decomposed as well.
        seed: of the random directions.
        allow: coordinates for which the caller takes responsibility although they differ or are unknown: "model" (such as an
            autoencoder of the base model for a vector of the chat model), "layer", "hook", "weight_processing",
            "normalisation".

    Raises:
        SAEError: the autoencoder is of other coordinates than a vector, or does not say of which; another width.
        TypeError: something that is not a SteeringVector, or not an SAE.
        ValueError: a vector of norm 0, a ReFT form or the form "null", statistics of another place, k or n_random out of
            range.
    """
    check_sae(sae)
    named = named_vectors(sv)
    check_draws(n_random)
    if not (1 <= k <= sae.d_sae) or not 1 <= n_controls <= n_random:
        raise ValueError(f"k is {k} and n_controls {n_controls}; k must be 1 to {sae.d_sae}, n_controls 1 to n_random")
    for name, vector in named.items():
        check_vector(sae, vector, repr(name), allow)
        if statistics is not None:
            check_statistics(vector, statistics)
    drawn = None
    if statistics is not None:
        drawn = random_rows(spectrum(next(iter(named.values())), statistics), n_random, seed)
    vectors = torch.stack([vector.vector for vector in named.values()])
    columns, nulls = {}, {}
    for side, rows in (("decoder", sae.W_dec), ("encoder", sae.W_enc.T)):
        columns[side], nulls[side] = _cosines(vectors, rows.cpu(), drawn, side)
    features = _feature_frame(list(named), columns, sae)
    steps, parts = _decompose(named, sae, k, None if drawn is None else drawn[:n_controls])
    n_tokens = None if statistics is None else statistics.n_tokens
    return SAEComparison(features, steps, parts, nulls, 0 if drawn is None else n_random, n_tokens, sae.source)


def check_vector(sae: SAE, sv: SteeringVector, name: str, allow: str | Sequence[str]) -> None:
    """Raise SAEError unless a vector edits the residual stream that an autoencoder reads."""
    origin = {"model": sv.model_name, "layer": sv.layer, "weight_processing": sv.provenance.get("weight_processing")}
    check_coordinates(sae, origin, f"the vector {name}", sv.d_model, allow)


# --- cosines ------------------------------------------------------------------------------------------------------------


def _cosines(
    vectors: Float[Tensor, "vector d_model"],
    rows: Float[Tensor, "feature d_model"],
    drawn: Float[Tensor, "draw d_model"] | None,
    side: str,
) -> tuple[dict[str, Float[np.ndarray, "vector feature"]], float]:
    """Columns of the frame for one side, and the |cosine| of the best feature at the top 5 % of random directions."""
    alive = rows.norm(dim=-1) > 0
    unit = torch.nn.functional.normalize(rows, dim=-1)
    cosines = (torch.nn.functional.normalize(vectors, dim=-1) @ unit.T).clamp(-1, 1)
    cosines[:, ~alive] = math.nan
    size = cosines.abs()
    order = size.nan_to_num(-1).argsort(-1, descending=True)
    rank = torch.empty_like(order).scatter(-1, order, torch.arange(1, len(rows) + 1).expand_as(order))
    columns = {f"{side}_cosine": cosines.numpy(), f"{side}_rank": rank.numpy()}
    single = corrected = np.full(size.shape, math.nan)
    level = math.nan
    if drawn is not None:
        reached, largest = torch.zeros(size.shape, dtype=torch.long), []
        for part in drawn.split(DRAWN_AT_ONCE):
            chance = (part @ unit.T).abs()
            largest.append(chance[:, alive].amax(-1))
            for number, found in enumerate(size):
                reached[number] += (chance >= found).sum(0)
        best = torch.cat(largest).numpy().astype(float)
        single = np.where(alive.numpy(), (1 + reached.numpy()) / (1 + len(drawn)), math.nan)
        corrected = np.where(alive.numpy(), exceeded(size.nan_to_num(0).numpy().astype(float), best), math.nan)
        level = float(np.quantile(best, NULL_LEVEL))
    return columns | {f"{side}_p": single, f"{side}_p_corrected": corrected}, level


def _feature_frame(names: list[str], columns: Mapping[str, Mapping[str, np.ndarray]], sae: SAE) -> pd.DataFrame:
    urls = [sae.url(feature) for feature in range(sae.d_sae)]
    frames = []
    for number, name in enumerate(names):
        own = {key: values[number] for side in SIDES for key, values in columns[side].items()}
        frame = pd.DataFrame({"vector": name, "feature": np.arange(sae.d_sae)} | own | {"url": urls})
        frames.append(frame.sort_values("decoder_rank", kind="stable"))
    return pd.concat(frames, ignore_index=True)


# --- decomposition ------------------------------------------------------------------------------------------------------


class Fit(NamedTuple):
    """A vector as a nonnegative sum of features."""

    features: Int[Tensor, " feature"]
    """With a coefficient above 0."""
    coefficients: Float[Tensor, " feature"]
    added: int
    """The feature that was chosen last, -1 for none."""
    n_features: int
    """Features chosen, of which some may have a coefficient of 0."""
    reconstruction: Float[Tensor, " d_model"]
    explained: float
    """1 - |v - reconstruction|^2 / |v|^2."""


class Dictionary:
    """Decoder rows as atoms; features of norm 0 are left out."""

    def __init__(self, sae: SAE) -> None:
        rows = sae.W_dec.detach().cpu()
        self.features = (rows.norm(dim=-1) > 0).nonzero()[:, 0]
        if not len(self.features):
            raise SAEError("every decoder row is zero: there is nothing to decompose into")
        self.rows = rows
        self.atoms = rows[self.features]

    def pursue(self, vector: Float[Tensor, " d_model"], k: int) -> list[Fit]:
        """Fits with 0, 1, ... features, each refitted; ends before `k` where no feature points the way of what is left."""
        chosen = sparse_decomposition(vector, self.atoms, min(k, len(self.atoms))).selected
        order = self.features[chosen]
        return [self.fit(vector, order[:size]) for size in range(len(order) + 1)]

    def fit(self, vector: Float[Tensor, " d_model"], features: Int[Tensor, " feature"]) -> Fit:
        """Nonnegative least squares on given features."""
        added = int(features[-1]) if len(features) else -1
        found = features[:0]
        coefficients, total = vector.new_zeros(0), torch.zeros_like(vector)
        plain = _least_squares(vector, self.rows[features])
        if plain is not None:
            found, coefficients, total = features, plain, plain @ self.rows[features]
        elif len(features):
            part = sparse_decomposition(vector, self.rows[features], len(features))
            found, coefficients, total = features[part.support], part.coefficients, part.reconstruction
        explained = 1 - float((vector - total).double().square().sum() / vector.double().square().sum())
        return Fit(found, coefficients, added, len(features), total, explained)


def _least_squares(
    vector: Float[Tensor, " d_model"], rows: Float[Tensor, "feature d_model"]
) -> Float[Tensor, " feature"] | None:
    """Plain least squares where its coefficients are all above 0: then it is the nonnegative fit too, at less cost."""
    if not 1 <= len(rows) <= rows.shape[1]:
        return None
    found = torch.linalg.lstsq(rows.double().T, vector.double()[:, None], driver="gelsd").solution[:, 0].float()
    sizes = found * rows.norm(dim=-1)
    return found if bool((sizes > SMALL * vector.norm()).all()) else None


def _decompose(
    named: Mapping[str, SteeringVector], sae: SAE, k: int, drawn: Float[Tensor, "control d_model"] | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames of steps and of parts, with random directions as controls."""
    dictionary = Dictionary(sae)
    controls = [] if drawn is None else [dictionary.pursue(row, k) for row in drawn]
    random = _curves(controls, k)
    steps, parts = [], []
    for name, vector in named.items():
        path = dictionary.pursue(vector.vector, k)
        steps.append(_step_frame(name, path, random))
        parts.append(_part_frame(name, vector, path[-1], sae))
    return pd.concat(steps, ignore_index=True), pd.concat(parts, ignore_index=True)


def _curves(controls: Sequence[Sequence[Fit]], k: int) -> Float[np.ndarray, "control size"]:
    """Explained share of each control at sizes 0 to k; one that ended before stays where it was."""
    curves = [[fit.explained for fit in path] + [path[-1].explained] * (k + 1 - len(path)) for path in controls]
    return np.array(curves, dtype=float).reshape(len(curves), k + 1)


def _step_frame(name: str, path: Sequence[Fit], random: Float[np.ndarray, "control size"]) -> pd.DataFrame:
    n = len(path)
    nothing = np.full(n, math.nan)
    mean, high = (random.mean(0)[:n], np.quantile(random, NULL_LEVEL, axis=0)[:n]) if len(random) else (nothing, nothing)
    columns = {"vector": name, "n_features": [fit.n_features for fit in path], "added": [fit.added for fit in path]}
    columns |= {"explained": [fit.explained for fit in path], "random_explained": mean, "random_explained_high": high}
    return pd.DataFrame(columns)


def _part_frame(name: str, sv: SteeringVector, fit: Fit, sae: SAE) -> pd.DataFrame:
    rows = sae.W_dec.cpu()[fit.features]
    lengths = rows.norm(dim=-1)
    columns = {
        "vector": [name] * len(rows),
        "feature": fit.features.tolist(),
        "coefficient": fit.coefficients.tolist(),
        "contribution": (fit.coefficients * lengths).tolist(),
        "cosine": (rows @ sv.vector / (lengths * sv.vector.norm())).tolist(),
        "url": [sae.url(feature) for feature in fit.features.tolist()],
    }
    return pd.DataFrame(columns).sort_values("contribution", ascending=False, kind="stable")
