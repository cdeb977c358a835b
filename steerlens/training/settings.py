"""What `train`, `train_layers` and `train_many` may be told, written once.

`Settings` holds names and defaults; `TrainSettings` says names and types again for type checkers, which read the keywords of a
function off a `TypedDict` alone (PEP 692).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from ..keywords import keywords_of
from ..positions import PositionFunction
from .callbacks import Callback
from .objectives import Objective
from .scaling import TrainConfig

Factor = str | int | float | Sequence[int | float]
"""How the factor is got: "joint" (trained), a number (fixed), or numbers from which each step draws one."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train; `train` explains each."""

    positions: str | PositionFunction = "p2+s2"
    objective: str | Objective = "lang"
    form: str = "add"
    factor: Factor = "joint"
    rank: int = 1
    config: TrainConfig | None = None
    seed: int = 42
    progress: bool = True
    callbacks: Sequence[Callback] = ()
    template_args: Mapping[str, Any] | None = None


class ConfigChanges(TypedDict, total=False):
    """Fields of `TrainConfig`, in place of the published ones."""

    epochs: int
    batch_size: int
    factor_init: int | float
    direction_init: int | float
    factor_lr: int | float
    direction_lr: int | float
    grad_clip: int | float | None
    shuffle: bool
    max_response_tokens: int | None
    append_eos: bool
    accumulate: int
    init_distribution: Literal["uniform", "normal"]
    null_factor_init: int | float | None
    null_factor_lr: int | float


class TrainSettings(ConfigChanges, total=False):
    """The keywords of `train`, beside the layer and where to start."""

    positions: str | PositionFunction
    objective: str | Objective
    form: str
    factor: Factor
    rank: int
    config: TrainConfig | None
    seed: int
    progress: bool
    callbacks: Sequence[Callback]
    template_args: Mapping[str, Any] | None


class _Published:
    """What a signature shows as the default of a field of `TrainConfig`."""

    def __repr__(self) -> str:
        return "published"


KEYWORDS = [*keywords_of(Settings), *keywords_of(TrainConfig, _Published())]
"""Of the three functions, as parameters of a signature."""


def divided(given: TrainSettings) -> tuple[Settings, dict[str, Any]]:
    """The settings, and the fields of `TrainConfig` that were given beside them, in the order of its fields."""
    of_config = [field.name for field in fields(TrainConfig)]
    choices: dict[str, Any] = {name: value for name, value in given.items() if name not in of_config}
    values: dict[str, Any] = dict(given)
    return Settings(**choices), {name: values[name] for name in of_config if name in values}
