"""Mean and covariance of a residual stream: what a random direction of it looks like."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import checked_call
from ..data import Prompt, SteeringData
from ..model.bridge import Bridge, check_layer, check_model, hook_name
from ..model.identity import identity
from ..positions import token_index
from ..result import Result
from ..steering.generation import as_prompts
from ..steering.recording import batches, encode, record

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class ResidualStatistics(Result):
    """Mean and covariance of the residual stream after one block, over the tokens of some texts."""

    mean: Float[Tensor, " d_model"]
    covariance: Float[Tensor, "d_model d_model"]
    """In squared units of the residual stream."""
    n_tokens: int
    layer: int
    """0-based block whose output it is."""
    model_name: str | None = None
    weight_processing: str | None = None
    left_out: int = 0
    """Tokens left out at the start of each text."""

    @property
    def variances(self) -> Float[Tensor, " d_model"]:
        """Along the principal components, largest first."""
        return torch.linalg.eigvalsh(self.covariance.double()).flip(0).clamp(min=0).float()

    def to_frame(self) -> pd.DataFrame:
        """One row per principal component: component (from 0), variance (squared residual units), share, cumulative share."""
        variances = self.variances.double()
        share = variances / variances.sum()
        columns = {"component": range(len(share)), "variance": variances.tolist(), "share": share.tolist()}
        return pd.DataFrame(columns | {"cumulative": share.cumsum(0).tolist()})

    def plot(self) -> "go.Figure":
        """Cumulative share of variance against number of components."""
        from ..figures.sae import plot_residual_statistics

        return plot_residual_statistics(self.to_frame(), self.summary())

    def summary(self) -> str:
        """How far from isotropic the residual stream is."""
        frame = self.to_frame()
        dimension = float(1 / frame["share"].pow(2).sum())
        half = int((frame["cumulative"] < 0.5).sum()) + 1
        return (
            f"Over {self.n_tokens} tokens the residual stream after block {self.layer} has {half} of {len(frame)} principal "
            f"components with half of its variance; it spreads as over {dimension:.0f} equal dimensions (participation ratio)."
        )


@checked_call
def residual_statistics(
    model: Bridge,
    texts: Prompt | Sequence[Prompt] | SteeringData,
    layer: int,
    *,
    responses: str | Sequence[str] | None = None,
    leave_out: int = 1,
    chat: bool = True,
    batch_size: int = 16,
) -> ResidualStatistics:
    """Mean and covariance of the unsteered residual stream after block `layer`, over all tokens of texts.

    Args:
        texts: prompts, or data, of which prompts and responses are taken.
        responses: one per prompt, read after it; None = the prompts alone.
        leave_out: tokens left out at the start of each text. The first token (BOS) is the same everywhere, and in many
            models larger than all others by orders of magnitude, so that a covariance with it would be about it alone.
        chat: put prompts into the model's chat template.
        batch_size: texts per forward pass.

    Raises:
        ValueError: no such layer, no text, a number of responses that is not that of the prompts, a text longer than the
            context, not more tokens than d_model (the covariance would miss directions), or activations that are not finite.
    """
    check_model(model)
    check_layer(model, layer)
    if leave_out < 0:
        raise ValueError(f"leave_out is {leave_out}; it must be at least 0")
    if isinstance(texts, SteeringData):
        if responses is not None:
            raise ValueError("the data have responses of their own: give prompts, or leave responses out")
        texts, responses = [example.prompt for example in texts], [example.response for example in texts]
    prompts = as_prompts(texts)
    if responses is None:
        responses = [""] * len(prompts)
    examples = encode(model, prompts, responses, chat=chat)
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for batch in batches(model, examples, batch_size):
        values = record(model, batch, None, [hook_name(layer)]).values[hook_name(layer)]
        hidden = values[token_index(batch.token_mask) >= leave_out].cpu().double()
        total, squares, count = total + hidden.sum(0), squares + hidden.T @ hidden, count + len(hidden)
    width = identity(model)["d_model"]
    if count <= width:
        raise ValueError(f"{count} tokens for a residual stream of {width} dimensions: give more texts")
    if not bool(squares.isfinite().all()):
        raise ValueError(f"the activations after layer {layer} are not finite; load the model in bfloat16 or float32")
    mean = total / count
    covariance = (squares - count * torch.outer(mean, mean)) / (count - 1)
    known = identity(model)
    return ResidualStatistics(
        mean.float(), covariance.float(), count, int(layer), known["model_name"], known["weight_processing"], leave_out
    )
