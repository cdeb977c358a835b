"""Where attention moves under steering, between groups of tokens."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..analysis.attention import GROUPS, AttentionEffects
from .style import finish, label, signed_map

NOTE = (
    "Steered minus unsteered attention, same tokens: red is more, blue less. Read along a row: where the tokens of this group "
    "look. Up to the line a row sums to 0; after it edited tokens are counted again. Blank: not visible from there."
)


def plot_attention(effects: AttentionEffects, layer: int | None = None, title: str = "Where attention moves") -> go.Figure:
    """Maps of the change of attention mass from query groups to key groups.

    Args:
        layer: None = one panel per layer, mean over heads; a layer = one panel per head of it.

    Raises:
        ValueError: attention of this layer was not recorded.
    """
    if layer is not None and layer not in effects.layers:
        raise ValueError(f"layer {layer} was not recorded; there are {', '.join(map(str, effects.layers))}")
    frame = effects.by_layer() if layer is None else effects.to_frame().query("layer == @layer")
    by, kind = ("layer", "layer") if layer is None else ("head", f"layer {layer} head")
    panels = list(frame.groupby(by))
    columns = min(len(panels), 2 if layer is None else 4)
    rows = -(-len(panels) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"{kind} {number}" for number, _ in panels],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.12 / rows,
    )
    queries = [group for group in effects.groups if group in GROUPS and (frame["query_group"] == group).any()]
    own = sum(group in GROUPS for group in effects.groups)
    limit = float(frame.loc[frame["query_group"].isin(queries), "change"].abs().max()) or 1.0
    for place, (_, part) in enumerate(panels):
        row, column, lowest = place // columns + 1, place % columns + 1, place + columns >= len(panels)
        figure.add_trace(_panel(part, effects, queries, limit, numbers=layer is None), row, column)
        figure.update_xaxes(showticklabels=lowest, title_text="tokens looked at (key)" if lowest else None, row=row, col=column)
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False, constrain="domain")
    figure.update_xaxes(tickangle=-45, showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="tokens that look (query)", col=1)
    figure.add_vline(x=own - 0.5, line={"color": "#000000", "width": 1.5})
    figure.update_traces(showscale=False)
    figure.data[0].showscale = True
    n = len(effects.plain)
    sign = "Bold" if layer is None else "Dot"
    sure = f"{sign}: the 95 % interval over {n} prompts excludes 0." if n > 1 else "One prompt: no intervals."
    mean = " Mean over heads." if layer is None else ""
    return finish(figure, title, f"{NOTE}{mean} {sure}", height=300 + 240 * rows)


def _panel(frame: pd.DataFrame, effects: AttentionEffects, queries: list[str], limit: float, numbers: bool) -> go.Heatmap:
    """One map, with numbers in its cells or, where there are many maps, only dots."""
    keys = list(effects.groups)
    tables = {
        name: frame.pivot(index="query_group", columns="key_group", values=name).reindex(index=queries, columns=keys)
        for name in ("change", "unsteered", "change_low", "change_high", "n_prompts")
    }
    change, before, low, high, n = (table.to_numpy(float) for table in tables.values())
    blind = (before == 0) & (change == 0)
    sure = (low > 0) | (high < 0)
    words = [
        ["" if hidden else _number(value, bold) if numbers else "•" * bold for value, bold, hidden in zip(*row, strict=True)]
        for row in zip(change.tolist(), sure.tolist(), blind.tolist(), strict=True)
    ]
    hover = (
        "%{y} to %{x}<br>change %{z:+.3f} (95 % interval %{customdata[1]:+.3f} to %{customdata[2]:+.3f})"
        "<br>unsteered %{customdata[0]:.3f}<br>prompts: %{customdata[3]}"
    )
    return signed_map(
        np.where(blind, np.nan, change),
        [_named(key, effects) for key in keys],
        [_named(query, effects) for query in queries],
        "change of attention mass (0 to 1)",
        hover,
        zmin=-limit,
        zmax=limit,
        text=words,
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=np.stack([before, low, high, n], -1),
    )


def _number(value: float, sure: bool) -> str:
    """Without the zero before the point: cells are narrow."""
    text = f"{value:+.2f}".replace("0.", ".").replace("-", "−") if abs(value) >= 0.005 else "0"  # noqa: RUF001 - a minus sign
    return f"<b>{text}</b>" if sure else text


def _named(group: str, effects: AttentionEffects) -> str:
    """A group, and that it is edited as a whole."""
    return label(f"{group} (edited)" if effects.edited_share.get(group) == 1.0 else group)
