"""What a vector does at each token: to the next-token distribution, and to the residual stream of every layer.

The same tokens go through the model with and without the vector. Index convention: a row about token i speaks of what happens
AT token i, so that its prediction is the one of token i + 1; the log-probability of token i itself, which is predicted at
token i - 1, is said to be its own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..arguments import checked_call
from ..data import Prompt
from ..intervals import Estimate, estimate
from ..model.batches import Batch
from ..model.bridge import Bridge, attention_output_name, hook_name, n_layers
from ..model.tokenizer import token_strings
from ..result import Result
from ..steering.generation import as_prompts
from ..steering.hooks import Steer, as_list, check_fits
from ..steering.recording import Recording, batches, divergence, encode, overflow, record
from ..vector import SteeringVector
from .token_groups import token_groups

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..figures.token_views import View


@dataclass(frozen=True, repr=False)
class TokenEffects(Result):
    """The effects of steering on fixed tokens: three tables whose rows are named by `row` (prompt) and `position` (token)."""

    tokens: pd.DataFrame
    """One row per token: see `to_frame`."""
    layers: pd.DataFrame
    """One row per token and layer: see `layers_frame`."""
    predictions: pd.DataFrame
    """The predictions that changed most: see `predictions_frame`."""
    edited_layers: tuple[int, ...]
    """Layers that the vectors edit."""

    @property
    def n_prompts(self) -> int:
        return int(self.tokens["row"].nunique())

    @property
    def kl(self) -> Estimate:
        """Mean KL in nats over the predictions of response tokens, as `mean_kl` has it, with its interval over prompts."""
        sums = self._predicting().groupby("row")["kl"].agg(["sum", "count"])
        return estimate(sums["sum"].to_numpy(float), sums["count"].to_numpy(float))

    def to_frame(self) -> pd.DataFrame:
        """One row per token of prompt and response.

        Columns: row (prompt), position (0-based, padding not counted), token_id, token (text), group (see
        `token_groups.GROUPS`), edited; logprob_change, logprob_steered, logprob_plain of this token, predicted at the one
        before (nats; NaN for the first); and of the prediction made at this token: next_token (missing for the last), kl =
        KL(p_steered || p_plain) and entropy_steered, entropy_plain (nats), promoted and suppressed (the tokens whose
        probability rose and fell most, as text with both probabilities; "" where nothing changed).
        """
        return self.tokens.copy()

    def layers_frame(self) -> pd.DataFrame:
        """One row per row, layer and position.

        Columns: row, layer (0-based block, at its output), position, token, edited (at this layer); change_norm (Euclidean, in
        residual units), relative_change (to the unsteered residual's norm), cosine (of the change to `sv.vector`; NaN where
        nothing changed, or where several vectors act and none is the one to compare with), attention_change_norm (change of
        what the block's attention adds, in residual units).
        """
        return self.layers.copy()

    def predictions_frame(self) -> pd.DataFrame:
        """One row per changed prediction: row, position, kind ("promoted" or "suppressed"), rank (from 1), token, p_plain and
        p_steered."""
        return self.predictions.copy()

    def plot(self, row: int = 0, of: str = "residual") -> "go.Figure":
        """KL at each token above a map of layers and tokens.

        Args:
            row: which prompt.
            of: "residual" (relative change of the residual stream) or "attention" (change of what attention adds).

        Raises:
            ValueError: no such row or map.
        """
        from ..figures.tokens import plot_token_effects

        return plot_token_effects(self.tokens, self.layers, self.predictions, row, of)

    def view(self, row: int = 0) -> "View":
        """A prompt and its response, each token coloured by the change of its log-probability: HTML for Jupyter or a page.

        Raises:
            ValueError: there is no such row.
        """
        from ..figures.token_views import view_token_effects

        return view_token_effects(self.tokens, row)

    def summary(self) -> str:
        """The effects in two sentences."""
        predicting = self._predicting()
        n_prompts = predicting["row"].nunique()
        n_edited, where = int(self.tokens["edited"].sum()), ", ".join(map(str, self.edited_layers))
        edited = f"{n_edited} of {len(self.tokens)} tokens are edited, at layer {where}."
        if predicting.empty:
            return f"No response has a token, so there is no prediction to compare. {edited}"
        most = predicting.iloc[int(predicting["kl"].argmax())]
        last = self.layers[self.layers["layer"] == self.layers["layer"].max()]
        keys = ["row", "position"]
        after = last.drop(columns="edited").merge(self.tokens[[*keys, "group", "edited"]], on=keys)
        spread = after.loc[(after["group"] == "response") & ~after["edited"], "relative_change"].mean()
        moved = f" After the last block, unedited response tokens are moved by {spread:.2g} of their norm."
        return (
            f"KL(steered || plain) is {self.kl} nats per response token over {len(predicting)} tokens of {n_prompts} "
            f"prompt(s), at most {most['kl']:.3g} where {most['next_token']!r} is predicted (row {most['row']}, position "
            f"{most['position']}). {edited}{'' if math.isnan(spread) else moved}"
        )

    def _predicting(self) -> pd.DataFrame:
        """Tokens at which a response token is predicted."""
        follows = self.tokens.groupby("row")["group"].shift(-1)
        return self.tokens[follows == "response"]


@checked_call
def token_effects(
    model: Bridge,
    sv: Steer,
    prompt: Prompt | Sequence[Prompt],
    response: str | Sequence[str] | None = None,
    *,
    max_new_tokens: int = 32,
    chat: bool = True,
    batch_size: int = 8,
    top: int = 5,
) -> TokenEffects:
    """Compare the same tokens with and without steering, token by token and layer by layer.

    What stands before the edited layer, or before the first edited token, cannot change: its numbers are exactly zero. At
    the edited layer only edited tokens change; what other tokens take from them they take through the attention of later
    layers.

    Args:
        sv: one vector, or several together.
        prompt: one text or conversation, or several.
        response: one text per prompt; None = the greedy responses of the steered model, without the token that ends them.
        max_new_tokens: length limit of greedy responses.
        chat: put prompts into the model's chat template.
        batch_size: prompts per forward pass.
        top: how many tokens to name among those promoted and suppressed at each prediction.

    Raises:
        ValueError: no vector, a vector that does not fit, a number of responses that is not that of the prompts, a row longer
            than the context, settings out of range, or a steered model that overflows.
    """
    vectors = as_list(sv)
    if not vectors:
        raise ValueError("there is no vector, so nothing changes: give one, or several")
    if batch_size < 1 or top < 1:
        raise ValueError(f"batch_size {batch_size} and top {top} must be at least 1")
    for vector in vectors:
        check_fits(model, vector)
    prompts = as_prompts(prompt)
    examples = encode(model, prompts, response, sv=sv, max_new_tokens=max_new_tokens, chat=chat, batch_size=batch_size)
    groups = [token_groups(model, prompt, example, chat) for prompt, example in zip(prompts, examples, strict=True)]
    parts: list[_Row] = []
    for batch in batches(model, examples, batch_size):
        parts += _compare(model, vectors, batch, groups[len(parts) : len(parts) + len(batch.tokens)], top)
    tokens, layers, predictions = (_joined(frames) for frames in zip(*parts, strict=True))
    return TokenEffects(tokens, layers, predictions, tuple(sorted({vector.layer for vector in vectors})))


class _Row(NamedTuple):
    """The frames of one prompt."""

    tokens: pd.DataFrame
    layers: pd.DataFrame
    predictions: pd.DataFrame


def _compare(
    model: Bridge, vectors: Sequence[SteeringVector], batch: Batch, groups: Sequence[list[str]], top: int
) -> Iterator[_Row]:
    """The frames of each prompt of a batch."""
    names = [name(layer) for layer in range(n_layers(model)) for name in (hook_name, attention_output_name)]
    direction = vectors[0].vector if len(vectors) == 1 else None
    steered, plain = record(model, batch, vectors, names), record(model, batch, None, names)
    edited = edited_tokens(vectors, batch)
    at_layer = {layer: edited_tokens([v for v in vectors if v.layer == layer], batch) for layer in {v.layer for v in vectors}}
    for row, length in enumerate(batch.token_mask.sum(-1).tolist()):
        here = row, slice(length)
        tokens, changed = _token_frame(model, steered.logits[here], plain.logits[here], batch.tokens[here], top)
        check_finite(tokens["kl"].to_list(), vectors)
        tokens.insert(3, "group", groups[row])
        tokens.insert(4, "edited", edited[here].tolist())
        layers = _layer_frame(_only(steered, here), _only(plain, here), direction, n_layers(model))
        layers.insert(2, "token", tokens["token"].to_list() * n_layers(model))
        nowhere = [False] * length
        marks = [at_layer[layer][here].tolist() if layer in at_layer else nowhere for layer in range(n_layers(model))]
        layers.insert(3, "edited", list(chain.from_iterable(marks)))
        yield _Row(tokens, layers, changed)


def edited_tokens(vectors: Sequence[SteeringVector], batch: Batch) -> Bool[Tensor, "batch pos"]:
    """Tokens that any of the vectors edits, whatever its factor."""
    return torch.stack([batch.edited(vector.positions) for vector in vectors]).any(0)


def check_finite(kl: Float[Tensor, "*tokens"] | Sequence[float], vectors: Sequence[SteeringVector]) -> None:
    """Raise ValueError if a divergence is not finite."""
    if not bool(torch.as_tensor(kl).isfinite().all()):
        raise overflow("the KL is not finite", vectors)


def cosine(change: Float[Tensor, "*tokens d_model"], direction: Float[Tensor, " d_model"]) -> Float[Tensor, "*tokens"]:
    """Cosine of each token's change to a direction, NaN where nothing changed."""
    unit = direction.to(change.device, change.dtype)
    return ((change @ unit) / (change.norm(dim=-1) * unit.norm())).clamp(-1, 1)


def _only(recording: Recording, here: tuple[int, slice]) -> dict[str, Tensor]:
    """The activations of one row's tokens, float32."""
    return {name: value[here].float() for name, value in recording.values.items()}


def _token_frame(
    model: Bridge,
    steered: Float[Tensor, "pos d_vocab"],
    plain: Float[Tensor, "pos d_vocab"],
    ids: Int[Tensor, " pos"],
    top: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per token, and one per changed prediction."""
    logprobs = {"steered": steered.log_softmax(-1), "plain": plain.log_softmax(-1)}
    own: dict[str, Tensor] = {}
    for name, values in logprobs.items():
        predicted = values[:-1].gather(-1, ids[1:, None])[:, 0]
        own[f"logprob_{name}"] = torch.cat([predicted.new_full((1,), math.nan), predicted])
    numbers = {"logprob_change": own["logprob_steered"] - own["logprob_plain"]} | own
    numbers["kl"] = divergence(steered, plain).clamp(min=0)  # rounding can end just below 0
    numbers |= {f"entropy_{name}": torch.special.entr(values.exp()).sum(-1) for name, values in logprobs.items()}
    changed = _changed(model, logprobs["steered"].exp(), logprobs["plain"].exp(), top)
    text = token_strings(model, ids.tolist())
    columns = {"position": range(len(text)), "token_id": ids.tolist(), "token": text, "next_token": [*text[1:], None]}
    columns |= {name: values.tolist() for name, values in numbers.items()}
    shown = {kind: _in_words(changed, kind, len(text)) for kind in ("promoted", "suppressed")}
    return pd.DataFrame(columns | shown), changed


def _changed(model: Bridge, p: Float[Tensor, "pos d_vocab"], q: Float[Tensor, "pos d_vocab"], top: int) -> pd.DataFrame:
    """The tokens whose probabilities changed most at each position, from q to p; those that did not change left out."""
    parts = []
    for kind, sign in (("promoted", 1), ("suppressed", -1)):
        gain, token = (sign * (p - q)).topk(min(top, p.shape[-1]), dim=-1)
        position, rank = (gain > 0).nonzero(as_tuple=True)
        ids = token[position, rank]
        columns = {
            "position": position.tolist(),
            "kind": kind,
            "rank": (rank + 1).tolist(),
            "token": token_strings(model, ids.tolist()),
        }
        columns |= {"p_plain": q[position, ids].tolist(), "p_steered": p[position, ids].tolist()}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts).sort_values(["position", "kind", "rank"], kind="stable")


def _in_words(changed: pd.DataFrame, kind: str, length: int) -> list[str]:
    """At each position the changed tokens of one kind, such as "' fox' 0.01→0.4"."""
    words: list[list[str]] = [[] for _ in range(length)]
    for row in changed[changed["kind"] == kind].to_dict("records"):
        words[int(row["position"])].append(f"{row['token']!r} {row['p_plain']:.2g}→{row['p_steered']:.2g}")
    return [", ".join(tokens) for tokens in words]


def _layer_frame(
    steered: dict[str, Tensor], plain: dict[str, Tensor], direction: Float[Tensor, " d_model"] | None, n: int
) -> pd.DataFrame:
    parts = []
    for layer in range(n):
        stream, attention = hook_name(layer), attention_output_name(layer)
        change = steered[stream] - plain[stream]
        norm = change.norm(dim=-1)
        along = torch.full_like(norm, math.nan) if direction is None else cosine(change, direction)
        columns = {
            "change_norm": norm,
            "relative_change": norm / plain[stream].norm(dim=-1),
            "cosine": along,
            "attention_change_norm": (steered[attention] - plain[attention]).norm(dim=-1),
        }
        index = {"layer": layer, "position": range(len(norm))}
        parts.append(pd.DataFrame(index | {name: values.tolist() for name, values in columns.items()}))
    return pd.concat(parts, ignore_index=True)


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The frames of all prompts, numbered in a first column."""
    numbered = [part.assign(row=row) for row, part in enumerate(parts)]
    frame = pd.concat([part for part in numbered if len(part)] or numbered[:1], ignore_index=True)
    frame.insert(0, "row", frame.pop("row"))
    return frame
