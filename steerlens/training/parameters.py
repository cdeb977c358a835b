"""The trained parameters at one layer: how they start, what they make of an edit, and what is recorded of them."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions import REFT, Weights, orthonormal
from ..model.bridge import hook_name
from ..positions import PositionFunction
from ..reproducibility import generator_for
from ..vector import SteeringVector
from . import scaling
from .scaling import TrainConfig

Row = dict[str, int | float]
"""One row of a history."""


class Moment(NamedTuple):
    """A vector as `scales @ directions`, at one moment of its training."""

    scales: Float[Tensor, " rank"]
    directions: Float[Tensor, "rank d_model"]


@dataclass
class Site:
    """What is trained at one layer.

    A ReFT form is trained in the units of a steering vector: `bias` starts and moves like a factor, and is multiplied by
    `scales`, the norms of the first directions, where LoReFT normalises them away. So rank-1 LoReFT starts as the
    clamp of the same seed.
    """

    layer: int
    form: str
    direction: Float[Tensor, " d_model"] | Float[Tensor, "rank d_model"]
    factor: Tensor
    null_factor: Tensor
    """Strength of the Null intervention of this vector, 1 unless it is trained."""
    config: TrainConfig
    read: Tensor | None = None
    bias: Tensor | None = None
    scales: Tensor | None = None
    history: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = self.moment()

    def weights(self) -> Weights:
        """What the form computes with, differentiably."""
        if self.bias is None or self.scales is None or self.read is None:
            return Weights(self.direction[None], self.factor)
        rows = orthonormal(self.direction) if self.form == "loreft" else self.direction
        return Weights(rows, self.factor, self.scales[:, None] * self.read, self.scales * self.bias)

    def null_weights(self) -> Weights:
        """The Null intervention along the same direction."""
        return Weights(self.direction[None], self.null_factor)

    @property
    def factor_lr(self) -> int | float:
        """The factor's first learning rate; the factor of the form "null" is a strength."""
        return self.config.null_factor_lr if self.form == "null" else self.config.factor_lr

    def trained(self) -> list[tuple[Tensor, int | float]]:
        """Each trained parameter with its learning rate.

        `read` moves d_model times slower than `bias`, so that `W^T h`, a sum over d_model coordinates, keeps pace with it.
        """
        config, width = self.config, self.direction.shape[-1]
        pairs = [
            (self.direction, config.direction_lr),
            (self.factor, self.factor_lr),
            (self.bias, config.factor_lr),
            (self.read, config.factor_lr / width),
            (self.null_factor, config.null_factor_lr),
        ]
        return [(parameter, rate) for parameter, rate in pairs if parameter is not None and parameter.requires_grad]

    def moment(self) -> Moment:
        """The vector (of a ReFT form: the constant part of its edit) as it is now."""
        weights = self.weights().each(lambda tensor: tensor.detach().clone())
        scales = weights.factor[None] if weights.bias is None else weights.factor * weights.bias
        return Moment(scales, weights.direction)

    def clip(self) -> float:
        """Clip the direction's gradient, never the factor's (clipping both as one lets the factor's dwarf it); its norm."""
        limit = self.config.grad_clip
        return float(torch.nn.utils.clip_grad_norm_([self.direction], math.inf if limit is None else limit))

    def measure(self, before: Moment, grad_norm: float) -> Row:
        """The vector's part of the history's row, after a step from `before`."""
        now = self.moment()
        turned, rescaled = now.directions - before.directions, now.scales - before.scales
        row: Row = {
            "factor": float(self.factor.detach()),
            "direction_norm": float(now.directions.norm()),
            "vector_norm": float((now.scales @ now.directions).norm()),
            "direction_grad_norm": grad_norm,
            "factor_grad": self._factor_grad(),
            "delta1": _spread(rescaled @ before.directions),
            "delta2": _spread(before.scales @ turned),
            "delta3": _spread(rescaled @ turned),
            "cos_init": _cosine(now.directions, self.first.directions),
            "cos_prev": _cosine(now.directions, before.directions),
        }
        if self.null_factor.requires_grad:
            row["null_factor"] = float(self.null_factor.detach())
        return row

    def _factor_grad(self) -> float:
        """The factor's gradient; of a ReFT form the norm of the bias's."""
        if self.bias is not None:
            return 0.0 if self.bias.grad is None else float(self.bias.grad.norm())
        return 0.0 if self.factor.grad is None else float(self.factor.grad)

    def finish(
        self, positions: str | PositionFunction, concept: str | None, provenance: dict[str, Any], factor: float | None
    ) -> SteeringVector:
        """The trained vector; `factor` replaces a drawn one."""
        weights = self.weights().each(lambda tensor: tensor.detach())
        plain = self.form not in REFT
        made = provenance | {"hook_point": hook_name(self.layer), "layer": self.layer}
        if self.null_factor.requires_grad:
            made["null_factor"] = float(self.null_factor.detach())
        return SteeringVector(
            weights.direction[0] if plain else weights.direction,
            float(weights.factor) if factor is None else factor,
            self.layer,
            positions,
            self.form,
            concept,
            provenance["model_name"],
            made,
            pd.DataFrame(self.history).astype({"step": int, "epoch": int}),
            weights.read,
            weights.bias,
        )


