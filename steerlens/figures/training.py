"""Curves of training: what a history holds, step by step."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import COLORS, GREY, LEGEND_BELOW, SEQUENTIAL, curve, finish, label, line_look


class Panel(NamedTuple):
    """One curve plot: a column of the history and how it reads."""

    column: str
    title: str
    unit: str


HISTORY_PANELS = (
    Panel("loss", "Loss of each batch", "loss"),
    Panel("factor", "Factor (alpha)", "factor"),
    Panel("vector_norm", "Norm of factor x direction", "residual-stream units"),
    Panel("cos_init", "Cosine of the direction to its start", "cosine"),
)
UPDATE_PANELS = (
    Panel("delta1", "delta1: the factor's move", "RMS per coordinate"),
    Panel("delta2", "delta2: the direction's move", "RMS per coordinate"),
    Panel("delta3", "delta3: both together", "RMS per coordinate"),
)
UPDATES_NOTE = (
    "Root mean square per coordinate of the three parts of each step's update, in residual-stream units, on a log axis. Where "
    "one line runs far above the others, that part alone trains the vector. All sink at the end: the learning rates go to 0."
)
UNITS = {"lang": "nats per token"}
"""Of the losses that have one."""


def loss_title(histories: Iterable[pd.DataFrame]) -> str:
    """What the axis of the loss says, as far as the histories know their objectives."""
    names = {history.attrs.get("objective") for history in histories}
    if len(names) > 1:
        return "loss (objectives differ: do not compare)"
    name = names.pop() if names else None
    return "loss" if name is None else f"loss ({label(name)}: {UNITS.get(name, 'mean over examples')})"


def plot_history(
    histories: pd.DataFrame | Mapping[str, pd.DataFrame], title: str = "How the vectors were trained"
) -> go.Figure:
    """Loss, factor, norm and turning of the direction, step by step, for one vector or several by name.

    Histories with a column `cos_end` (see `analysis.dynamics`) show it as thin lines beside the cosine to the start.
    """
    named = {"vector": histories} if isinstance(histories, pd.DataFrame) else dict(histories)
    ended = any("cos_end" in history and history["cos_end"].notna().any() for history in named.values())
    panels = [
        *HISTORY_PANELS[:3],
        HISTORY_PANELS[3]._replace(title=f"Cosine of the direction to its start{' and end' * ended}"),
    ]
    figure = make_subplots(rows=2, cols=2, subplot_titles=[panel.title for panel in panels], horizontal_spacing=0.15)
    for index, panel in enumerate(panels):
        row, column = index // 2 + 1, index % 2 + 1
        for number, (name, history) in enumerate(named.items()):
            shown = {"mode": "lines", "legendgroup": name, "showlegend": index == 0 and len(named) > 1}
            hover = f"step %{{x}}<br>{panel.column} %{{y:.4g}}"
            trace = curve(name, history["step"], history[panel.column], hover, line=line_look(number), **shown)
            figure.add_trace(trace, row=row, col=column)
        figure.update_xaxes(title_text="step", row=row, col=column)
        unit = loss_title(named.values()) if panel.column == "loss" else panel.unit
        figure.update_yaxes(title_text=unit, row=row, col=column)
    if ended:
        figure.add_traces(list(_to_end(named)), rows=2, cols=2)
    note = "The loss is that of each step's batch and jumps with it; a low loss is not yet a strong concept."
    note += " Last panel: thick lines to the direction's start, thin ones to its end." * ended
    return finish(figure, title, note, height=680, legend=LEGEND_BELOW)


def _to_end(named: Mapping[str, pd.DataFrame]) -> Iterable[go.Scatter]:
    """Cosines to the last direction."""
    for number, (name, history) in enumerate(named.items()):
        if "cos_end" in history:
            shown = {"mode": "lines", "legendgroup": name, "showlegend": False, "line": {**line_look(number), "width": 1}}
            yield curve(name, history["step"], history["cos_end"], "step %{x}<br>cos_end %{y:.4g}", **shown)


def plot_updates(
    histories: pd.DataFrame | Mapping[str, pd.DataFrame], title: str = "Which part of the updates moves the vector"
) -> go.Figure:
    """Sizes of the three parts of each step's update on log axes: together for one vector, side by side for several."""
    named = {"vector": histories} if isinstance(histories, pd.DataFrame) else dict(histories)
    alone = len(named) == 1
    heads = [] if alone else [panel.title for panel in UPDATE_PANELS]
    figure = make_subplots(rows=1, cols=1 if alone else 3, shared_yaxes=True, subplot_titles=heads, horizontal_spacing=0.03)
    for index, panel in enumerate(UPDATE_PANELS):
        for number, (name, history) in enumerate(named.items()):
            positive = history[panel.column].where(history[panel.column] > 0)  # zero has no place on a log axis
            look = line_look(index if alone else number)
            shown = {"mode": "lines", "legendgroup": panel.title if alone else name, "showlegend": alone or index == 0}
            hover = f"step %{{x}}<br>{panel.column} %{{y:.3g}}"
            trace = curve(panel.title if alone else name, history["step"], positive, hover, line=look, **shown)
            figure.add_trace(trace, row=1, col=1 if alone else index + 1)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_yaxes(title_text=UPDATE_PANELS[0].unit, row=1, col=1)
    return finish(figure, title, UPDATES_NOTE, height=480 if alone else 520, legend=LEGEND_BELOW)


