"""What a vector is, what it does token by token, and how it was learned: each analysis one function, one labelled result.

Every result has `.to_frame()`, `.plot()` and `.summary()`. Each module loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

_HOME = {
    "SAE": "dictionaries",
    "SAEError": "dictionaries",
    "load_sae": "dictionaries",
    "residual_statistics": "features",
    "ResidualStatistics": "features",
    "compare_to_sae": "features",
    "SAEComparison": "features",
    "feature_effects": "features",
    "FeatureEffects": "features",
    "effect_recovery": "features",
    "EffectRecovery": "features",
    "token_effects": "tokens",
    "TokenEffects": "tokens",
    "position_effects": "tokens",
    "PositionEffects": "tokens",
    "drift": "tokens",
    "Drift": "tokens",
    "attention_effects": "attention",
    "AttentionEffects": "attention",
    "readout": "geometry",
    "Readout": "geometry",
    "cosine_map": "geometry",
    "CosineMap": "geometry",
    "stability": "geometry",
    "Stability": "geometry",
    "sizes": "geometry",
    "Sizes": "geometry",
    "dynamics": "dynamics",
    "Dynamics": "dynamics",
    "coordinate_check": "dynamics",
    "CoordinateCheck": "dynamics",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - made from the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steerlens.analysis' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
