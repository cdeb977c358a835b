"""Initial sizes and learning rates: the constants of joint training and how they carry across widths.

Bao et al. 2026, Sec. 4 (Algorithm 1), with n = d_model. A stable and efficient run needs `direction` entries of size
n^-1/2, a `factor` of size n^1/2, and learning rates of the same orders. What is tuned are the constants in front:

    name here        symbol    meaning
    factor_init      beta      factor starts at beta * sqrt(n)
    direction_init   lambda    direction entries start at size lambda / sqrt(n)
    factor_lr        lr_alpha  Adam's learning rate of the factor, at the width it was tuned for
    direction_lr     lr_v      Adam's learning rate of the direction, at the width it was tuned for
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..positions import canonical_positions


@dataclass(frozen=True)
class TrainConfig:
    """How a vector is trained. The defaults are the published ones for gemma-2-2b-it, p2+s2, lang."""

    epochs: int = 12
    """Passes over the data, >= 1."""
    batch_size: int = 12
    """Examples per forward pass, >= 1."""
    factor_init: int | float = 4.0
    """beta: the factor starts at beta * sqrt(d_model)."""
    direction_init: int | float = 8.0
    """lambda: the direction's entries start at size lambda / sqrt(d_model)."""
    factor_lr: int | float = 10.0
    """Adam's learning rate of the factor, as used (not scaled by the width); decays linearly to 0."""
    direction_lr: int | float = 0.04
    """Adam's learning rate of the direction, as used; decays linearly to 0."""
    grad_clip: int | float | None = 1.0
    """The norm to which the direction's gradient is clipped (never the factor's); None = no clipping."""
    shuffle: bool = True
    """New order of the examples in each epoch, from the seed."""
    max_response_tokens: int | None = None
    """Responses are cut after so many tokens; None = whole."""
    append_eos: bool = False
    """Train on an end-of-sequence token after each uncut response."""
    accumulate: int = 1
    """Forward passes per step; the step's loss is the mean over all their tokens, as if it were one large batch."""
    init_distribution: Literal["uniform", "normal"] = "uniform"
    """uniform: U(-lambda/sqrt(n), lambda/sqrt(n)), the released code. normal: N(0, lambda/n), Algorithm 1 as printed."""
    null_factor_init: int | float | None = None
    """Objective "reps": start of a second, trained strength of the Null intervention (1 = takes all of h along u away);
    None = 1 throughout, as in the paper. A vector of form "null" starts at this strength (None = 1)."""
    null_factor_lr: int | float = 0.1
    """Adam's learning rate of that strength, where it is trained; decays linearly to 0, the same at every width."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        for name in ("factor_init", "direction_init", "factor_lr", "direction_lr", "null_factor_init", "null_factor_lr"):
            value = getattr(self, name)
            if name == "null_factor_init" and value is None:
                continue
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value!r}; it must be a finite number of at least 0")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip is {self.grad_clip!r}; it must be above 0, or None for no clipping")
        if self.max_response_tokens is not None and self.max_response_tokens < 1:
            raise ValueError(f"max_response_tokens is {self.max_response_tokens!r}; it must be at least 1, or None")
        if self.init_distribution not in ("uniform", "normal"):
            raise ValueError(f'init_distribution is {self.init_distribution!r}; use "uniform" or "normal"')


class Published(NamedTuple):
    """One row of the paper's table of settings (Bao et al. 2026, Table 11)."""

    model_name: str
    d_model: int
    layer: int
    positions: str
    objective: str
    config: TrainConfig


def _row(model: str, positions: str, objective: str, *numbers: int | float, batch: int = 12, accumulate: int = 1) -> Published:
    beta, factor_lr, size, direction_lr, epochs = numbers
    width, layer = _MODELS[model]
    config = TrainConfig(
        epochs=int(epochs),
        batch_size=batch,
        factor_init=float(beta),
        direction_init=float(size),
        factor_lr=float(factor_lr),
        direction_lr=direction_lr,
        max_response_tokens=128 if objective == "simpo" else None,
        accumulate=accumulate,
    )
    return Published(model, width, layer, positions, objective, config)


_MODELS = {"gemma-2-2b-it": (2304, 10), "gemma-2-9b-it": (3584, 20), "Qwen2.5-32B-Instruct": (5120, 32)}

