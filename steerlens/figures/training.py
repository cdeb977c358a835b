"""Curves of training: what a history holds, step by step."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import LEGEND_BELOW, curve, finish, line_look


class Panel(NamedTuple):
    """One curve plot: a column of the history and how it reads."""

    column: str
    title: str
    unit: str


HISTORY_PANELS = (
    Panel("loss", "Loss of each batch", "loss (lang: nats per token)"),
    Panel("factor", "Factor (alpha)", "factor"),
    Panel("vector_norm", "Norm of factor x direction", "residual-stream units"),
    Panel("cos_init", "Cosine of the direction to its start", "cosine"),
)


def plot_history(
    histories: pd.DataFrame | Mapping[str, pd.DataFrame], title: str = "How the vectors were trained"
) -> go.Figure:
    """Loss, factor, norm and turning of the direction, step by step, for one vector or several by name."""
    named = {"vector": histories} if isinstance(histories, pd.DataFrame) else dict(histories)
    figure = make_subplots(rows=2, cols=2, subplot_titles=[panel.title for panel in HISTORY_PANELS], horizontal_spacing=0.15)
    for place, panel in enumerate(HISTORY_PANELS):
        row, column = place // 2 + 1, place % 2 + 1
        for number, (name, history) in enumerate(named.items()):
            shown = {"mode": "lines", "legendgroup": name, "showlegend": place == 0 and len(named) > 1}
            hover = f"step %{{x}}<br>{panel.column} %{{y:.4g}}"
            trace = curve(name, history["step"], history[panel.column], hover, line=line_look(number), **shown)
            figure.add_trace(trace, row=row, col=column)
        figure.update_xaxes(title_text="step", row=row, col=column)
        figure.update_yaxes(title_text=panel.unit, row=row, col=column)
    return finish(figure, title, height=680, legend=LEGEND_BELOW)


def plot_trajectories(histories: Mapping[str, pd.DataFrame], title: str = "How factor and direction moved") -> go.Figure:
    """Phase portrait of training: the factor against the norm of the direction, one line per history."""
    figure = go.Figure()
    for number, (name, history) in enumerate(histories.items()):
        line, between = line_look(number), [0] * (len(history) - 2)
        fills = ["white", *[line["color"]] * (len(history) - 1)]
        marker = {"size": [11, *between, 11], "color": fills, "line": {"color": line["color"], "width": 2}, "opacity": 1}
        hover = "step %{customdata}<br>factor %{x:.4g}<br>norm of the direction %{y:.4g}"
        settings = {"line": line, "marker": marker, "customdata": history["step"], "showlegend": True}
        figure.add_trace(curve(name, history["factor"], history["direction_norm"], hover, **settings))
    figure.update_xaxes(title_text="factor (alpha, a number)")
    figure.update_yaxes(title_text="norm of the direction (residual-stream units)")
    note = "Open circle: after the first step. Filled circle: after the last."
    return finish(figure, title, note, height=560, legend=LEGEND_BELOW)