def new_site(
    layer: int,
    form: str,
    rank: int,
    config: TrainConfig,
    factors: tuple[float, ...],
    init: SteeringVector | None,
    width: int,
    device: torch.device,
    seed: int,
) -> Site:
    """Parameters at their start (Algorithm 1, line 1), or those of `init`. `factors` are given ones; none = trained."""
    reft = form in REFT
    null = config.null_factor_init
    if init is not None:
        direction, start = init.direction.clone(), init.factor
        null = null if null is None else init.provenance.get("null_factor", null)
    else:
        draw = generator_for(seed, "direction")
        rows = [scaling.initial_direction(config, width, draw) for _ in range(rank)]
        direction, start = torch.stack(rows) if reft else rows[0], _initial_factor(form, config, width)
    strength = 1.0 if null is None or form == "null" else float(null)
    site = Site(
        layer,
        form,
        direction.to(device).requires_grad_(),
        torch.tensor(factors[0] if factors else start, device=device, requires_grad=not factors and not reft),
        torch.tensor(strength, device=device, requires_grad=null is not None and form != "null"),
        config,
    )
    return _with_reading(site, init) if reft else site


def _initial_factor(form: str, config: TrainConfig, width: int) -> float:
    """Of the form "null" a strength; of a ReFT form 1, its bias being in the role of the factor."""
    if form in REFT:
        return 1.0
    if form == "null":
        return float(config.null_factor_init or 1.0)
    return scaling.initial_factor(config, width)


def _with_reading(site: Site, init: SteeringVector | None) -> Site:
    """Add what a ReFT form has besides: reading nothing, and writing as much as a steering vector at its start.

    A LoReFT that goes on from another gets rows of the usual norm again, so that its learning rates mean the same.
    """
    rank, width = site.direction.shape
    if init is not None and site.form == "loreft":
        size = float(site.config.direction_init) or 1.0
        usual = math.sqrt(size) if site.config.init_distribution == "normal" else size / math.sqrt(3)
        site = replace(site, direction=(site.direction.detach() * usual).requires_grad_())
    scales = (site.direction.detach().norm(dim=-1).cpu() if site.form == "loreft" else torch.ones(rank)) / math.sqrt(rank)
    read, bias = torch.zeros(rank, width), torch.full((rank,), scaling.initial_factor(site.config, width))
    if init is not None:
        assert init.read is not None and init.bias is not None
        read, bias = init.read / scales[:, None], init.bias / scales
    device = site.direction.device
    read, bias = read.to(device).requires_grad_(), bias.to(device).requires_grad_()
    return replace(site, read=read, bias=bias, scales=scales.to(device))


def _spread(change: Tensor) -> float:
    """Root mean square per coordinate."""
    return float(change.norm()) / math.sqrt(change.numel())


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
