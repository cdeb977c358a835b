"""What a vector is, what it does token by token, and how it was learned: each analysis one function, one labelled result.

Every result has `.to_frame()`, `.plot()` and `.summary()`. Each module loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..training.callbacks import DirectionRecorder as DirectionRecorder
    from .attention import AttentionEffects as AttentionEffects
    from .attention import attention_effects as attention_effects
    from .geometry import CosineMap as CosineMap
    from .geometry import Stability as Stability
    from .geometry import cosine_map as cosine_map
    from .geometry import stability as stability
    from .logit_lens import Readout as Readout
    from .logit_lens import readout as readout
    from .persistence import Drift as Drift
    from .persistence import drift as drift
    from .position_ablation import PositionEffects as PositionEffects
    from .position_ablation import position_effects as position_effects
    from .residual_covariance import ResidualStatistics as ResidualStatistics
    from .residual_covariance import residual_statistics as residual_statistics
    from .sae.autoencoder import SAE as SAE
    from .sae.autoencoder import SAEError as SAEError
    from .sae.comparison import SAEComparison as SAEComparison
    from .sae.comparison import compare_to_sae as compare_to_sae
    from .sae.feature_changes import FeatureEffects as FeatureEffects
    from .sae.feature_changes import feature_effects as feature_effects
    from .sae.formats import load_sae as load_sae
    from .sae.recovery import EffectRecovery as EffectRecovery
    from .sae.recovery import effect_recovery as effect_recovery
    from .tokens import TokenEffects as TokenEffects
    from .tokens import token_effects as token_effects
    from .training_dynamics import Dynamics as Dynamics
    from .training_dynamics import dynamics as dynamics
    from .vector_norms import Sizes as Sizes
    from .vector_norms import sizes as sizes
    from .width_scaling import CoordinateCheck as CoordinateCheck
    from .width_scaling import Scaling as Scaling
    from .width_scaling import coordinate_check as coordinate_check

_HOME = {
    "SAE": ".sae.autoencoder",
    "SAEError": ".sae.autoencoder",
    "load_sae": ".sae.formats",
    "residual_statistics": ".residual_covariance",
    "ResidualStatistics": ".residual_covariance",
    "compare_to_sae": ".sae.comparison",
    "SAEComparison": ".sae.comparison",
    "feature_effects": ".sae.feature_changes",
    "FeatureEffects": ".sae.feature_changes",
    "effect_recovery": ".sae.recovery",
    "EffectRecovery": ".sae.recovery",
    "token_effects": ".tokens",
    "TokenEffects": ".tokens",
    "position_effects": ".position_ablation",
    "PositionEffects": ".position_ablation",
    "drift": ".persistence",
    "Drift": ".persistence",
    "attention_effects": ".attention",
    "AttentionEffects": ".attention",
    "readout": ".logit_lens",
    "Readout": ".logit_lens",
    "cosine_map": ".geometry",
    "CosineMap": ".geometry",
    "stability": ".geometry",
    "Stability": ".geometry",
    "sizes": ".vector_norms",
    "Sizes": ".vector_norms",
    "dynamics": ".training_dynamics",
    "Dynamics": ".training_dynamics",
    "DirectionRecorder": "..training.callbacks",
    "coordinate_check": ".width_scaling",
    "CoordinateCheck": ".width_scaling",
    "Scaling": ".width_scaling",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - made from the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steerlens.analysis' has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
