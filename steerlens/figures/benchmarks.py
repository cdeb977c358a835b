"""Benchmarks, attacks and what steering costs."""

import html
import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..intervals import FEW
from .scores import SCORE_RANGE
from .style import COLORS, GREY, LEGEND_BELOW, curve, finish, label, line_look, wrapped

MOST_NAMES = 40
"""Concepts that are named on the axis; more would run into one another."""
ROW, LINE, DOT = 34, 16, 8
"""Pixels: a named concept, a line of its name if there are several, a concept without a name."""
ROWS_SUMMARISED = 3
"""Rows whose summary fits into a note."""

Interval = tuple[float, float] | None
"""The ends of an interval, if there is one."""


def plot_benchmark(
    concepts: pd.DataFrame, mean: float | None, interval: Interval, summary: str, title: str = "AxBench protocol"
) -> go.Figure:
    """Overall score of each concept, the best on top, with the mean over concepts, and beside it the vectors' norms.

    Args:
        concepts: one row per concept: concept, genre, overall, overall_low, overall_high (0 to 2; NaN where unscored or where
            there is no interval), n, unscored (responses), norm (residual-stream units, NaN without a vector).
        mean: overall score over concepts, 0 to 2; None if none is scored.
        interval: of the mean.
        summary: the result in a sentence.
    """
    table = concepts.sort_values("overall", kind="stable", na_position="first", ignore_index=True)
    few = len(table) <= MOST_NAMES
    sized = bool(table["norm"].notna().any())
    figure = make_subplots(rows=1, cols=1 + sized, shared_yaxes=True, column_widths=[0.7, 0.3][: 1 + sized])
    heights = pd.Series(range(len(table)), index=table.index)
    genres = sorted(table["genre"].fillna("concepts").unique())
    for number, genre in enumerate(genres):
        mine = table["genre"].fillna("concepts") == genre
        rows, look = table[mine], {"color": COLORS[number % len(COLORS)], "size": 9 if few else 6, "symbol": number}
        names = [wrapped(name) for name in rows["concept"]]
        bars = _bars(rows, "overall") | ({} if few else {"width": 0, "thickness": 0.8})
        shown = {"mode": "markers", "marker": look, "customdata": names, "legendgroup": genre}
        hover = "%{customdata}<br>overall %{x:.2f}"
        figure.add_trace(curve(genre, rows["overall"], heights[mine], hover, error_x=bars, **shown), row=1, col=1)
        if sized:
            norms = curve(genre, rows["norm"], heights[mine], "%{customdata}<br>norm %{x:.3g}", showlegend=False, **shown)
            figure.add_trace(norms, row=1, col=2)
    _mean_line(figure, mean, interval)
    scored = zip(table["concept"], table["overall"], strict=True)
    ticks = [wrapped(f"{name}{' (unscored)' * math.isnan(score)}") for name, score in scored]
    shown = {"tickvals": list(heights), "ticktext": ticks} if few else {"showticklabels": False, "showgrid": False}
    figure.update_yaxes(range=(-0.7, len(table) - 0.3), zeroline=False, **shown)
    figure.update_yaxes(title_text="concept" if few else f"{len(table)} concepts, by score", col=1)
    figure.update_xaxes(title_text="mean overall score (0 to 2)", range=SCORE_RANGE, col=1)
    if sized:
        figure.update_xaxes(title_text="norm of the vector<br>(residual-stream units)", rangemode="tozero", col=2)
    band = _spread_of_mean(interval, int(table["overall"].notna().sum()))
    note = f"{summary} Dots: concepts, with {_spread_of(table)}. Grey: mean over concepts{band}."
    height = max(420, 240 + (max(ROW, _tallest(ticks)) if few else DOT) * len(table))
    return finish(figure, title, note, height=height, showlegend=len(genres) > 1, legend=LEGEND_BELOW)


def _spread_of(table: pd.DataFrame) -> str:
    """What the concepts' bars are."""
    known = table["overall_low"].notna()
    small = known & (table["n"] - table["unscored"] < FEW)
    if not known.any():
        return "no interval, as each has a single scored response"
    if small[known].all():
        return "the range over their responses, which are too few for an interval"
    text = "the 95 % interval over their responses"
    return text + (f" (the range, if fewer than {FEW} are scored)" if small.any() else "")


def _spread_of_mean(interval: Interval, scored: int) -> str:
    """What the grey band over so many scored concepts is."""
    if interval is None:
        return ""
    if scored == 1:
        return " and what is said of its dot"
    return " and its 95 % interval" if scored >= FEW else f" and the range over them ({scored}: too few for an interval)"


def _tallest(ticks: list[str]) -> int:
    """Pixels of a row that holds the names, one over another."""
    return 6 + LINE * max(name.count("<br>") + 1 for name in ticks)


def _mean_line(figure: go.Figure, mean: float | None, interval: Interval) -> None:
    if mean is None:
        return
    across = {"xref": "x", "yref": "y domain", "y0": 0, "y1": 1, "layer": "below"}
    if interval is not None:
        figure.add_shape(type="rect", x0=interval[0], x1=interval[1], fillcolor=GREY, opacity=0.2, line_width=0, **across)
    figure.add_shape(type="line", x0=mean, x1=mean, line={"color": GREY, "dash": "dash", "width": 1.5}, **across)


