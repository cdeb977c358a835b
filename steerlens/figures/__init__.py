"""Frames and results -> plotly figures and CircuitsVis views. Pure: no model, nothing is shown or written."""

from .scores import plot_scan as plot_scan
from .scores import plot_scores as plot_scores
from .scores import plot_selection as plot_selection
from .tradeoffs import plot_benchmark as plot_benchmark
from .tradeoffs import plot_frontier as plot_frontier
from .tradeoffs import plot_harness as plot_harness
from .tradeoffs import plot_side_effects as plot_side_effects
from .tradeoffs import plot_suppression as plot_suppression
from .training import plot_history as plot_history
from .training import plot_trajectories as plot_trajectories
