"""Scores over pairs of settings: the maps of a sweep."""

import html
import math
import textwrap
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..intervals import FEW
from ..scores import HIGHEST, SCORES
from .style import SEQUENTIAL, finish, label, wrapped

PER_ROW = 2
"""Maps beside one another."""
PANEL, CELL, LINE, AXIS, LETTER = 220, 34, 18, 54, 6.5
"""Pixels: the least height of a map, of its row, of a line of its title, of an axis title with its gaps; width of a letter."""
WIDTH = 420
"""Pixels that all maps of a row have at plotly's default width."""
LONGEST_TITLE = 32
"""Letters of a map's title that fit over it."""
COUNTED = ("low", "high", "concepts", "seeds", "cells", "missing", "unscored")

Names = Mapping[Hashable, str]
"""Setting -> what an axis says, in the order of the axis."""


def plot_heatmap(frame: pd.DataFrame, title: str = "Score by settings") -> go.Figure:
    """A map per combination of the frame's leading columns, all in one colour scale; maps of a row have the same axes.

    Settings that are numbers stand in their order, others in the frame's.

    Args:
        frame: what `Sweep.heatmap` gives: the axes of `by`, then `y`, `x`, the score, its interval and counts.

    Raises:
        ValueError: a frame without these columns.
    """
    if missing := set(COUNTED) - set(frame):
        raise ValueError(f"the frame has no column {', '.join(sorted(missing))}: give what Sweep.heatmap returns")
    *by, y, x, score = [str(name) for name in frame][: list(frame).index("low")]
    names = {axis: _names(frame[axis]) for axis in (*by, y, x)}
    maps = _maps(frame, by, names)
    heads = _heads([[f"{axis} {names[axis][value]}" for axis, value in zip(by, values, strict=True)] for values, _ in maps])
    columns = min(len(maps), PER_ROW)
    rows = math.ceil(len(maps) / columns)
    angle, below = _room(list(names[x].values()), WIDTH / columns)
    above = 14 + LINE * max(head.count("<br>") + 1 for head in heads) if by else 0
    panel = max(PANEL, CELL * len(names[y]))
    area = rows * panel + (rows - 1) * (above + below)
    gap = (above + below) / area
    figure = make_subplots(
        rows, columns, subplot_titles=heads, shared_yaxes=True, vertical_spacing=gap, horizontal_spacing=0.05
    )
    for number, (_, part) in enumerate(maps):
        where: dict[str, Any] = {"row": number // columns + 1, "col": number % columns + 1}
        first = number - number % columns
        row = pd.concat([other for _, other in maps[first : first + columns]])
        across, down = (_of(names[axis], row[axis]) for axis in (x, y))
        figure.add_trace(_map(part, (x, y, score), across, down), **where)
        figure.update_xaxes(title_text=label(x), tickangle=angle, **_order(across), **where)
        figure.update_yaxes(title_text=label(y) if where["col"] == 1 else None, **_order(down), **where)
    figure.update_annotations(font_size=13)
    judged = score in SCORES
    unit = f"mean {label(score)} (0 to {HIGHEST:g})" if judged else label(score)
    ends = {"cmin": 0, "cmax": HIGHEST} if judged else {}
    bar = {"title": {"text": unit, "side": "right"}, "lenmode": "pixels", "len": panel, "y": 1, "yanchor": "top"}
    figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "colorbar": bar, **ends})
    layout: Any = finish(figure, title, _note(frame, judged)).layout
    top = layout.margin.t + above
    return figure.update_layout(height=area + top + below, margin={"t": top, "b": below})


def _maps(frame: pd.DataFrame, by: Sequence[str], names: Mapping[str, Names]) -> list[tuple[list[Hashable], pd.DataFrame]]:
    """The settings of each map and its rows, in the order of the settings."""
    if not by:
        return [([], frame)]
    groups = frame.groupby(list(by), sort=False, dropna=False)
    found = [([_plain(value) for value in values], part) for values, part in groups]
    orders = [list(names[axis]) for axis in by]
    return sorted(found, key=lambda item: [order.index(value) for order, value in zip(orders, item[0], strict=True)])


def _heads(maps: Sequence[Sequence[str]]) -> list[str]:
    """The settings of each map over it, one per line in all maps where one map's are too long for one line."""
    plain = [[html.unescape(part.replace("<br>", " ")) for part in parts] for parts in maps]
    titles = [", ".join(parts) for parts in plain]
    if max(map(len, titles)) <= LONGEST_TITLE:
        return [html.escape(title, quote=False) for title in titles]
    heads = [[line for part in parts for line in textwrap.wrap(part, LONGEST_TITLE)] for parts in plain]
    return ["<br>".join(html.escape(line, quote=False) for line in lines) for lines in heads]


def _room(names: Sequence[str], width: int | float) -> tuple[int, int | float]:
    """Angle of the names under a map, and the pixels that they and the axis title take."""
    listed = [html.unescape(name).split("<br>") for name in names]
    longest = LETTER * max(len(line) for lines in listed for line in lines)
    if (longest + 8) * len(names) <= width:
        return 0, AXIS + 15 * max(map(len, listed))
    return -45, AXIS + 0.75 * (longest + 15 * max(map(len, listed)))


