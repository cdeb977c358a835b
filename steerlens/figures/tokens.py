"""What a vector does token by token: along one text, slot by slot, and step by step of decoding."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..visible_text import visible
from .style import COLORS, GREY, LEGEND_BELOW, SEQUENTIAL, curve, finish, label, line_look

GROUP_COLORS = {
    "bos": COLORS[6],
    "template prefix": COLORS[5],
    "instruction": COLORS[0],
    "template suffix": COLORS[4],
    "response": COLORS[1],
}
MAPS = {
    "residual": ("relative_change", "change of the residual stream", "change / unsteered norm"),
    "attention": ("attention_change_norm", "change of the attention's output", "norm (residual units)"),
}
MEAN_OF = {"left out": "lost when it is left out", "alone": "reached by it alone"}
PANELS = (
    ("kl", "KL (nats)"),
    ("relative_last_layer", "change / norm,<br>last layer"),
    ("cosine_last_layer", "cosine to the<br>vector, last layer"),
    ("attention_steered", "attention to<br>edited tokens"),
)
LONGEST_AXIS = 160
"""Tokens whose names still fit under one map."""


def shown(token: str) -> str:
    """A token as plotly shows it literally, with signs for spaces, line ends and nothing."""
    return label(visible(token))


def plot_token_effects(
    tokens: pd.DataFrame, layers: pd.DataFrame, predictions: pd.DataFrame, row: int = 0, of: str = "residual"
) -> go.Figure:
    """KL of the prediction made at each token, above a map of layers and tokens.

    Args:
        tokens, layers, predictions: the three tables of `TokenEffects`, of one prompt or several.
        row: which prompt.
        of: "residual" (relative change of the residual stream) or "attention" (change of what attention adds).

    Raises:
        ValueError: no such row or map.
    """
    if of not in MAPS:
        raise ValueError(f"of is {of!r}; use {' or '.join(map(repr, MAPS))}")
    n_prompts = tokens["row"].nunique()
    tokens, layers, predictions = (frame[frame["row"] == row] for frame in (tokens, layers, predictions))
    if tokens.empty:
        raise ValueError(f"row {row} does not exist: the effects are those of {n_prompts} prompts, counted from 0")
    column, meaning, unit = MAPS[of]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.34, 0.66], vertical_spacing=0.04)
    figure.add_traces(_kl_bars(tokens, predictions), rows=1, cols=1)
    figure.add_trace(_layer_map(layers, column, unit, tokens.loc[~tokens["edited"], "position"]), row=2, col=1)
    edited = layers[layers["edited"]]
    mark = {"symbol": "square-open", "size": 9, "color": COLORS[1], "line": {"width": 2}}
    hover = "token %{x}, layer %{y}"
    figure.add_trace(
        curve("edited here", edited["position"], edited["layer"], hover, mode="markers", marker=mark), row=2, col=1
    )
    names = [shown(token) for token in tokens["token"]] if len(tokens) <= LONGEST_AXIS else None
    ticks = {"tickvals": tokens["position"], "ticktext": names, "tickangle": -90} if names else {}
    figure.update_xaxes(showgrid=False, zeroline=False, range=(-0.5, len(tokens) - 0.5))
    figure.update_xaxes(title_text="token (· space, ↵ line end)" if names else "position of the token", row=2, **ticks)
    figure.update_yaxes(title_text="KL of the next<br>token (nats)", rangemode="tozero", row=1)
    figure.update_yaxes(
        title_text="layer (its output)", row=2, range=(-0.5, layers["layer"].max() + 0.5), showgrid=False, tickformat="d"
    )
    spread = "What unedited tokens show was brought there by attention; the colours end at the largest of theirs."
    note = (
        "A bar is the prediction made at its token, of the token to its right; text is generated from the last prompt token's "
        f"on. Map: {meaning}; blank = exactly none. {'' if tokens['edited'].all() else spread}"
    )
    return finish(figure, "What the vector changes, token by token", note, height=680, legend=LEGEND_BELOW, barmode="overlay")


def _kl_bars(tokens: pd.DataFrame, predictions: pd.DataFrame) -> list[go.Bar]:
    """One trace per group of tokens."""
    words = {kind: _in_lines(predictions[predictions["kind"] == kind]) for kind in ("promoted", "suppressed")}
    hover = (
        "at %{customdata[0]}, before %{customdata[1]}<br>KL %{y:.3g} nats<br>promoted: %{customdata[2]}<br>"
        "suppressed: %{customdata[3]}<br>log p of the token itself: %{customdata[4]:+.3g}<extra></extra>"
    )
    bars = []
    for group, part in tokens.groupby("group", sort=False):
        columns = part[["position", "token", "next_token", "logprob_change"]].itertuples(index=False)
        here = [
            [
                shown(own),
                shown(following) if isinstance(following, str) else "the end",
                *(lines.get(position, "none") for lines in words.values()),
                change,
            ]
            for position, own, following, change in columns
        ]
        settings = {"customdata": here, "hovertemplate": hover, "marker": {"color": GROUP_COLORS[str(group)]}}
        bars.append(go.Bar(x=part["position"], y=part["kl"], name=str(group), **settings))
    return bars


def _in_lines(predictions: pd.DataFrame) -> dict[int, str]:
    """position -> its changed tokens with both probabilities, a line each."""
    lines: dict[int, list[str]] = {}
    columns = predictions[["position", "token", "p_plain", "p_steered"]]
    for position, token, p_plain, p_steered in columns.itertuples(index=False):
        lines.setdefault(position, []).append(f"{shown(token)} {p_plain:.2g} to {p_steered:.2g}")
    return {position: "<br>   ".join(texts) for position, texts in lines.items()}


def _layer_map(layers: pd.DataFrame, column: str, unit: str, unedited: "pd.Series[int]") -> go.Heatmap:
    """With colours up to the largest value of an unedited token: edited ones would leave no colour for the others."""
    table = layers.pivot(index="layer", columns="position", values=column)
    limit = float(np.nanmax(table[unedited].to_numpy(float), initial=0.0)) or float(np.nanmax(table, initial=0.0))
    names = layers[layers["layer"] == layers["layer"].min()].sort_values("position")["token"].map(shown)
    texts = [names.to_list()] * len(table)
    bar = {"title": {"text": unit, "side": "right"}, "len": 0.66, "y": 0, "yanchor": "bottom"}
    hover = "%{text}, layer %{y}<br>%{z:.3g}<extra></extra>"
    scale = {"colorscale": SEQUENTIAL, "colorbar": bar, "zmin": 0, "zmax": limit} if limit else {"showscale": False}
    settings = {"text": texts, "hovertemplate": hover, "hoverongaps": False} | scale
    return go.Heatmap(z=table.where(table > 0), x=table.columns, y=table.index, **settings)


def plot_position_effects(frame: pd.DataFrame, kl: float, n_prompts: int, n_tokens: int) -> go.Figure:
    """The share of the whole effect that goes with each slot, and that it has alone, with their intervals.

    Args:
        frame: one row per slot and mode ("left out", "alone"), as `PositionEffects.frame`: slot, token, mode, n_edited, kl,
            logprob, kl_share, kl_share_low and kl_share_high.
        kl: of the whole vector, nats per response token.
        n_prompts, n_tokens: over which it was measured; the tokens are those of responses.
    """
    figure = go.Figure()
    tokens = frame.drop_duplicates("slot")[["slot", "token"]].itertuples(index=False)
    names = {slot: slot if pd.isna(token) else f"{slot}<br>{shown(token)}" for slot, token in tokens}
    for number, (mode, part) in enumerate(frame.groupby("mode", sort=False)):
        above, below = part["kl_share_high"] - part["kl_share"], part["kl_share"] - part["kl_share_low"]
        error = {"array": above, "arrayminus": below, "thickness": 1.5, "width": 4}
        extra = part[["kl", "logprob", "n_edited"]].to_numpy()
        hover = (
            "%{x}<br>share %{y:.3f}<br>KL %{customdata[0]:.3g} nats per token<br>"
            "log p of the response %{customdata[1]:+.3g} nats per token<br>%{customdata[2]} edited tokens<extra></extra>"
        )
        settings = {"error_y": error, "customdata": extra, "hovertemplate": hover, "marker": {"color": COLORS[number]}}
        pattern = {"marker_pattern_shape": "/"} if number else {}
        bar = {"x": part["slot"].map(names), "y": part["kl_share"], "name": MEAN_OF[str(mode)]}
        figure.add_trace(go.Bar(**bar, **settings, **pattern))
    dashed = {"color": GREY, "dash": "dash"}
    figure.add_hline(y=1, line=dashed, annotation_text="the whole vector", annotation_position="top left")
    figure.update_xaxes(title_text="edited slot (p1 = first token of the prompt, s1 = last), and its token")
    figure.update_yaxes(title_text="share of the whole vector's KL", rangemode="tozero")
    note = (
        f"Whole vector: KL {kl:.3g} nats per response token, {n_tokens} tokens of {n_prompts} "
        "prompts. Lines: 95 % interval over prompts. Low when left out but high alone: other slots do the same work. Shares "
        "need not add up to 1."
    )
    return finish(figure, "Which edited tokens carry the effect", note, height=520, legend=LEGEND_BELOW, barmode="group")


def plot_drift(frame: pd.DataFrame, on: str) -> go.Figure:
    """KL, residual change, its cosine to the vector and attention to edited tokens at each step, one colour per vector.

    Args:
        frame: one row per vector and step, as `Drift.frame`: vector, step, n_prompts and the measures with their intervals.
        on: whose greedy responses the steps are, "steered" or "unsteered".
    """
    figure = make_subplots(rows=len(PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.035)
    for number, (name, part) in enumerate(frame.groupby("vector", sort=False)):
        here = part[part["n_prompts"] * 2 >= part["n_prompts"].max()]
        look = line_look(number)
        for row, (measure, _) in enumerate(PANELS, start=1):
            group: dict[str, Any] = {"legendgroup": str(number), "showlegend": row == 1}
            figure.add_trace(_band(here, measure, look["color"]), row=row, col=1)
            hover = "step %{x}<br>%{y:.3g}<br>%{customdata} prompts"
            settings = {"line": look, "marker": {"size": 4}, "customdata": here["n_prompts"]} | group
            figure.add_trace(curve(str(name), here["step"], here[measure], hover, **settings), row=row, col=1)
        thin = {"line": {"color": look["color"], "dash": "dot", "width": 1.5}, "mode": "lines"}
        plain = curve(f"{name}, unsteered", here["step"], here["attention_plain"], "step %{x}<br>%{y:.3g}", **thin)
        figure.add_trace(plain, row=len(PANELS), col=1)
    for row, (_, title) in enumerate(PANELS, start=1):
        figure.update_yaxes(title_text=title, row=row)
    figure.update_yaxes(range=(-0.03, 1.05), row=len(PANELS))
    figure.update_xaxes(title_text="step (0 = the prompt's last token, k = the k-th response token)", row=len(PANELS))
    whose = "its own steered" if on == "steered" else "the unsteered model's"
    note = (
        f"Each vector on {whose} greedy responses. Band: 95 % interval over prompts. Steps that fewer than half of the prompts "
        "reach are not drawn. Attention is 1 where all tokens are edited; dotted: to the same tokens without the vector."
    )
    return finish(figure, "How long the push lasts", note, height=860, legend=LEGEND_BELOW)


def _band(frame: pd.DataFrame, measure: str, color: str) -> go.Scatter:
    """The interval as an area; it has no hover of its own."""
    known = frame.dropna(subset=[f"{measure}_low"])
    x = [*known["step"], *known["step"][::-1]]
    y = [*known[f"{measure}_high"], *known[f"{measure}_low"][::-1]]
    look = {"fill": "toself", "mode": "lines", "line": {"width": 0}, "fillcolor": color, "opacity": 0.2}
    return go.Scatter(x=x, y=y, hoverinfo="skip", hovertemplate="<extra></extra>", showlegend=False, **look)
