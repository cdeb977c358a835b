"""What is edited, and what a vector is read from: sizes per token and per layer."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .style import LEGEND_BELOW, curve, finish, line_look
from .tokens import shown

MOST_NAMED = 12
"""Curves that a legend still names."""
LONGEST_AXIS = 60
"""Edited tokens whose names still fit under the axis."""


def plot_edits(frame: pd.DataFrame, title: str = "How large the edit of each token was") -> go.Figure:
    """A marker per edited token, at its index, in units of the token's own norm; a colour per prompt and layer.

    Args:
        frame: of `Audit.to_frame`: row, index, token, phase, layer, edit_norm, relative.
    """
    figure = go.Figure()
    groups = list(frame.groupby(["row", "layer"], sort=False))
    for number, (key, edits) in enumerate(groups):
        row, layer = key if isinstance(key, tuple) else (key, None)
        texts = np.array([[shown(token), phase] for token, phase in zip(edits["token"], edits["phase"], strict=True)])
        details = np.column_stack([texts, edits["edit_norm"].map("{:.4g}".format)])
        hover = "token %{x}, %{customdata[0]} (%{customdata[1]})<br>size %{y:.4g}, norm %{customdata[2]}"
        marker = {"size": 9, "color": line_look(number)["color"]}
        sizes = edits["relative"].replace(np.inf, np.nan)
        settings = {"mode": "markers", "marker": marker, "customdata": details, "showlegend": 1 < len(groups) <= MOST_NAMED}
        figure.add_trace(curve(f"prompt {row}, layer {layer}", edits["index"], sizes, hover, **settings))
    figure.update_xaxes(title_text="index of the token in its row")
    if frame["row"].nunique() == 1 and frame["index"].nunique() <= LONGEST_AXIS:
        named = frame.drop_duplicates("index")
        figure.update_xaxes(
            tickvals=named["index"],
            ticktext=[shown(token) for token in named["token"]],
            tickangle=-90,
            title_text="edited token (· space, ↵ line end)",
        )
    figure.update_yaxes(title_text="norm of the edit / norm of the residual stream", rangemode="tozero")
    note = "The norm of what was added at each edited token, divided by the norm of the residual stream that it was added to."
    if frame.empty:
        note = "No token was edited."
    return finish(figure, title, note, legend=LEGEND_BELOW)


def plot_class_means(frame: pd.DataFrame, title: str = "How far apart the class means are") -> go.Figure:
    """The distance of the two class means at each layer that was read, relative to their own norm.

    Args:
        frame: of `Activations.to_frame`: layer, relative_difference, difference_norm.
    """
    ordered = frame.sort_values("layer")
    hover = "after block %{x}<br>%{y:.4g} of the negatives' norm<br>%{customdata:.4g} in residual-stream units"
    settings = {"customdata": ordered["difference_norm"], "line": line_look(0)}
    figure = go.Figure(curve("class means", ordered["layer"], ordered["relative_difference"], hover, **settings))
    figure.update_xaxes(title_text="layer (its output)", tickformat="d")
    figure.update_yaxes(title_text="norm of the difference / norm of the negatives' mean", rangemode="tozero")
    note = (
        "Mean over the tokens of the texts with the concept less that of the texts without: the direction of "
        "difference in means. Far apart is not yet good to steer with: judge the text."
    )
    return finish(figure, title, note)
