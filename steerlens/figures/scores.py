"""Judged scores: by layer, by factor, by method."""

import math
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..scores import HIGHEST, RATINGS
from .style import COLORS, GREY, LEGEND_BELOW, curve, finish, label, line_look, mark, wrapped
from .training import loss_title

SCORE_RANGE = (-0.06, HIGHEST + 0.06)


class Look(NamedTuple):
    """How a score is drawn, the same in every figure."""

    color: str
    dash: str
    symbol: str


LOOKS = {
    "overall": Look(COLORS[6], "solid", "circle"),
    "concept": Look(COLORS[0], "solid", "diamond"),
    "instruct": Look(COLORS[1], "dash", "square"),
    "fluency": Look(COLORS[2], "dot", "triangle-up"),
}


def plot_scan(frame: pd.DataFrame, best: int, summary: str = "", title: str = "One vector per layer") -> go.Figure:
    """Held-out loss of each layer's vector, and below it, if judged, the scores with the interval of the overall one.

    Args:
        frame: one row per layer, as `LayerScan.frame`; its `attrs["objective"]` says which loss it is.
        best: the layer to mark.
        summary: the result in a sentence.
    """
    table = frame.sort_values("layer").astype(float)
    judged = "overall" in table and bool(table["overall"].notna().any())
    figure = make_subplots(rows=1 + judged, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    layers, loss, unsteered = table["layer"], table["held_out_loss"], [table["unsteered_loss"].iloc[0]] * 2
    ends = float(layers.min()) - 0.5, float(layers.max()) + 0.5
    dashed = {"color": GREY, "dash": "dash", "width": 2}
    traces = [
        curve("held-out loss", layers, loss, "layer %{x}<br>%{y:.4g}", line=line_look(0)),
        curve("unsteered loss", ends, unsteered, "%{y:.4g}", line=dashed, mode="lines"),
    ]
    figure.add_traces(traces, rows=1, cols=1)
    figure.update_yaxes(title_text=loss_title([frame]), row=1)
    if judged:
        figure.add_traces(_score_curves(layers, table, "layer"), rows=2, cols=1)
        figure.update_yaxes(title_text="mean score (0 to 2)", range=SCORE_RANGE, row=2)
    figure.update_xaxes(range=ends, dtick=math.ceil((ends[1] - ends[0]) / 27))
    figure.update_xaxes(title_text="layer (0-based block whose output is edited)", row=1 + judged)
    mark(figure, best, f"best: layer {best}")
    return finish(figure, title, summary, height=720 if judged else 480)


def plot_selection(means: pd.DataFrame, chosen: pd.DataFrame, title: str = "Scores by factor") -> go.Figure:
    """Mean scores of one concept's factors with the chosen one, or the overall score of several concepts' factors.

    Args:
        means: one row per concept and factor: concept, factor, overall (0 to 2), and for a single concept the ratings.
        chosen: one row per concept: concept, factor, oracle, fair (0 to 2, NaN if there is none), n, unscored (responses).
    """
    alone = len(chosen) == 1
    figure = go.Figure()
    figure.update_xaxes(title_text="factor (alpha, a number)")
    figure.update_yaxes(title_text=f"mean {'score' if alone else 'overall score'} (0 to 2)", range=SCORE_RANGE)
    if alone:
        table, row = means.drop(columns="concept").sort_values("factor"), chosen.iloc[0]
        figure.add_traces(_score_curves(table["factor"], table, "factor"))
        mark(figure, row["factor"], f"chosen: {row['factor']:.4g}")
        note = f"{_worth(chosen)} {row['unscored']} of {row['n']} responses unscored."
        return finish(figure, f"{title}: {label(row['concept'])}", note)
    hover = "factor %{x:.4g}<br>overall %{y:.2f}"
    for number, concept in enumerate(chosen["concept"]):
        table = means[means["concept"] == concept].sort_values("factor")
        look = {"line": line_look(number), "marker": {"size": 5}}
        figure.add_trace(curve(concept, table["factor"], table["overall"], hover, **look))
    ring = {"symbol": "circle-open", "size": 14, "color": "#000000", "line": {"width": 2}}
    settings = {"mode": "markers", "marker": ring, "customdata": [label(concept) for concept in chosen["concept"]]}
    figure.add_trace(curve("chosen", chosen["factor"], chosen["oracle"], f"%{{customdata}}<br>{hover}", **settings))
    return finish(figure, title, _worth(chosen), height=560, legend=LEGEND_BELOW)


def plot_scores(frame: pd.DataFrame, title: str = "Scores by method", rows: str = "method", summary: str = "") -> go.Figure:
    """Overall score of each method with its interval, the first on top, and under it the ratings it is made of.

    Args:
        frame: columns method, overall, overall_low, overall_high, and optionally concept, instruct and fluency (or
            concept_score, ...), one row per method.
        rows: what stands in the column "method", for the axis.
        summary: the result in a sentence.
    """
    table = _plain(frame)
    methods = zip(table["method"], table["overall"].isna(), strict=True)
    names = [wrapped(f"{method}{' (unscored)' * unscored}") for method, unscored in methods]
    shown = [name for name in LOOKS if name in table]
    figure = go.Figure()
    for lane, name in enumerate(shown):
        main, heights = name == "overall", [row + (lane - (len(shown) - 1) / 2) * 0.17 for row in range(len(table))]
        marker = {"color": LOOKS[name].color, "symbol": LOOKS[name].symbol, "size": 11 if main else 6}
        settings = {"mode": "markers", "marker": marker, "customdata": names, "error_x": _interval(table) if main else None}
        figure.add_trace(curve(name, table[name], heights, "%{customdata}<br>%{x:.2f}", **settings))
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": (len(names) - 0.5, -0.5)}
    figure.update_xaxes(title_text="mean overall score (0 to 2)", range=SCORE_RANGE)
    figure.update_yaxes(title_text=rows, **ticks, zeroline=False)
    note = f"{summary} " * bool(summary) + "Bars: 95 % interval." + " Small markers: the ratings (0 to 2)." * (len(shown) > 1)
    return finish(figure, title, note, height=190 + 52 * len(names), showlegend=len(shown) > 1)


def _score_curves(x: Any, frame: pd.DataFrame, unit: str) -> list[go.Scatter]:
    """The overall score, with its interval if the frame has one, and thinner the ratings."""
    table, hover = _plain(frame), f"{unit} %{{x:.4g}}<br>%{{y:.2f}}"
    curves = []
    for name, look in LOOKS.items():
        main = name == "overall"
        line = {"color": look.color, "dash": look.dash, "width": 2.5 if main else 1}
        settings = {"line": line, "marker": {"symbol": look.symbol, "size": 9 if main else 5}}
        interval = _interval(table) if main and "overall_low" in table else None
        curves.append(curve(name, x, table[name], hover, error_y=interval, **settings))
    return curves


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores under the names they have in figures: concept for concept_score."""
    return frame.rename(columns={f"{name}_score": name for name in RATINGS})


def _interval(table: pd.DataFrame) -> dict[str, Any]:
    """Error bars of the overall score."""
    above, below = table["overall_high"] - table["overall"], table["overall"] - table["overall_low"]
    return {"array": above, "arrayminus": below, "thickness": 1.5, "width": 4}


def _worth(chosen: pd.DataFrame) -> str:
    """Fair and oracle score, and what they are, over the concepts."""
    fairs = chosen["fair"].dropna().tolist()
    fair = f"Fair {fmean(fairs):.2f} (chosen on half of the prompts, reported on the other)" if fairs else "No fair score"
    over = f", means over {len(chosen)} concepts" if len(chosen) > 1 else ""
    return f"{fair}, oracle {fmean(chosen['oracle']):.2f} (on the prompts that chose){over}."
