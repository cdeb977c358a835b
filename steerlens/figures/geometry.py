"""Directions beside each other: cosines, seeds, sizes, and what they say in the vocabulary."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from ..intervals import CHANCE
from ..visible_text import visible
from .style import COLORS, GREY, finish, label, shortened, signed_map

MOST_NUMBERS = 14
"""Vectors up to which a map has its numbers in the cells."""
SIDES = {"promoted": COLORS[1], "suppressed": COLORS[0]}


class Map(NamedTuple):
    """A map of cosines: its title, and the columns of its numbers."""

    title: str
    cosine: str
    p: str


MAPS = (
    Map("as they are", "cosine", "p_corrected"),
    Map("without the shared direction", "cosine_centered", "p_centered_corrected"),
)
MEASURES = {
    "factor_size": ("|factor|", "|alpha| (a number)"),
    "direction_norm": ("Norm of the direction", "residual-stream units"),
    "norm": ("Norm of factor x direction", "residual-stream units"),
    "relative_norm": ("The same over the residual stream's", "share of its root mean square norm"),
}
"""Column -> title and unit of its panel."""


def plot_cosine_map(
    pairs: pd.DataFrame, null: str, shared: float, shared_random: float, title: str = "Cosines between vectors"
) -> go.Figure:
    """The cosine of each pair, and from three vectors on the one without the direction that all share.

    Args:
        pairs: one row per pair of vectors, as `CosineMap.frame`: a, b, cosine, p_corrected, cosine_centered and
            p_centered_corrected.
        null: what the random directions are.
        shared, shared_random: share of the squared norm that the shared direction holds, 0 to 1, and that of random ones.
    """
    names = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    n = len(names)
    shown = MAPS[: 1 + (n > 2)]
    figure = make_subplots(
        rows=1, cols=len(shown), subplot_titles=[each.title for each in shown], shared_yaxes=True, horizontal_spacing=0.04
    )
    for number, each in enumerate(shown):
        values, p = (_square(pairs, names, column) for column in (each.cosine, each.p))
        figure.add_trace(_cosine_cells(values, p, names).update(showscale=number == 0), 1, number + 1)
    ticks = {"tickvals": list(range(n)), "ticktext": [label(name) for name in names], "showgrid": False, "zeroline": False}
    figure.update_xaxes(tickangle=-45, title_text="vector", **ticks)
    figure.update_yaxes(autorange="reversed", **ticks)
    figure.update_yaxes(title_text="vector", col=1)
    note = (
        f"*: beyond {null}, p < {CHANCE} for all pairs together. The shared direction holds {shared:.0%} of "
        f"the squared norm (random: {shared_random:.0%}): "
    )
    right = (
        f"what is high on the left and gone on the right is what all do. On the right unrelated pairs have {1 / (1 - n):.2f}."
    )
    note += right if n > 2 else "in two vectors it cannot be told from what the pair has in common."
    return finish(figure, title, note, height=360 + 30 * max(4, n))


def _square(pairs: pd.DataFrame, names: list[str], column: str) -> Float[np.ndarray, "name name"]:
    """A column of the pairs as a symmetric table; a vector with itself is NaN."""
    table = np.full((len(names), len(names)), np.nan)
    for a, b, value in zip(pairs["a"], pairs["b"], pairs[column], strict=True):
        row, other = names.index(a), names.index(b)
        table[row, other] = table[other, row] = value
    return table


def _cosine_cells(cosines: Float[np.ndarray, "name name"], p: Float[np.ndarray, "name name"], names: list[str]) -> go.Heatmap:
    """One map, with a star where chance does not reach."""
    indices = list(range(len(names)))
    named = np.array([[f"{label(row)} and {label(other)}" for other in names] for row in names])
    texts = [
        [_starred(value, chance) for value, chance in zip(*row, strict=True)]
        for row in zip(cosines.tolist(), p.tolist(), strict=True)
    ]
    return signed_map(
        cosines,
        indices,
        indices,
        "cosine",
        "%{customdata[0]}<br>cosine %{z:.3f}<br>corrected p %{customdata[1]:.2g}",
        zmin=-1,
        zmax=1,
        text=texts,
        texttemplate="%{text}" if len(names) <= MOST_NUMBERS else None,
        customdata=np.stack([named, p.astype(object)], -1),
        hoverongaps=False,
    )


def plot_stability(
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    measures: pd.DataFrame,
    null: str,
    title: str = "The same training with other seeds",
) -> go.Figure:
    """Cosines between seeds beside what random directions give, and each seed's norm and factor.

    Args:
        frame: one row per seed, as `Stability.frame`: seed, norm and factor.
        pairs: one row per pair of seeds: a, b, cosine.
        measures: rows "cosine", "norm" and "factor" in the column measure, each with value, low and high (its interval; NaN
            if unknown) and random_high.
        null: what the random directions are.
    """
    heads = ("Cosine of each pair", "Norm of factor x direction", "Factor (alpha)")
    figure = make_subplots(rows=1, cols=3, subplot_titles=heads, horizontal_spacing=0.12)
    rows = {row["measure"]: row for row in measures.to_dict("records")}
    names = [label(f"{a} and {b}") for a, b in zip(pairs["a"], pairs["b"], strict=True)]
    seeds = [label(name) for name in frame["seed"]]
    panels = (
        ("cosine", pairs["cosine"], names, "cosine"),
        ("norm", frame["norm"], seeds, "residual-stream units"),
        ("factor", frame["factor"], seeds, "factor (alpha, a number)"),
    )
    for column, (measure, values, hover, unit) in enumerate(panels, start=1):
        figure.add_traces([_dots(measure, values, hover), _mean(measure, rows[measure])], rows=1, cols=column)
        figure.update_yaxes(title_text=unit, rangemode="tozero", col=column)
    random_high = rows["cosine"]["random_high"]
    if not np.isnan(random_high):
        first: dict[str, Any] = {"row": 1, "col": 1}  # which plotly declares as text
        figure.add_hline(y=random_high, line={"color": GREY, "dash": "dash"}, **first)
    figure.update_yaxes(range=[min(0.0, pairs["cosine"].min()) - 0.05, 1.05], col=1)
    figure.update_xaxes(range=[-0.5, 0.8], showticklabels=False, showgrid=False, zeroline=False)
    figure.update_xaxes(title_text="pairs of seeds", col=1)
    figure.update_xaxes(title_text="seeds", col=2)
    figure.update_xaxes(title_text="seeds", col=3)
    note = (
        "Diamond: mean with its 95 % interval over seeds (jackknife). Dashed: 95 % of mean cosines of as many "
        f"{null} are below. Dots close together and far above it: training finds the same direction."
    )
    return finish(figure, title, note, height=460, showlegend=False)


def _dots(measure: str, values: pd.Series, hover: list[str]) -> go.Scatter:
    """The numbers of one measure, beside one another."""
    spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
    marker = {"color": COLORS[0], "size": 8, "opacity": 0.75}
    dots = go.Scatter(x=spread, y=values, mode="markers", marker=marker, customdata=hover, name=label(f"each {measure}"))
    return dots.update(hovertemplate=f"%{{customdata}}<br>{measure} %{{y:.4g}}<extra></extra>")


def _mean(measure: str, row: Mapping[Any, Any]) -> go.Scatter:
    """The mean of a measure, with its interval if that is known."""
    known = not np.isnan(row["low"])
    bars = {"array": [row["high"] - row["value"]], "arrayminus": [row["value"] - row["low"]], "thickness": 2, "width": 6}
    mean = go.Scatter(x=[0.5], y=[row["value"]], mode="markers", error_y=bars if known else None, name=label(f"mean {measure}"))
    mean.marker = {"color": "#000000", "symbol": "diamond", "size": 10}
    return mean.update(hovertemplate=f"mean {measure} %{{y:.4g}}<extra></extra>")


def plot_sizes(frame: pd.DataFrame, title: str = "How large the vectors are") -> go.Figure:
    """A box and a dot per vector, by group, for the factor and each norm.

    Args:
        frame: one row per vector, as `Sizes.frame`: group, name, factor, factor_size, direction_norm, norm and relative_norm
            (a measure that is NaN throughout is not drawn).
    """
    shown = {name: texts for name, texts in MEASURES.items() if frame[name].notna().any()}
    columns = 2 if len(shown) > 3 else len(shown)
    figure = make_subplots(
        rows=-(-len(shown) // columns),
        cols=columns,
        subplot_titles=[head for head, _ in shown.values()],
        horizontal_spacing=0.12,
        vertical_spacing=0.2,
    )
    for index, (measure, (_, unit)) in enumerate(shown.items()):
        row, column = index // columns + 1, index % columns + 1
        for number, (group, mine) in enumerate(frame.groupby("group", sort=False)):
            figure.add_trace(_box(mine, measure, label(group), COLORS[number % len(COLORS)]), row, column)
        figure.update_yaxes(title_text=unit, rangemode="tozero", row=row, col=column)
    figure.update_xaxes(title_text="group")
    counts = ", ".join(f"{shortened(group)} {len(mine)}" for group, mine in frame.groupby("group", sort=False))
    note = (
        f"A dot per vector ({counts}); boxes: median and quartiles. Only the norm of factor x direction acts on the model; how "
        "training divides it between factor and direction shows in the first two."
    )
    return finish(figure, title, note, height=480 + 260 * (len(shown) > columns))


def _box(mine: pd.DataFrame, measure: str, group: str, color: str) -> go.Box:
    """One group's numbers of one measure."""
    return go.Box(
        x=[group] * len(mine),
        y=mine[measure],
        name=group,
        legendgroup=group,
        showlegend=False,
        boxpoints="all",
        jitter=0.4,
        pointpos=0,
        fillcolor="rgba(0,0,0,0.04)",
        line={"color": color, "width": 1.5},
        marker={"size": 7, "opacity": 0.75},
        customdata=np.stack([[label(name) for name in mine["name"]], mine["factor"].round(3).astype(str)], -1),
        hoveron="points",
        hovertemplate="%{customdata[0]}<br>%{y:.4g}<br>factor %{customdata[1]}<extra></extra>",
    )