# Where the printed table and the released code differ (gemma-2-9b-it, p2+s2, simpo: code 2, 10, 8, 0.08, 12), the table.
PUBLISHED: tuple[Published, ...] = (
    _row("gemma-2-2b-it", "all", "lang", 2, 1, 1, 0.04, 12),
    _row("gemma-2-2b-it", "all", "simpo", 2, 0.1, 1, 0.04, 12, batch=6),
    _row("gemma-2-2b-it", "p2+s2", "lang", 4, 10, 8, 0.04, 12),
    _row("gemma-2-2b-it", "p2+s2", "simpo", 4, 20, 8, 0.04, 12, batch=6),
    _row("gemma-2-9b-it", "all", "lang", 2, 0.1, 8, 0.04, 18),
    _row("gemma-2-9b-it", "all", "simpo", 2, 0.1, 8, 0.08, 12, batch=6),
    _row("gemma-2-9b-it", "p2+s2", "lang", 2, 0.1, 8, 0.04, 12),
    _row("gemma-2-9b-it", "p2+s2", "simpo", 4, 20, 8, 0.04, 24, batch=6),
    _row("Qwen2.5-32B-Instruct", "all", "lang", 1, 0.1, 1, 0.04, 12, batch=6),
    _row("Qwen2.5-32B-Instruct", "all", "simpo", 1, 0.01, 1, 0.04, 12, batch=3),
    _row("Qwen2.5-32B-Instruct", "p2+s2", "lang", 2, 10, 8, 0.04, 12, batch=6),
    _row("Qwen2.5-32B-Instruct", "p2+s2", "simpo", 1, 10, 8, 0.08, 6, batch=3, accumulate=2),
)
FALLBACK_MODEL = "gemma-2-2b-it"


def published_row(model_name: str | None, positions: str, objective: str) -> Published:
    """The published row nearest to a request: of the model if it is known, else of gemma-2-2b-it.

    Positions that edit generated tokens take the row of "all", the others that of "p2+s2"; an objective that is not
    "lang" takes the row of "simpo".
    """
    positions = str(canonical_positions(positions))
    base = (model_name or "").split("/")[-1]
    model = next((name for name in _MODELS if name.lower() == base.lower()), FALLBACK_MODEL)
    known_positions = "all" if positions in ("all", "response") else "p2+s2"
    known_objective = "lang" if objective == "lang" else "simpo"
    wanted = (model, known_positions, known_objective)
    return next(row for row in PUBLISHED if (row.model_name, row.positions, row.objective) == wanted)


def published(model_name: str | None, positions: str = "p2+s2", objective: str = "lang") -> TrainConfig:
    """The published settings (Bao et al. 2026, Table 11), as tuned at that model's own width.

    An unknown model gets the constants of gemma-2-2b-it, which were tuned at width 2304: pass them through `transfer`.
    """
    return published_row(model_name, positions, objective).config


def transfer(config: TrainConfig, from_width: int, to_width: int) -> TrainConfig:
    """Carry tuned learning rates to another width: lr_alpha ~ n^1/2, lr_v ~ n^-1/2 (Bao et al. 2026, Sec. 4).

    The initial sizes need no change, since `factor_init` and `direction_init` are constants in front of n^(+-1/2).
    """
    if from_width < 1 or to_width < 1:
        raise ValueError(f"widths must be at least 1, got {from_width} and {to_width}")
    ratio = math.sqrt(to_width / from_width)
    return replace(config, factor_lr=config.factor_lr * ratio, direction_lr=config.direction_lr / ratio)


def initial_factor(config: TrainConfig, width: int) -> float:
    """alpha_0 = beta sqrt(n)."""
    return config.factor_init * math.sqrt(width)


def initial_direction(config: TrainConfig, width: int, generator: torch.Generator) -> Float[Tensor, " d_model"]:
    """v_0, drawn on the CPU so that a seed means the same on every device."""
    if config.init_distribution == "normal":
        return torch.randn(width, generator=generator) * math.sqrt(config.direction_init / width)
    return (2 * torch.rand(width, generator=generator) - 1) * config.direction_init / math.sqrt(width)


def learning_rate_scale(step: int, n_steps: int) -> float:
    """Linear decay from 1 at step 0 towards 0, which it would reach one step after the last."""
    return 1.0 - step / n_steps
