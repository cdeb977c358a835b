"""The residual stream of texts with a concept and of texts without it, collected once for any number of blocks."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..data import DataError, SteeringData, as_data
from ..positions import token_index
from ..result import Result
from .batches import Batch, EncodedExample, check_batch_size, collate, encode_data
from .bridge import Bridge, check_layer, check_model, hook_name, model_name
from .chat import prefix_length
from .forward import announced, forward, frozen, reading_hooks
from .numbers import NotFiniteError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TOKENS = ("all", "response", "last")
"""Tokens that are looked at: prompt and response without the template's beginning; the response; the text's last token."""


@dataclass(frozen=True, eq=False, repr=False)
class Activations(Result):
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

    def summary(self) -> str:
        """A sentence: what was read, and where the class means differ most."""
        most = max(self.to_frame().to_dict("records"), key=lambda row: row["relative_difference"])
        kind = "their neutral responses" if self.paired else "shared negatives"
        blocks = ", ".join(map(str, self.layers))
        return (
            f"{len(self.positive)} texts with the concept and {len(self.negative)} without ({kind}), tokens {self.tokens!r}, "
            f"read after the blocks {blocks} (d_model {self.positive.shape[-1]}); the class means differ most after block "
            f"{most['layer']}, by {most['relative_difference']:.2f} of their norm."
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer: layer, texts and tokens of both classes, norms of the class means and of their difference, the
        difference relative to the negatives' norm, and the cosine of the class means."""
        import pandas as pd

        rows = []
        for layer in self.layers:
            positive, negative = self.class_means(layer)
            difference = (positive - negative).norm()
            rows.append(
                {
                    "layer": layer,
                    "n_positive": len(self.positive),
                    "n_negative": len(self.negative),
                    "tokens_positive": int(self.positive_counts.sum()),
                    "tokens_negative": int(self.negative_counts.sum()),
                    "positive_norm": float(positive.norm()),
                    "negative_norm": float(negative.norm()),
                    "difference_norm": float(difference),
                    "relative_difference": float(difference / negative.norm()),
                    "cosine": float(torch.cosine_similarity(positive, negative, dim=0)),
                }
            )
        return pd.DataFrame(rows)

    def plot(self) -> "go.Figure":
        """How far apart the class means are at each layer."""
        from ..figures import plot_class_means

        return plot_class_means(self.to_frame())


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
    if isinstance(layers, (str, type)) or not isinstance(layers, Iterable):
        raise TypeError(f"the layers are {layers!r:.80}; give a list of blocks' indices")
    for layer in layers:
        check_layer(model, layer)
    if not layers:
        raise ValueError("layers is empty: name at least one block")
    if tokens not in TOKENS:
        raise ValueError(f"tokens {tokens!r} are unknown; use {', '.join(TOKENS)}")
    check_batch_size(batch_size)
    read = tuple(dict.fromkeys(map(operator.index, layers)))
    positive, negative, paired = _texts(model, as_data(data))
    # each text once, by length: equal texts get equal numbers, whatever stands beside them in the data
    unique = sorted({*positive, *negative}, key=lambda text: (text.length, text.prompt, text.response))
    with frozen(model), torch.no_grad():
        parts = [_read(model, unique[i : i + batch_size], read, tokens) for i in range(0, len(unique), batch_size)]
    means, counts = torch.cat([part.means for part in parts]), torch.cat([part.counts for part in parts])
    row = {text: index for index, text in enumerate(unique)}
    ours, theirs = [row[text] for text in positive], [row[text] for text in negative]
    return Activations(means[ours], counts[ours], means[theirs], counts[theirs], read, tokens, paired)


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
    names = [hook_name(layer) for layer in layers]
    sums: dict[str, Tensor] = {}

    def add_up(name: str, hidden: Tensor) -> None:
        kept = hidden.masked_fill(~mask.to(hidden.device)[..., None], 0)
        sums[name] = kept.sum(1, dtype=torch.float32).cpu()

    with announced(model, batch.prompt_lengths):  # to a steer block around it
        forward(model, batch.padded, reading_hooks(names, add_up), keep=1)
    for layer, name in zip(layers, names, strict=True):
        if not bool(sums[name].isfinite().all()):
            raise NotFiniteError(
                f"the activations after layer {layer} are not finite in {model_name(model)}: load it in bfloat16 or float32"
            )
    counts = mask.sum(-1).cpu()
    return _Part(torch.stack([sums[name] for name in names], 1) / counts[:, None, None], counts)


def _chosen(model: Bridge, batch: Batch, tokens: str) -> Bool[Tensor, "batch pos"]:
    if tokens == "response":
        return batch.response_mask
    index = token_index(batch.token_mask)
    if tokens == "last":
        return index == batch.token_mask.sum(-1, keepdim=True) - 1
    return index >= prefix_length(model)