def plot_readout(
    frame: pd.DataFrame,
    layers: Mapping[str, int],
    n_layers: int,
    d_vocab: int,
    null: str,
    title: str = "What the directions say in the vocabulary",
) -> go.Figure:
    """Bars of the tokens that each vector promotes and suppresses most, one panel per vector.

    Args:
        frame: one row per vector, side and rank, as `Readout.frame`: vector, side ("promoted", "suppressed"), rank, token,
            logit, z and p_corrected.
        layers: vector -> the layer it edits, in the order of the panels.
        n_layers, d_vocab: of the model.
        null: what the random directions are.
    """
    names = list(layers)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    heads = [f"{label(name)} (layer {layers[name]} of 0 to {n_layers - 1})" for name in names]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=heads, horizontal_spacing=0.14, vertical_spacing=0.2 / rows)
    for index, name in enumerate(names):
        row, column = index // columns + 1, index % columns + 1
        mine = frame[frame["vector"] == name]
        ordered = pd.concat([mine[mine["side"] == "promoted"], mine[mine["side"] == "suppressed"].iloc[::-1]])
        ordered = ordered.assign(height=range(len(ordered)))
        for side, color in SIDES.items():
            for beyond in (True, False):
                part = ordered[(ordered["side"] == side) & ((ordered["p_corrected"] < CHANCE) == beyond)]
                figure.add_trace(_bars(part, f"{side}{'' if beyond else ', within chance'}", color, beyond), row, column)
        texts = [_token(token) for token in ordered["token"]]
        figure.update_yaxes(tickvals=ordered["height"], ticktext=texts, range=[len(texts) - 0.4, -0.6], row=row, col=column)
    figure.update_xaxes(title_text="logit less its mean over the vocabulary", zeroline=True)
    figure.update_yaxes(title_text="token", showgrid=False, zeroline=False, col=1)
    note = (
        "Through the final norm and the unembedding alone: to the right promoted, to the left suppressed. Filled: beyond "
        f"{null} (p < {CHANCE}, corrected for {d_vocab} tokens); hollow: within chance. What later blocks make "
        "of it is not shown: the earlier the layer, the less this says. A dot before a word is its space."
    )
    per_row = 90 + 17 * 2 * int(frame["rank"].max())
    return finish(figure, title, note, height=180 + per_row * rows, showlegend=False, barmode="overlay")


def _bars(part: pd.DataFrame, name: str, color: str, beyond: bool) -> go.Bar:
    """One side's tokens, hollow where chance reaches as far."""
    numbers = part[["z", "p_corrected"]].to_numpy(float)
    return go.Bar(
        x=part["logit"],
        y=part["height"],
        orientation="h",
        name=name,
        marker={"color": color if beyond else "#FFFFFF", "line": {"color": color, "width": 1.5}},
        text=[_token(token) for token in part["token"]],
        textposition="none",
        customdata=numbers,
        hovertemplate="%{text}<br>logit %{x:+.3g}, z %{customdata[0]:+.2f}<br>corrected p %{customdata[1]:.2g}<extra></extra>",
    )


def _token(token: str) -> str:
    """A token that can be told from the same one without its space."""
    return label(visible(token))


def _starred(value: float, p: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.2f}{'*' if p < CHANCE else ''}".replace("-", "−")  # noqa: RUF001 - a minus sign in a figure
