"""Coordinate checks: how sizes go with the width of the model."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import COLORS, DASHES, LEGEND_BELOW, finish, label

NAMES = {
    "delta1": "delta1: the factor's move",
    "delta2": "delta2: the direction's move",
    "delta3": "delta3: both together",
    "feature": "feature: factor x direction",
}
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross", "star", "triangle-down")
PANEL, LINE = 250, 17
"""Pixels: height of a panel, and of a line of text over it."""
NOTE = (
    "Root mean square over coordinates and steps, in residual-stream units. A flat line: what was tuned at one width holds at "
    "the others. Over each panel the slopes with 95 % intervals; a marker is one seed. Height is another matter: flat lines "
    "may be too low or too high."
)


def plot_coordinate_check(
    sizes: pd.DataFrame, slopes: pd.DataFrame, title: str = "Do updates keep their size as models grow?"
) -> go.Figure:
    """Size against width, both on log axes with equal decades: a panel per quantity, a line per setting.

    Args:
        sizes, slopes: as `CoordinateCheck.sizes()` and `.slopes()` give them.
    """
    quantities, settings = list(sizes["quantity"].unique()), list(sizes["setting"].unique())
    rows = math.ceil(len(quantities) / 2)
    heads = [
        f"{NAMES.get(name, label(name))}<br>{_slopes(slopes[slopes['quantity'] == name], settings)}" for name in quantities
    ]
    gap, area = 70 + LINE * len(settings), rows * PANEL  # pixels: the lines over each panel stand in the gap
    area += (rows - 1) * gap
    figure = make_subplots(rows=rows, cols=2, subplot_titles=heads, vertical_spacing=gap / area, horizontal_spacing=0.12)
    for index, quantity in enumerate(quantities):
        row, column = index // 2 + 1, index % 2 + 1
        for number, setting in enumerate(settings):
            part = sizes[(sizes["quantity"] == quantity) & (sizes["setting"] == setting)].sort_values("width")
            figure.add_traces(_traces(part, setting, number, first=index == 0), rows=row, cols=column)
        widths = sorted(sizes["width"].unique())
        figure.update_xaxes(type="log", tickvals=widths, title_text="width (d_model)", row=row, col=column)
        low, high = _range(sizes, quantity)
        shown = {"type": "log", "range": [low, high], "tickvals": _ticks(low, high), "tickformat": "~g"}
        figure.update_yaxes(title_text="RMS per coordinate", row=row, col=column, **shown)
    figure.update_annotations(font_size=12)
    figure.update_xaxes(title_standoff=8)
    layout: Any = finish(figure, title, NOTE, legend=LEGEND_BELOW).layout
    above, below = layout.margin.t + LINE * (1 + len(settings)), 110
    return figure.update_layout(height=area + above + below, margin={"t": above, "b": below})


def _slopes(slopes: pd.DataFrame, settings: list[str]) -> str:
    """A line per setting, in its colour."""
    by_setting = slopes.set_index("setting")
    lines = []
    for number, setting in enumerate(settings):
        row: Any = by_setting.loc[setting]
        text = "no slope (a size is 0)"
        if not math.isnan(row["slope"]):
            text = f"{row['slope']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        lines.append(f'<span style="color:{COLORS[number % len(COLORS)]}">{label(setting)}: {text}</span>')
    return "<br>".join(lines)


def _range(sizes: pd.DataFrame, quantity: str) -> list[float]:
    """Every panel spans as many decades as the one that needs most, so that equal slopes look equal."""
    positive = sizes[sizes["size"] > 0]
    ends = positive.groupby("quantity")["size"].agg(["min", "max"]).map(math.log10)
    span = 1.15 * float((ends["max"] - ends["min"]).max()) + 0.1
    own: Any = ends.loc[quantity] if quantity in ends.index else [0.0, 0.0]
    middle = sum(own) / 2
    return [middle - span / 2, middle + span / 2]


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade, in full: plotly's own short form would write 0.05 as 5."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    leading = (1, 2, 5) if high - low < 2 else (1,)
    return [float(f"{digit}e{decade}") for decade in decades for digit in leading]


def _traces(part: pd.DataFrame, setting: str, number: int, first: bool) -> list[go.Scatter]:
    """The seeds as markers, and a line through their geometric means."""
    color, symbol = COLORS[number % len(COLORS)], SYMBOLS[number % len(SYMBOLS)]
    shown = part[part["size"] > 0]  # nothing else has a place on a log axis
    seeds = go.Scatter(
        x=shown["width"],
        y=shown["size"],
        mode="markers",
        marker={"color": color, "symbol": symbol, "size": 6, "opacity": 0.6},
        customdata=shown["seed"],
        name=label(setting),
        legendgroup=setting,
        showlegend=False,
        hovertemplate=f"{label(setting)}<br>width %{{x}}, seed %{{customdata}}<br>%{{y:.3g}}<extra></extra>",
    )
    means = shown.assign(log=shown["size"].map(math.log)).groupby("width")["log"].mean().map(math.exp)
    line = go.Scatter(
        x=means.index,
        y=means,
        mode="lines",
        line={"color": color, "dash": DASHES[number % len(DASHES)], "width": 2},
        name=label(setting),
        legendgroup=setting,
        showlegend=first,
        hovertemplate=f"{label(setting)}<br>width %{{x}}, mean of the seeds<br>%{{y:.3g}}<extra></extra>",
    )
    return [line, seeds]
