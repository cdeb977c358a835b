"""Where attention moves under steering, between groups of tokens."""

from collections.abc import Collection

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import finish, label, signed_map

NOTE = (
    "Steered minus unsteered attention, same tokens: red is more, blue less. Read along a row: where the tokens of this group "
    "look. Up to the line a row sums to 0; after it edited tokens are counted again. Blank: not visible from there."
)


def plot_attention(
    frame: pd.DataFrame, n_prompts: int, edited: Collection[str] = (), title: str = "Where attention moves"
) -> go.Figure:
    """Maps of the change of attention mass from query groups to key groups: one per layer, or one per head.

    Args:
        frame: columns layer, head (-1 = the mean over heads), query_group, key_group (in the order of the axes), overlaps
            (whether the key group's tokens are counted in another one too), n_prompts, unsteered, change, change_low and
            change_high, as `AttentionEffects.to_frame` and `.by_layer` have them.
        n_prompts: prompts in all.
        edited: groups that are edited as a whole.
    """
    by_head = bool((frame["head"] >= 0).any())
    panels = list(frame.groupby(["layer", "head"]))
    columns = min(len(panels), 4 if by_head else 2)
    rows = -(-len(panels) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"layer {layer} head {head}" if by_head else f"layer {layer}" for (layer, head), _ in panels],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.12 / rows,
    )
    keys = list(dict.fromkeys(frame["key_group"]))
    own = set(frame.loc[~frame["overlaps"], "key_group"])
    queries = [group for group in keys if group in own and (frame["query_group"] == group).any()]
    limit = float(frame.loc[frame["query_group"].isin(queries), "change"].abs().max()) or 1.0
    for index, (_, part) in enumerate(panels):
        row, column, lowest = index // columns + 1, index % columns + 1, index + columns >= len(panels)
        cells = _panel(part, keys, queries, edited, numbers=not by_head)
        figure.add_trace(cells.update(zmin=-limit, zmax=limit), row, column)
        figure.update_xaxes(showticklabels=lowest, title_text="tokens looked at (key)" if lowest else None, row=row, col=column)
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False, constrain="domain")
    figure.update_xaxes(tickangle=-45, showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="tokens that look (query)", col=1)
    figure.add_vline(x=len(own) - 0.5, line={"color": "#000000", "width": 1.5})
    figure.update_traces(showscale=False)
    figure.data[0].showscale = True
    sign = "Dot" if by_head else "Bold"
    sure = f"{sign}: the 95 % interval over {n_prompts} prompts excludes 0." if n_prompts > 1 else "One prompt: no intervals."
    mean = "" if by_head else " Mean over heads."
    return finish(figure, title, f"{NOTE}{mean} {sure}", height=300 + 240 * rows)


def _panel(frame: pd.DataFrame, keys: list[str], queries: list[str], edited: Collection[str], numbers: bool) -> go.Heatmap:
    """One map, with numbers in its cells or, where there are many maps, only dots."""
    tables = {
        name: frame.pivot(index="query_group", columns="key_group", values=name).reindex(index=queries, columns=keys)
        for name in ("change", "unsteered", "change_low", "change_high", "n_prompts")
    }
    change, before, low, high, n = (table.to_numpy(float) for table in tables.values())
    blind = (before == 0) & (change == 0)
    sure = (low > 0) | (high < 0)
    written = _number if numbers else _dot
    texts = [
        ["" if hidden else written(value, bold) for value, bold, hidden in zip(*row, strict=True)]
        for row in zip(change.tolist(), sure.tolist(), blind.tolist(), strict=True)
    ]
    hover = (
        "%{y} to %{x}<br>change %{z:+.3f} (95 % interval %{customdata[1]:+.3f} to %{customdata[2]:+.3f})"
        "<br>unsteered %{customdata[0]:.3f}<br>prompts: %{customdata[3]}"
    )
    return signed_map(
        np.where(blind, np.nan, change),
        [_named(key, edited) for key in keys],
        [_named(query, edited) for query in queries],
        "change of attention mass (0 to 1)",
        hover,
        text=texts,
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=np.stack([before, low, high, n], -1),
    )


def _number(value: float, sure: bool) -> str:
    """Without the zero before the point: cells are narrow."""
    text = f"{value:+.2f}".replace("0.", ".").replace("-", "−") if abs(value) >= 0.005 else "0"  # noqa: RUF001 - a minus sign
    return f"<b>{text}</b>" if sure else text


def _dot(_value: float, sure: bool) -> str:
    return "•" if sure else ""


def _named(group: str, edited: Collection[str]) -> str:
    """A group, and that it is edited as a whole."""
    return label(f"{group} (edited)" if group in edited else group)