def plot_trajectories(histories: Mapping[str, pd.DataFrame], title: str = "How factor and direction moved") -> go.Figure:
    """Phase portrait of training: the factor against the norm of the direction.

    One history is coloured by the loss, where it has one; of several each has its colour.
    """
    figure = go.Figure()
    by_loss = len(histories) == 1 and all("loss" in history for history in histories.values())
    for number, (name, history) in enumerate(histories.items()):
        hover = "step %{customdata}<br>factor %{x:.4g}<br>norm of the direction %{y:.4g}"
        look = _by_loss(history) if by_loss else _by_name(number, len(history))
        settings = {"customdata": history["step"], "showlegend": not by_loss, **look}
        hover += "<br>loss of the step's batch %{marker.color:.4g}" * by_loss
        figure.add_trace(curve(name, history["factor"], history["direction_norm"], hover, **settings))
    figure.update_xaxes(title_text="factor (alpha, a number)")
    figure.update_yaxes(title_text="norm of the direction (residual-stream units)")
    note = "Open circle: after the first step. Filled circle: after the last."
    if by_loss:
        note = "Open circle: after the first step. Large filled circle: after the last. The norm of the vector is the product."
    return finish(figure, title, note, height=560, legend=LEGEND_BELOW)


def _by_name(number: int, n: int) -> dict[str, Any]:
    line, between = line_look(number), [0] * (n - 2)
    fills = ["white", *[line["color"]] * (n - 1)]
    marker = {"size": [11, *between, 11], "color": fills, "line": {"color": line["color"], "width": 2}, "opacity": 1}
    return {"line": line, "marker": marker}


def _by_loss(history: pd.DataFrame) -> dict[str, Any]:
    """A thin grey path, and a marker for each step in the colour of its loss."""
    between = max(len(history) - 2, 0)
    bar = {"title": {"text": loss_title([history]), "side": "right"}}
    marker = {
        "size": [14, *[6] * between, 14][: len(history)],
        "symbol": ["circle-open", *["circle"] * (between + 1)][: len(history)],
        "color": history["loss"],
        "colorscale": SEQUENTIAL,
        "colorbar": bar,
        "line": {"width": [3, *[0] * between, 1][: len(history)], "color": COLORS[6]},
        "opacity": 1,
    }
    return {"line": {"color": GREY, "width": 1}, "marker": marker}