def plot_suppression(table: pd.DataFrame, title: str = "Suppression attack") -> go.Figure:
    """Overall score without the attack (open) and under it (filled), one line per vector and scale.

    Args:
        table: what `Suppression.to_frame` gives.
    """
    names = [wrapped(f"{row['vector']} x {row['scale']:g}{_missing(row)}") for row in table.to_dict("records")]
    figure = go.Figure()
    for row, (x0, x1) in enumerate(zip(table["overall"], table["attacked"], strict=True)):
        if not (math.isnan(x0) or math.isnan(x1)):
            figure.add_shape(type="line", x0=x0, x1=x1, y0=row, y1=row, line={"color": GREY, "width": 1})
    looks = {
        "overall": (
            "without the attack",
            {"symbol": "circle-open", "color": COLORS[0], "size": 12, "line": {"width": 2}},
            -0.12,
        ),
        "attacked": ("under the attack", {"symbol": "circle", "color": COLORS[1], "size": 11}, 0.12),
    }
    for column, (name, marker, shift) in looks.items():
        heights = [row + shift for row in range(len(table))]
        settings = {"mode": "markers", "marker": marker, "customdata": names, "error_x": _bars(table, column)}
        figure.add_trace(curve(name, table[column], heights, "%{customdata}<br>overall %{x:.2f}", **settings))
    figure.update_shapes(layer="below")
    figure.update_xaxes(title_text="mean overall score (0 to 2)", range=SCORE_RANGE)
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": (len(names) - 0.5, -0.5)}
    figure.update_yaxes(title_text="vector x scale of its factor", zeroline=False, showgrid=False, **ticks)
    unscored = int(table["unscored"].sum())
    few = (
        f" (only the range where fewer than {FEW} prompts, or concepts if several, are scored)"
        if bool((table["units"] < FEW).any())
        else ""
    )
    note = (
        "Read the filled dots: what is left when the instruction forbids the concept. The judge sees the original instruction. "
        f"Bars: 95 % interval{few}. {unscored} rows unscored."
    )
    return finish(figure, title, note, height=260 + 60 * len(names), legend=LEGEND_BELOW)


def _missing(row: Mapping[Hashable, Any]) -> str:
    """Which of a row's two scores no response has."""
    plain, attacked = math.isnan(row["overall"]), math.isnan(row["attacked"])
    if plain and attacked:
        return " (unscored)"
    if attacked:
        return " (unscored under the attack)"
    return " (unscored without the attack)" if plain else ""


def plot_frontier(
    frame: pd.DataFrame, score_name: str = "score", utility_name: str = "utility", title: str = "Utility against score"
) -> go.Figure:
    """Each vector as a line through its scales; what no other point dominates is ringed.

    Args:
        frame: what `Frontier.to_frame` gives, the unsteered model first.
        score_name, utility_name: what the axes say.
    """
    figure = go.Figure()
    for number, (name, rows) in enumerate(frame.groupby("vector", sort=False)):
        plain = number == 0
        look = {"color": GREY, "width": 0} if plain else line_look(number - 1)
        rows = rows.sort_values("scale", kind="stable")
        shown = {
            "mode": "markers" if plain or len(rows) == 1 else "lines+markers+text",
            "text": [f"x{scale:g}" for scale in rows["scale"]],
            "textposition": "top right",
            "marker": {"size": 9, "color": look["color"], "symbol": "star" if plain else number - 1},
            "customdata": rows["scale"],
            "error_x": _bars(rows, "score"),
            "error_y": _bars(rows, "utility"),
        }
        hover = "scale %{customdata:g}<br>score %{x:.3g}<br>utility %{y:.3g}"
        figure.add_trace(curve(str(name), rows["score"], rows["utility"], hover, line=look, **shown))
    best = frame[frame["efficient"]].sort_values("score", kind="stable")
    ring = {"symbol": "circle-open", "size": 17, "color": "#000000", "line": {"width": 1.5}}
    settings = {"mode": "markers", "marker": ring, "customdata": [label(name) for name in best["vector"]]}
    hover = "%{customdata}<br>score %{x:.3g}<br>utility %{y:.3g}"
    figure.add_trace(curve("not dominated", best["score"], best["utility"], hover, **settings))
    figure.update_xaxes(title_text=html.escape(score_name, quote=False))
    figure.update_yaxes(title_text=html.escape(utility_name, quote=False))
    note = (
        "Up and to the right is better. Small text: scale of the factor. Ringed: no other point is at least as good in both, "
        "as measured. Bars: 95 % interval of each point; do not rank points whose bars overlap widely."
    )
    return finish(figure, title, note, height=600, legend=LEGEND_BELOW)


