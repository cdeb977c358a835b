"""What a vector is, what it does token by token, and how it was learned: each analysis one function, one labelled result.

Every result has `.to_frame()`, `.plot()` and `.summary()`. Each module loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import AttentionEffects as AttentionEffects
    from .attention import attention_effects as attention_effects
    from .comparison import SAEComparison as SAEComparison
    from .comparison import compare_to_sae as compare_to_sae
    from .decoding import Drift as Drift
    from .decoding import drift as drift
    from .dictionaries import load_sae as load_sae
    from .features import FeatureEffects as FeatureEffects
    from .features import feature_effects as feature_effects
    from .geometry import CosineMap as CosineMap
    from .geometry import Stability as Stability
    from .geometry import cosine_map as cosine_map
    from .geometry import stability as stability
    from .histories import DirectionRecorder as DirectionRecorder
    from .histories import Dynamics as Dynamics
    from .histories import dynamics as dynamics
    from .leaving_out import PositionEffects as PositionEffects
    from .leaving_out import position_effects as position_effects
    from .norms import Sizes as Sizes
    from .norms import sizes as sizes
    from .recovery import EffectRecovery as EffectRecovery
    from .recovery import effect_recovery as effect_recovery
    from .residuals import ResidualStatistics as ResidualStatistics
    from .residuals import residual_statistics as residual_statistics
    from .sae import SAE as SAE
    from .sae import SAEError as SAEError
    from .tokens import TokenEffects as TokenEffects
    from .tokens import token_effects as token_effects
    from .vocabulary import Readout as Readout
    from .vocabulary import readout as readout
    from .widths import CoordinateCheck as CoordinateCheck
    from .widths import Scaling as Scaling
    from .widths import coordinate_check as coordinate_check

_HOME = {
    "SAE": "sae",
    "SAEError": "sae",
    "load_sae": "dictionaries",
    "residual_statistics": "residuals",
    "ResidualStatistics": "residuals",
    "compare_to_sae": "comparison",
    "SAEComparison": "comparison",
    "feature_effects": "features",
    "FeatureEffects": "features",
    "effect_recovery": "recovery",
    "EffectRecovery": "recovery",
    "token_effects": "tokens",
    "TokenEffects": "tokens",
    "position_effects": "leaving_out",
    "PositionEffects": "leaving_out",
    "drift": "decoding",
    "Drift": "decoding",
    "attention_effects": "attention",
    "AttentionEffects": "attention",
    "readout": "vocabulary",
    "Readout": "vocabulary",
    "cosine_map": "geometry",
    "CosineMap": "geometry",
    "stability": "geometry",
    "Stability": "geometry",
    "sizes": "norms",
    "Sizes": "norms",
    "dynamics": "histories",
    "Dynamics": "histories",
    "DirectionRecorder": "histories",
    "coordinate_check": "widths",
    "CoordinateCheck": "widths",
    "Scaling": "widths",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - made from the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steerlens.analysis' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
