"""Frames -> plotly figures. Pure: no model, nothing is shown or written."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

# Okabe and Ito's colours, told apart with any colour vision
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot")


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
    figure = make_subplots(rows=2, cols=2, subplot_titles=[panel.title for panel in HISTORY_PANELS])
    for number, (name, history) in enumerate(named.items()):
        line = {"color": COLORS[number % len(COLORS)], "dash": DASHES[number // len(COLORS) % len(DASHES)], "width": 2}
        for place, panel in enumerate(HISTORY_PANELS):
            trace = go.Scatter(
                x=history["step"],
                y=history[panel.column],
                name=name,
                legendgroup=name,
                showlegend=place == 0 and len(named) > 1,
                mode="lines",
                line=line,
                hovertemplate=f"{name}<br>step %{{x}}<br>{panel.column} %{{y:.4g}}<extra></extra>",
            )
            figure.add_trace(trace, row=place // 2 + 1, col=place % 2 + 1)
    for place, panel in enumerate(HISTORY_PANELS):
        row, column = place // 2 + 1, place % 2 + 1
        figure.update_xaxes(title_text="step", row=row, col=column)
        figure.update_yaxes(title_text=panel.unit, row=row, col=column)
    figure.update_layout(
        title=title,
        template="plotly_white",
        height=680,
        margin={"t": 90, "b": 120},
        legend={"orientation": "h", "y": -0.12},
    )
    return figure