def plot_side_effects(frame: pd.DataFrame, title: str = "Side effects without a judge") -> go.Figure:
    """KL to the unsteered model, and perplexity of the steered responses under it, by scale.

    Args:
        frame: what `SideEffects.to_frame` gives, the unsteered model first.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
    plain, table = frame.iloc[0], frame.iloc[1:]
    units = {
        "kl": "KL to the unsteered model (nats per token)",
        "perplexity": "perplexity under the unsteered model (per token)",
    }
    for column, (what, unit) in enumerate(units.items(), start=1):
        for number, (name, rows) in enumerate(table.groupby("vector", sort=False)):
            rows = rows.sort_values("scale", kind="stable")
            shown = {"line": line_look(number), "marker": {"size": 8}, "legendgroup": str(name), "showlegend": column == 1}
            hover = f"scale %{{x:g}}<br>{what} %{{y:.3g}}"
            figure.add_trace(
                curve(str(name), rows["scale"], rows[what], hover, error_y=_bars(rows, what), **shown), row=1, col=column
            )
        figure.update_yaxes(title_text=unit, row=1, col=column)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    ends = frame[["perplexity", "perplexity_low", "perplexity_high"]].to_numpy(float)
    figure.update_yaxes(type="log", **_log_axis(ends.ravel()), row=1, col=2)
    figure.update_xaxes(title_text="scale of the factor")
    line = {"color": GREY, "dash": "dash", "width": 1.5}
    if np.isfinite(plain["perplexity"]):
        right: dict[str, Any] = {"row": 1, "col": 2}  # which plotly declares as text
        figure.add_hline(y=plain["perplexity"], line=line, **right)
    note = (
        f"Left: how far the next-token distributions move on the unsteered model's responses ({int(plain['n'])} prompts). "
        "Right: how strange the steered responses are to the unsteered model; below the dashed line (its own responses) the "
        "text is more predictable than those, as repetition is. Bars: 95 % interval over prompts."
    )
    return finish(figure, title, note, height=520, legend=LEGEND_BELOW)


def _log_axis(values: Iterable[float]) -> dict[str, Any]:
    """Range and two to eight ticks of a logarithmic axis: the wider it is, the fewer digits of a decade have one."""
    known = [value for value in values if 0 < value < math.inf]
    if not known:
        return {}
    low, high = math.log10(min(known)), math.log10(max(known))
    room = max(0.06 * (high - low), 0.02)
    low, high = low - room, high + room
    if high - low < 0.4:  # too narrow for any digits: even steps
        step = _round_step((10**high - 10**low) / 5)
        ticks = [step * number for number in range(math.ceil(10**low / step), math.floor(10**high / step) + 1)]
    else:
        limits = {1.2: (1, 1.5, 2, 3, 5, 7), 2.5: (1, 2, 5), 4: (1, 3), math.inf: (1,)}
        digits = next(digits for limit, digits in limits.items() if high - low < limit)
        every = math.ceil((high - low) / 8)
        powers = [power for power in range(math.floor(low), math.ceil(high)) if power % every == 0]
        ticks = [at for power in powers for digit in digits if low <= math.log10(at := float(f"{digit}e{power}")) <= high]
    return {"range": (low, high), "tickvals": ticks, "ticktext": [f"{at:.6g}" for at in ticks]}


def _round_step(least: float) -> float:
    """The next step from `least` up that is 1, 2 or 5 times a power of ten."""
    power = math.floor(math.log10(least))
    return next(step for digit in (1, 2, 5, 10) if (step := float(f"{digit}e{power}")) >= least)


def plot_harness(frame: pd.DataFrame, summary: str = "", title: str = "Benchmarks on the steered model") -> go.Figure:
    """Value of each task and metric, with 1.96 standard errors.

    Args:
        frame: what `HarnessScores.to_frame` gives.
        summary: the numbers in a sentence, which stands under the title if they are few.
    """
    names = [wrapped(f"{row['task']}: {row['metric']}{_filtered(row['filter'])}") for row in frame.to_dict("records")]
    bars = {"array": 1.96 * frame["stderr"], "thickness": 1.5, "width": 4}
    counts = [f"{name}<br>n {n}" for name, n in zip(names, frame["n"], strict=True)]
    settings = {"mode": "markers", "marker": {"size": 11, "color": COLORS[0]}, "customdata": counts, "error_x": bars}
    figure = go.Figure(curve("value", frame["value"], list(range(len(names))), "%{customdata}<br>%{x:.3g}", **settings))
    figure.update_xaxes(title_text="value (in the metric's own units)", rangemode="tozero")
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": (len(names) - 0.5, -0.5)}
    figure.update_yaxes(title_text="task: metric", zeroline=False, **ticks)
    note = (
        "Dots: values, each in its metric's own units. Bars: 1.96 standard errors of lm-evaluation-harness, where it gives one."
    )
    note = f"{summary} {note}" if summary and len(frame) <= ROWS_SUMMARISED else note
    return finish(figure, title, note, height=240 + 52 * len(names), showlegend=False)


def _filtered(name: Any) -> str:
    return "" if name == "none" else f" ({name})"


def _bars(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """Error bars from `name_low` to `name_high`."""
    above, below = table[f"{name}_high"] - table[name], table[name] - table[f"{name}_low"]
    return {"array": above, "arrayminus": below, "thickness": 1.2, "width": 3}
