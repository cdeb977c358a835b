"""What every figure shares: colours told apart with any colour vision, lines, names, title and note."""

import html
import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go

# Okabe and Ito's colours, told apart with any colour vision
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot")
GREY = "#767676"
DIVERGING = "RdBu_r"
"""Of signed numbers, zero in the middle: blue negative, red positive (plotly's name)."""
SEQUENTIAL = "Cividis"
"""Of numbers from zero up."""
LEGEND_BELOW = {"orientation": "h", "yref": "container", "y": 0.015, "yanchor": "bottom"}
LONGEST_NAME, LONGEST_LINE = 40, 115


def curve(name: str, x: Any, y: Any, hover: str, **settings: Any) -> go.Scatter:
    """A named line with markers that says its name and `hover` under the pointer."""
    shown = {"mode": "lines+markers", "hovertemplate": f"{label(name)}<br>{hover}<extra></extra>"}
    return go.Scatter(x=x, y=y, name=label(name), **shown | settings)


def label(name: Any) -> str:
    """A name as plotly shows it literally, cut where it would fill the figure."""
    return html.escape(shortened(name), quote=False)


def shortened(name: Any) -> str:
    """A name cut where it would fill the figure, for a note, which `finish` escapes."""
    text = str(name)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def wrapped(name: str) -> str:
    """A name in full, on several lines if it is long."""
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(name, LONGEST_NAME))


def line_look(number: int) -> dict[str, Any]:
    """The look of the n-th of many lines: another colour each, then another dash."""
    return {"color": COLORS[number % len(COLORS)], "dash": DASHES[number // len(COLORS) % len(DASHES)], "width": 2}


def mark(figure: go.Figure, x: int | float, text: str) -> None:
    """A vertical line through all panels, named above them."""
    figure.update_xaxes(showgrid=False, zeroline=False)  # grid lines would be drawn over it
    figure.add_vline(x=x, line={"color": GREY, "dash": "dot", "width": 1.5}, layer="below")
    figure.add_annotation(x=x, y=1, yref="paper", yanchor="bottom", text=text, showarrow=False)


def finish(figure: go.Figure, title: str, note: str = "", height: int = 480, **layout: Any) -> go.Figure:
    """Title, a note under it, and room for both. The title is plotly's HTML; the note is plain text, shown as it is written."""
    lines = [html.escape(line, quote=False) for line in textwrap.wrap(note, LONGEST_LINE)]
    head = {"text": title, "subtitle": {"text": "<br>".join(lines)}, "y": 1, "yanchor": "top", "pad": {"t": 16}}
    figure.update_layout(template="plotly_white", height=height, margin={"t": 80 + 18 * len(lines), "r": 20}, title=head)
    return figure.update_layout(**layout)


def signed_map(values: Any, x: Any, y: Any, unit: str, hover: str, **settings: Any) -> go.Heatmap:
    """A map of signed numbers: blue below zero, white at zero, red above, the same distance to either end."""
    numbers = np.asarray(values, dtype=float)
    limit = float(np.nanmax(np.abs(numbers), initial=0.0)) or 1.0
    bar = {"title": {"text": unit, "side": "right"}}
    shown = {
        "colorscale": DIVERGING,
        "zmin": -limit,
        "zmax": limit,
        "colorbar": bar,
        "hovertemplate": f"{hover}<extra></extra>",
    }
    return go.Heatmap(z=numbers, x=x, y=y, **shown | settings)
