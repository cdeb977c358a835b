"""Frames and results -> plotly figures and CircuitsVis views. Pure: no model, nothing is shown or written."""

from .attention import plot_attention as plot_attention
from .features import plot_decomposition as plot_decomposition
from .features import plot_effect_recovery as plot_effect_recovery
from .features import plot_feature_effects as plot_feature_effects
from .features import plot_residual_statistics as plot_residual_statistics
from .features import plot_sae_comparison as plot_sae_comparison
from .geometry import plot_cosine_map as plot_cosine_map
from .geometry import plot_readout as plot_readout
from .geometry import plot_sizes as plot_sizes
from .geometry import plot_stability as plot_stability
from .scores import plot_scan as plot_scan
from .scores import plot_scores as plot_scores
from .scores import plot_selection as plot_selection
from .style import COLORS as COLORS
from .tokens import plot_drift as plot_drift
from .tokens import plot_position_effects as plot_position_effects
from .tokens import plot_token_effects as plot_token_effects
from .tradeoffs import plot_benchmark as plot_benchmark
from .tradeoffs import plot_frontier as plot_frontier
from .tradeoffs import plot_harness as plot_harness
from .tradeoffs import plot_side_effects as plot_side_effects
from .tradeoffs import plot_suppression as plot_suppression
from .training import plot_history as plot_history
from .training import plot_trajectories as plot_trajectories
from .training import plot_updates as plot_updates
from .widths import plot_coordinate_check as plot_coordinate_check
