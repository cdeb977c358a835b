"""What a direction says in the model's own vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import checked_call
from ..intervals import CHANCE
from ..model.bridge import Bridge, model_name, n_layers
from ..model.forward import final_readout
from ..model.tokenizer import token_strings
from ..result import Result
from ..steering.hooks import check_fits
from .random_directions import check_draws, check_statistics, exceeded, random_rows, spectrum
from .residual_covariance import ResidualStatistics
from .vector_sets import Vectors, named_vectors

if TYPE_CHECKING:
    import plotly.graph_objects as go

TOKENS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False, repr=False)
class Readout(Result):
    """Tokens that vectors promote and suppress through the unembedding."""

    frame: pd.DataFrame
    """One row per vector, side and rank: vector, side ("promoted", "suppressed"), rank (from 1), token_id, token (text), logit,
    z, p_corrected. See `readout`."""
    layers: dict[str, int]
    """The layer of each vector."""
    n_layers: int
    d_vocab: int
    null: str
    """What the random directions are."""
    n_random: int
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row per vector, side and rank; see `frame`."""
        return self.frame.copy()

    def summary(self) -> str:
        """The result in a sentence per vector."""
        return " ".join(self._sentence(name) for name in self.layers)

    def _sentence(self, name: str) -> str:
        mine = self.frame[self.frame["vector"] == name]
        sides = []
        for side, rows in mine.groupby("side", sort=False):
            few = ", ".join(f"{row.token!r} (z {row.z:.1f}, p {row.p_corrected:.2g})" for row in rows.head(3).itertuples())
            beyond = int((rows["p_corrected"] < CHANCE).sum())
            sides.append(f"{side} {few}, {beyond} of {len(rows)} beyond {self.null}")
        layer = (
            f"layer {self.layers[name]} of {self.n_layers}, {self.n_layers - 1 - self.layers[name]} blocks before the logits"
        )
        return f"{name} ({layer}): {'; '.join(sides)} (p corrected for {self.d_vocab} tokens, {self.n_random} draws)."

    def plot(self) -> "go.Figure":
        """Bars of the promoted and suppressed tokens, a panel per vector."""
        from ..figures.geometry import plot_readout

        return plot_readout(self.frame, self.layers, self.n_layers, self.d_vocab, self.null)


@checked_call
def readout(
    model: Bridge,
    sv: Vectors,
    *,
    k: int = 10,
    statistics: ResidualStatistics | None = None,
    n_random: int = 1000,
    seed: int = 0,
) -> Readout:
    """Tokens that the direction of a vector promotes and suppresses most, if nothing but the final norm followed.

    `logit` is W_U^T (w * c(v) / RMS(c(v))), less its mean over the vocabulary: v passes alone through the model's final norm
    with weight w (c subtracts the mean over coordinates if that norm is a LayerNorm) and the unembedding W_U; biases and a soft
    cap of the logits are left out. So the numbers do not depend on the length of v, but on its sign. This is the direct path
    alone. What the blocks after the edited layer make of the direction is not in it: at an early layer a weak lens, and
    tokens at chance level there say nothing against the vector.

    `z` is the logit over its standard deviation among random directions, token by token, so that tokens with long
    unembedding rows do not lead by their length. `p_corrected` is the share of random directions for which any token of the
    vocabulary, up or down, has a |z| as large: (1 + count) / (1 + n_random), at least 1 / (1 + n_random). It is corrected
    for the vocabulary, not for the number of vectors. The rank is by logit.

    Args:
        sv: one vector, several, or several by name.
        k: tokens on each side.
        statistics: random directions are drawn from a normal distribution with this covariance of the residual stream.
            None = the same in all directions, which makes chance look rarer than it is where the residual stream has a
            few long axes.
        n_random: random directions for the p-values; as many others give the standard deviations.
        seed: of the random directions.

    Raises:
        ValueError: a vector that does not fit the model, has norm 0, a ReFT form or the form "null", k outside 1 to half
            the vocabulary, n_random below 100, statistics of another layer or model, or a model whose logits are not
            unembedding(final norm(residual stream)).
        TypeError: something that is not a SteeringVector.
    """
    named = named_vectors(sv)
    for vector in named.values():
        check_fits(model, vector)
        if statistics is not None:
            check_statistics(vector.replace(model_name=model_name(model)), statistics)
    check_draws(n_random)
    law = spectrum(next(iter(named.values())), statistics)
    vectors = torch.stack([vector.vector for vector in named.values()])
    scores = _scores(model, vectors, random_rows(law, 2 * n_random, seed), k)
    frames = [_rows(model, name, scores.of(index), k) for index, name in enumerate(named)]
    layers = {name: vector.layer for name, vector in named.items()}
    frame = pd.concat(frames, ignore_index=True)
    return Readout(frame, layers, n_layers(model), scores.logits.shape[1], law.name, n_random, seed)


class _Scores(NamedTuple):
    """Of every vector and token."""

    logits: Float[Tensor, "vector d_vocab"]
    z: Float[Tensor, "vector d_vocab"]
    largest: Float[np.ndarray, " draw"]
    """Largest |z| over the vocabulary of each random direction."""

    def of(self, index: int) -> "_Scores":
        return _Scores(self.logits[index : index + 1], self.z[index : index + 1], self.largest)


def _scores(model: Bridge, vectors: Float[Tensor, "vector d_model"], random: Float[Tensor, "draws d_model"], k: int) -> _Scores:
    """The first half of the random rows gives the standard deviations, the second is compared with the vectors."""
    n, half = len(vectors), len(random) // 2
    normed, unembedding = final_readout(model, torch.cat([vectors, random]))
    d_vocab = unembedding.shape[1]
    if not 1 <= k <= d_vocab // 2:
        raise ValueError(f"k is {k}; it must be from 1 to {d_vocab // 2}, half the vocabulary of {model_name(model)}")
    mean = normed @ unembedding.mean(1, dtype=torch.float32)
    logits, z, largest = [], [], torch.zeros(half, device=normed.device)
    for start in range(0, d_vocab, TOKENS_AT_ONCE):
        block = normed @ unembedding[:, start : start + TOKENS_AT_ONCE].float() - mean[:, None]
        spread = block[n : n + half].square().mean(0).sqrt()  # their mean is 0: the law knows no sign
        scaled = block / spread.where(spread > 0, torch.inf)  # a token that no direction moves
        logits.append(block[:n])
        z.append(scaled[:n])
        largest = torch.maximum(largest, scaled[n + half :].abs().amax(1))
    return _Scores(torch.cat(logits, 1).cpu(), torch.cat(z, 1).cpu(), largest.cpu().numpy())


def _rows(model: Bridge, name: str, scores: _Scores, k: int) -> pd.DataFrame:
    """The first k tokens of each side."""
    logits, z = scores.logits[0], scores.z[0]
    frames = []
    for side, sign in (("promoted", 1), ("suppressed", -1)):
        ids = (sign * logits).topk(k).indices
        columns: Mapping[str, Any] = {
            "rank": range(1, k + 1),
            "token_id": ids.numpy(),
            "token": token_strings(model, ids.tolist()),
            "logit": logits[ids].numpy().astype(float),
            "z": z[ids].numpy().astype(float),
            "p_corrected": exceeded(z[ids].abs().numpy(), scores.largest),
        }
        frames.append(pd.DataFrame({"vector": name, "side": side} | dict(columns)))
    return pd.concat(frames, ignore_index=True)
