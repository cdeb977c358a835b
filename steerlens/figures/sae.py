"""Vectors beside the features of sparse autoencoders."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..visible_text import visible
from .style import COLORS, GREY, LEGEND_BELOW, curve, finish, label, line_look, signed_map

SIDES = {"decoder": "decoder rows: what features write", "encoder": "encoder columns: what features read"}
BAND = "rgba(118, 118, 118, 0.18)"
CELL = 18
"""Pixels of a row of the map."""


def plot_sae_comparison(
    features: pd.DataFrame,
    null_cosine: Mapping[str, float],
    n_random: int,
    source: str | None,
    vector: str | None = None,
    top: int = 15,
    title: str | None = None,
) -> go.Figure:
    """The features with the largest |cosine| to a vector, at either side, with the band that chance stays in.

    Args:
        features: one row per vector and feature, as `SAEComparison.features`: vector, feature, and with the prefixes
            decoder_ and encoder_ cosine, rank, p and p_corrected.
        null_cosine: "decoder" and "encoder" -> |cosine| that chance stays below; NaN if unknown.
        n_random: random directions behind it, 0 for none.
        source: of the autoencoder, for the title.
        vector: which one; None = the first.
        top: features shown at either side.

    Raises:
        ValueError: there is no vector of that name.
    """
    names = [str(name) for name in features["vector"].unique()]
    name = names[0] if vector is None else vector
    if name not in names:
        raise ValueError(f"there is no vector {name!r}; there are {', '.join(map(repr, names))}")
    own = features[features["vector"] == name]
    figure = make_subplots(rows=1, cols=2, subplot_titles=list(SIDES.values()), horizontal_spacing=0.14)
    for column, side in enumerate(SIDES, start=1):
        best = own.nsmallest(top, f"{side}_rank")
        figure.add_trace(_cosine_bars(best, side, COLORS[column - 1]), row=1, col=column)
        figure.update_yaxes(type="category", autorange="reversed", title_text="feature", row=1, col=column)
        band = null_cosine[side]
        if not np.isnan(band):
            panel: dict[str, Any] = {"row": 1, "col": column}  # which plotly declares as text
            figure.add_vrect(-band, band, fillcolor=BAND, line_width=0, layer="below", **panel)
    largest = own[[f"{side}_cosine" for side in SIDES]].abs().max().max()
    reach = 1.25 * max(float(largest), np.nan_to_num(max(null_cosine.values())))
    figure.update_xaxes(title_text="cosine to the vector", range=(-reach, reach), zeroline=True, zerolinecolor=GREY)
    n = own["feature"].nunique()
    chance = (
        f"Grey: |cosine| that the best of all {n} features stays below in 95 % of {n_random} random directions "
        "of the residual stream's covariance; a bar that ends inside it may be the best by chance. p: how often the best "
        "of all features reaches as far in a random direction."
        if n_random
        else "No statistics of the residual stream were given, so nothing here says which cosines are chance."
    )
    note = f"The {min(top, n)} features with the largest |cosine|; left of zero the vector goes against the feature. {chance}"
    shown = title or f"{label(name)} beside the features of {label(source)}"
    return finish(figure, shown, note, height=240 + 22 * min(top, n), showlegend=False)


def _cosine_bars(best: pd.DataFrame, side: str, color: str) -> go.Bar:
    extra = best[[f"{side}_p", f"{side}_p_corrected", f"{side}_rank"]].to_numpy()
    hover = (
        "feature %{y}, rank %{customdata[2]}<br>cosine %{x:.3f}<br>p %{customdata[0]:.2g} for it alone<br>"
        "p %{customdata[1]:.2g} corrected for all features<extra></extra>"
    )
    text = ["" if np.isnan(p) else f"p {p:.2g}" for p in best[f"{side}_p_corrected"]]
    bar = go.Bar(x=best[f"{side}_cosine"], y=best["feature"].astype(str), orientation="h", text=text, textposition="outside")
    return bar.update(marker_color=color, customdata=extra, hovertemplate=hover, cliponaxis=False)


def plot_decomposition(steps: pd.DataFrame, title: str = "How many features a vector takes") -> go.Figure:
    """Explained norm against number of features, a line per vector, with the band of random directions.

    Args:
        steps: one row per vector and number of features, as `SAEComparison.steps`: vector, n_features, added, explained,
            random_explained and random_explained_high.
    """
    figure = go.Figure()
    longest = max((part for _, part in steps.groupby("vector", sort=False)), key=len)
    if longest["random_explained"].notna().any():
        x = longest["n_features"]
        line = {"color": GREY, "dash": "dot", "width": 2}
        figure.add_trace(curve("random directions, mean", x, longest["random_explained"], "%{x} features<br>%{y:.1%}",
                               line=line, mode="lines"))  # fmt: skip
        figure.add_trace(curve("random directions, 95 % quantile", x, longest["random_explained_high"],
                               "%{x} features<br>%{y:.1%}", line=line | {"dash": "dash"}, mode="lines"))  # fmt: skip
    for number, (name, part) in enumerate(steps.groupby("vector", sort=False)):
        hover = "%{x} features, last added %{customdata}<br>%{y:.1%}"
        figure.add_trace(
            curve(str(name), part["n_features"], part["explained"], hover, line=line_look(number), customdata=part["added"])
        )
    figure.update_xaxes(title_text="features in the sum", dtick=max(1, len(longest) // 16), range=(-0.3, len(longest) - 0.7))
    figure.update_yaxes(title_text="squared norm explained", range=(0, 1.03), tickformat=".0%")
    note = (
        "Nonnegative sums of decoder rows, the best features first. A vector is made of few features if its line rises far "
        "above those of random directions; many features explain some of anything."
    )
    return finish(figure, title, note, legend=LEGEND_BELOW, showlegend=True)


def plot_feature_effects(tokens: pd.DataFrame, layer: int, row: int = 0, title: str | None = None) -> go.Figure:
    """Map of the top features' changes of activation at the tokens of one prompt.

    Args:
        tokens: one row per token and feature, as `FeatureEffects.tokens`, the most changed feature first: row, position,
            token, group, edited, feature, plain, steered and change.
        layer: the block after which the features are read.
        row: which prompt.

    Raises:
        ValueError: there is no such row.
    """
    own = tokens[tokens["row"] == row]
    if own.empty:
        raise ValueError(f"there is no row {row}; there are rows 0 to {tokens['row'].max()}")
    order = list(dict.fromkeys(own["feature"]))
    maps = {
        name: own.pivot(index="feature", columns="position", values=name).loc[order] for name in ("change", "plain", "steered")
    }
    along = own[own["feature"] == order[0]].sort_values("position")
    extra = np.dstack([maps["plain"], maps["steered"], np.tile(along["group"].to_numpy(), (len(order), 1))])
    hover = (
        "token %{x} (%{customdata[2]})<br>feature %{y}<br>change %{z:.3g}<br>plain %{customdata[0]:.3g}, steered "
        "%{customdata[1]:.3g}"
    )
    positions = along["position"].tolist()
    heat = signed_map(maps["change"], positions, [str(f) for f in order], "change of activation", hover, customdata=extra)
    figure = go.Figure(heat)
    figure.update_yaxes(title_text="feature, most changed first", type="category", autorange="reversed")
    text = [_seen(token) for token in along["token"]]
    names = [f"<b>{name}</b>" if edited else name for name, edited in zip(text, along["edited"], strict=True)]
    figure.update_xaxes(title_text="token (bold: edited)", tickvals=positions, tickangle=-60, ticktext=names)
    _mark_response(figure, along)
    note = (
        f"Activation with the vector minus without it, on the same tokens, after block {layer}. Red: the feature is "
        "switched on or turned up; blue: turned down; white: unchanged. Features are ranked by mean |change| over all prompts, "
        "so this prompt's own largest may stand lower."
    )
    shown = title or f"Features that steering moves, prompt {row}"
    return finish(figure, shown, note, height=260 + CELL * len(order))


def _mark_response(figure: go.Figure, tokens: pd.DataFrame) -> None:
    """A line where the response begins."""
    response = tokens.loc[tokens["group"] == "response", "position"]
    if len(response):
        figure.add_vline(x=float(response.min()) - 0.5, line={"color": GREY, "dash": "dot", "width": 1.5})
        figure.add_annotation(x=float(response.min()) - 0.5, y=1, yref="paper", yanchor="bottom", xanchor="left",
                              text="response →", showarrow=False)  # fmt: skip


def _seen(token: Any) -> str:
    """A token as plotly shows it literally, with signs for what cannot be seen."""
    return label(visible(str(token)))


def plot_effect_recovery(
    steps: pd.DataFrame | Mapping[str, pd.DataFrame], title: str = "The effect of a vector's best features"
) -> go.Figure:
    """Share of the effect recovered against number of features, with intervals, beside random features and norm explained.

    Args:
        steps: of one vector, or of several by name: one row per number of features, as `EffectRecovery.steps`: k,
            norm_explained, and kl_recovered, loss_recovered and random_kl_recovered, each with _low and _high.
    """
    named = {"": steps} if isinstance(steps, pd.DataFrame) else dict(steps)
    figure = go.Figure()
    for number, (vector, own) in enumerate(named.items()):
        name = f"{vector}: " if len(named) > 1 else ""
        color = COLORS[number % len(COLORS)]
        for shown, column, symbol, dash in (
            ("effect recovered (KL)", "kl_recovered", "circle", "solid"),
            ("loss change recovered", "loss_recovered", "diamond", "dashdot"),
            ("random features (KL)", "random_kl_recovered", "x", "dot"),
        ):
            if own[column].notna().any():
                grey = column.startswith("random") and len(named) == 1
                line = {"color": GREY if grey else color, "dash": dash}
                figure.add_trace(_share_curve(own, name + shown, column, line, symbol))
        hover = "%{x} features<br>%{y:.1%} of the squared norm"
        line = {"color": color if len(named) > 1 else COLORS[1], "dash": "dash", "width": 2}
        figure.add_trace(curve(f"{name}squared norm explained", own["k"], own["norm_explained"], hover, line=line))
    ks = sorted({k for own in named.values() for k in own["k"]})
    figure.add_hline(y=1, line={"color": GREY, "width": 1})
    figure.update_xaxes(
        title_text="features that replace the vector (log scale)", type="log", tickvals=ks, ticktext=list(map(str, ks))
    )
    figure.update_yaxes(title_text="share", tickformat=".0%")
    note = (
        "1 - KL(steered || replaced) / KL(steered || plain) over response tokens: 100 % means that the features do all that "
        "the vector does, 0 that they do no better than no vector. Bars: 95 % bootstrap over prompts. Compare with as many "
        "random features fitted in the same way; norm explained is not effect."
    )
    return finish(figure, title, note, height=540, legend=LEGEND_BELOW, showlegend=True)


def _share_curve(steps: pd.DataFrame, name: str, column: str, line: dict[str, Any], symbol: str) -> go.Scatter:
    value = steps[column]
    error = {
        "type": "data",
        "symmetric": False,
        "array": (steps[f"{column}_high"] - value).clip(lower=0),
        "arrayminus": (value - steps[f"{column}_low"]).clip(lower=0),
        "thickness": 1.2,
        "width": 4,
    }
    extra = steps[[f"{column}_low", f"{column}_high"]].to_numpy()
    hover = "%{x} features<br>%{y:.1%} (%{customdata[0]:.1%} to %{customdata[1]:.1%})"
    marker = {"symbol": symbol, "size": 8}
    return curve(name, steps["k"], value, hover, line=line | {"width": 2}, error_y=error, customdata=extra, marker=marker)


def plot_residual_statistics(frame: pd.DataFrame, summary: str, title: str = "Spread of the residual stream") -> go.Figure:
    """Cumulative share of variance against number of principal components.

    Args:
        frame: one row per component, the largest first: component (from 0) and cumulative (share of variance, 0 to 1).
        summary: what the numbers are, in a sentence, under the title.
    """
    figure = go.Figure(
        curve("residual stream", frame["component"] + 1, frame["cumulative"], "%{x} components<br>%{y:.1%}", line=line_look(0))
    )
    n = len(frame)
    even = {"color": GREY, "dash": "dot", "width": 2}
    figure.add_trace(curve("isotropic", [1, n], [1 / n, 1], "%{x} components<br>%{y:.1%}", line=even, mode="lines"))
    figure.update_xaxes(title_text="principal components, largest first")
    figure.update_yaxes(title_text="share of variance, cumulative", range=(0, 1.03), tickformat=".0%")
    note = f"{summary} Far above the dotted line, its random directions are far from isotropic ones."
    return finish(figure, title, note, legend=LEGEND_BELOW, showlegend=True)
