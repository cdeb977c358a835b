"""Scores over pairs of settings: the maps of a sweep."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..evaluation import SCORES
from ..judging import HIGHEST
from .style import SEQUENTIAL, finish, label

PER_ROW = 4
"""Maps beside one another."""
COUNTED = ("low", "high", "concepts", "seeds", "cells", "missing", "unscored")


def plot_heatmap(frame: pd.DataFrame, title: str = "Score by settings") -> go.Figure:
    """A map per combination of the frame's leading columns, all in one colour scale.

    Args:
        frame: what `Sweep.heatmap` gives: the axes of `by`, then `y`, `x`, the score, its interval and counts.

    Raises:
        ValueError: a frame without these columns.
    """
    if missing := set(COUNTED) - set(frame):
        raise ValueError(f"the frame has no column {', '.join(sorted(missing))}: give what Sweep.heatmap returns")
    *by, y, x, score = [str(name) for name in frame][: list(frame).index("low")]
    maps = list(frame.groupby(by, sort=False, dropna=False)) if by else [((), frame)]
    columns = min(len(maps), PER_ROW)
    rows = math.ceil(len(maps) / columns)
    names = [label(", ".join(f"{axis} {_said(value)}" for axis, value in zip(by, place, strict=True))) for place, _ in maps]
    figure = make_subplots(rows, columns, subplot_titles=names, horizontal_spacing=0.09, vertical_spacing=0.22 / rows)
    for number, (_, part) in enumerate(maps):
        where: dict[str, Any] = {"row": number // columns + 1, "col": number % columns + 1}
        figure.add_trace(_map(part, x, y, score), **where)
        figure.update_xaxes(title_text=label(x), type="category", showgrid=False, **where)
        figure.update_yaxes(title_text=label(y), type="category", showgrid=False, **where)
    judged = score in SCORES
    unit = f"mean {label(score)} (0 to {HIGHEST:g})" if judged else label(score)
    ends = {"cmin": 0, "cmax": HIGHEST} if judged else {}
    figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "colorbar": {"title": {"text": unit, "side": "right"}}, **ends})
    return finish(figure, title, _note(frame, judged), height=150 + 300 * rows)


def _map(part: pd.DataFrame, x: str, y: str, score: str) -> go.Heatmap:
    across, down = (list(dict.fromkeys(map(_said, part[axis]))) for axis in (x, y))
    values = np.full((len(down), len(across)), np.nan)
    texts, counts = np.full(values.shape, "", dtype=object), np.full((*values.shape, 6), np.nan, dtype=object)
    for row in part.to_dict("records"):
        place = down.index(_said(row[y])), across.index(_said(row[x]))
        values[place] = row[score]
        number = f"{row[score]:{'.2f' if score in SCORES else '.3g'}}{'*' * (row['missing'] > 0)}"
        texts[place] = "none" if math.isnan(row[score]) else number
        interval = "no interval" if math.isnan(row["low"]) else f"95 % {row['low']:.3g} to {row['high']:.3g}"
        counts[place] = [interval, *(int(row[name]) for name in COUNTED[2:])]
    hover = (
        f"{label(y)} %{{y}}, {label(x)} %{{x}}<br>{label(score)} %{{z:.3g}} (%{{customdata[0]}})<br>"
        "%{customdata[1]} concepts, %{customdata[2]} seeds, %{customdata[3]} cells<br>%{customdata[4]} cells missing, "
        "%{customdata[5]} responses unscored"
    )
    shown: dict[str, Any] = {"text": texts, "texttemplate": "%{text}", "customdata": counts, "coloraxis": "coloraxis"}
    return go.Heatmap(z=values, x=across, y=down, xgap=1, ygap=1, hovertemplate=f"{hover}<extra></extra>", **shown)


def _said(value: Any) -> str:
    """A setting as the axis shows it."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_said, value))
    if isinstance(value, float):
        return "not given" if math.isnan(value) else f"{value:.6g}"
    return "not given" if value is None else str(value)


def _note(frame: pd.DataFrame, judged: bool) -> str:
    least, most = int(frame["cells"].min()), int(frame["cells"].max())
    cells = f"{least}" if least == most else f"{least} to {most}"
    text = f"Each number is a mean over {cells} cells (seeds within concepts, then concepts); hover for its 95 % interval"
    known = (frame["high"] - frame["low"]).dropna()
    if judged and len(known):
        text += f" (median width {known.median():.2g})"
    if bool((frame["missing"] > 0).any()):
        text += ". * = cells are missing, so that the number does not compare with others"
    return f"{text}."