def _of(names: Names, column: pd.Series) -> Names:
    """The settings that a column has."""
    there = set(map(_plain, column))
    return {value: name for value, name in names.items() if value in there}


def _order(names: Names) -> dict[str, Any]:
    order = {"type": "category", "categoryorder": "array", "categoryarray": list(names.values())}
    return {"showgrid": False, "zeroline": False, **order}


def _map(part: pd.DataFrame, columns: tuple[str, str, str], across: Names, down: Names) -> go.Heatmap:
    x, y, score = columns
    values = np.full((len(down), len(across)), np.nan)
    texts, counts = np.full(values.shape, "", dtype=object), np.full((*values.shape, 6), np.nan, dtype=object)
    for row in part.to_dict("records"):
        cell = list(down).index(_plain(row[y])), list(across).index(_plain(row[x]))
        values[cell] = row[score]
        number = f"{row[score]:{'.2f' if score in SCORES else '.3g'}}{'*' * (row['missing'] > 0)}"
        texts[cell] = "none" if math.isnan(row[score]) else number
        counts[cell] = [_sure(row), *(int(row[name]) for name in COUNTED[2:])]
    hover = (
        f"{label(y)} %{{y}}, {label(x)} %{{x}}<br>{label(score)} %{{z:.3g}} (%{{customdata[0]}})<br>"
        "%{customdata[1]} concepts, %{customdata[2]} seeds, %{customdata[3]} cells<br>%{customdata[4]} cells missing, "
        "%{customdata[5]} responses unscored"
    )
    shown: dict[str, Any] = {"text": texts, "texttemplate": "%{text}", "customdata": counts, "coloraxis": "coloraxis"}
    ends = {"x": list(across.values()), "y": list(down.values())}
    return go.Heatmap(z=values, xgap=1, ygap=1, hoverongaps=False, hovertemplate=f"{hover}<extra></extra>", **ends, **shown)


def _sure(row: Mapping[Hashable, Any]) -> str:
    """The interval; of few units it is only the range of their means, and is not called more."""
    if math.isnan(row["low"]):
        return "no interval"
    kind = "concepts" if row["concepts"] > 1 else "seeds"
    between = f"{row['low']:.3g} to {row['high']:.3g}"
    return f"95 % {between}" if row[kind] >= FEW else f"range {between} of {int(row[kind])} {kind}"


# --- settings ---------------------------------------------------------------------------------------------------------


def _names(column: pd.Series) -> Names:
    """What the axis says of each setting: as short as tells them apart, and as plotly shows it literally."""
    values = list(dict.fromkeys(map(_plain, column)))
    if all(value is None or (isinstance(value, Real) and not isinstance(value, bool)) for value in values):
        values.sort(key=lambda value: float(value) if isinstance(value, Real) else math.inf)
    short = [wrapped(_said(value)) for value in values]
    exact = [html.escape(repr(value), quote=False) for value in values]
    return {
        value: name if name and short.count(name) == 1 else full for value, name, full in zip(values, short, exact, strict=True)
    }


def _plain(value: Any) -> Hashable:
    """A setting as Python has it; one that is not given is None, whatever pandas made of it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_plain, value))
    return None if isinstance(value, float) and math.isnan(value) else value


def _said(value: Any) -> str:
    """A setting in a few letters."""
    if isinstance(value, tuple):
        return ", ".join(map(_said, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "not given" if value is None else str(value)


# --- what to read -----------------------------------------------------------------------------------------------------


def _note(frame: pd.DataFrame, judged: bool) -> str:
    least, most = int(frame["cells"].min()), int(frame["cells"].max())
    text = f"Each number is a mean over {_span(least, most)} cells (seeds within concepts, then concepts); "
    text += _hover(frame, judged)
    if bool((frame["missing"] > 0).any()):
        text += ". * = cells are missing, so that the number does not compare with others"
    return f"{text}."


def _hover(frame: pd.DataFrame, judged: bool) -> str:
    """What a reader learns of how sure the numbers are."""
    known = frame[frame["low"].notna()]
    if known.empty:
        return "hover for what it is made of (no intervals: one concept and one seed)"
    many = known["concepts"] > 1
    kind = "concepts or seeds"
    if many.all():
        kind = "concepts"
    elif not many.any():
        kind = "seeds"
    units = known["concepts"].where(many, known["seeds"])
    intervals = known[units >= FEW]
    if intervals.empty:
        return f"hover for the range over its {kind} ({_span(int(units.min()), int(units.max()))}: too few for an interval)"
    median = (intervals["high"] - intervals["low"]).median()
    width = f" (median width {median:.2g})" if judged else ""
    few = f", or the range where there are fewer than {FEW} {kind}" if len(intervals) < len(known) else ""
    return f"hover for its 95 % interval{width}{few}"


def _span(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"
