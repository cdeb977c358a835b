"""Views of single tokens and heads as HTML that needs no network.

Heads are drawn by CircuitsVis, whose own display would load its script from a CDN: here the script from the installed package
is packed into the page. Tokens are plain HTML, since CircuitsVis reads `<bos>` as a tag, has no colour for an unknown value
and no scale, and since what has no script also shows inside widgets and in a saved notebook.
"""

import base64
import gzip
import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from uuid import uuid4

import numpy as np
import pandas as pd
from jaxtyping import Float
from plotly.colors import sample_colorscale

from ..visible_text import visible
from .style import DIVERGING

NEGATIVE, POSITIVE = "rgb(33,102,172)", "rgb(178,24,43)"
"""Strong blue and red of the diverging scale, for CircuitsVis, which fades them to white itself."""
UNKNOWN = "repeating-linear-gradient(45deg,#ddd 0 3px,#fff 3px 6px)"
"""Background of a token without a value."""
DARK = 0.55
"""Share of the scale from which the background asks for white letters."""
MOST_NUMBERS = 250_000
"""Largest number of attention changes in one view, about 1.5 MB of page."""

UNPACK = """window.steerlensRun ||= async packed => {
  const bytes = Uint8Array.from(atob(packed), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
};"""
"""JavaScript: run a packed script as one of the page."""
DRAW_HEADS = """window.steerlensHeads ||= element => {
  const given = JSON.parse(element.nextElementSibling.textContent);
  element.textContent = "";
  element.id = `steerlens-heads-${window.steerlensDrawn = (window.steerlensDrawn ?? 0) + 1}`;
  CircuitsVis.render(element.id, CircuitsVis.AttentionHeads, given);
};"""
"""JavaScript: draw the heads whose data stand after the element."""
_ALONE = """<script>(async () => {
%s
%s
window.steerlensCircuits ||= steerlensRun("%s");
await window.steerlensCircuits;
let place;
while (!(place = document.getElementById("%s")?.querySelector(".steerlens-heads"))) await new Promise(requestAnimationFrame);
steerlensHeads(place);
})();</script>"""
"""The script of one view that stands for itself; the place may enter the notebook after the script has started."""


@dataclass(frozen=True, repr=False)
class View:
    """A piece of a page.

    In Jupyter a view of heads carries CircuitsVis' script with it, packed to about 0.5 MB, because any output may be cleared or
    saved without the others; it runs once per page. `steerlens.display.html_page.write_page` puts the script into the page
    once.
    """

    html: str
    heads: bool = False
    """Whether CircuitsVis' script is needed."""

    def __repr__(self) -> str:
        writer = "steerlens.display.html_page.write_page"
        return f"<View of {len(self.html)} characters: show it in Jupyter, or write it with {writer}>"

    def _repr_html_(self) -> str:
        if not self.heads:
            return self.html
        own = f"steerlens-{uuid4()}"
        return f'<div id="{own}">{self.html}</div>' + _ALONE % (UNPACK, DRAW_HEADS, packed(circuitsvis_script()), own)


def packed(source: str) -> str:
    """A script as gzip in base64, a third of its size: what `steerlensRun` takes. The same script gives the same text."""
    return base64.b64encode(gzip.compress(source.encode(), 9, mtime=0)).decode()


@cache
def circuitsvis_script() -> str:
    """CircuitsVis as the installed package brings it, without the pointer to a map that is not there."""
    source = (files("circuitsvis") / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    return re.sub(r"\n//# sourceMappingURL=.*", "", source)


def view_tokens(
    tokens: Sequence[str],
    values: Sequence[float | None],
    title: str = "",
    note: str = "",
    unit: str = "",
    *,
    hover: Sequence[str] | None = None,
    limit: float | None = None,
) -> View:
    """Text whose tokens are coloured by a signed number: blue below zero, white at zero, red above.

    Args:
        tokens: as they read on their own; line ends are shown as a sign, and break the line.
        values: one per token; None or NaN = unknown, hatched.
        title, note: above and under the text; the note says what to read.
        unit: of the values, beside the scale.
        hover: more about each token, under the pointer after its value.
        limit: value of the darkest colours, above 0; None = the largest size among the values. Values beyond it are drawn
            like it.

    Raises:
        ValueError: no tokens, other numbers of values or hover texts, an infinite value, or a limit that is not above 0.
    """
    numbers = np.array([math.nan if value is None else value for value in values], dtype=float)
    more = [""] * len(tokens) if hover is None else list(hover)
    if not tokens or len(numbers) != len(tokens) or len(more) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens, {len(numbers)} values and {len(more)} hover texts: give one per token")
    limit = _limit(numbers, limit)
    marks = [_token(*each, unit, limit) for each in zip(tokens, numbers.tolist(), more, strict=True)]
    text = f'<div style="line-height:2;white-space:pre-wrap;overflow-wrap:anywhere">{"".join(marks)}</div>'
    scale = _scale(unit, limit, _colors(9), bool(np.isnan(numbers).any()))
    return View(_framed(title, note, text + scale))


def view_heads(
    tokens: Sequence[str],
    patterns: Float[np.ndarray, "head query key"],
    names: Sequence[str] | None = None,
    title: str = "",
    note: str = "",
    unit: str = "change of attention probability",
    *,
    limit: float | None = None,
) -> View:
    """Attention of each head from every token to those before it, signed, drawn by CircuitsVis: small maps, one enlarged.

    Args:
        tokens: as they read on their own, one per query and key.
        patterns: such as steered minus unsteered probabilities, -1 to 1.
        names: of the heads, such as "3.0"; None = their numbers.
        title, note, unit, limit: as `view_tokens`.

    Raises:
        ValueError: shapes or names that do not go together, a number that is not finite, or more numbers than a page holds.
    """
    heads, queries, keys = patterns.shape
    names = [f"head {head}" for head in range(heads)] if names is None else list(names)
    if not heads or (queries, keys) != (len(tokens), len(tokens)) or len(names) != heads:
        raise ValueError(f"patterns of shape {patterns.shape} do not go with {len(tokens)} tokens and {len(names)} heads")
    if not np.isfinite(patterns).all():
        raise ValueError("the patterns hold NaN or infinite entries")
    if patterns.size > MOST_NUMBERS:
        raise ValueError(f"{patterns.size} numbers are more than a page holds ({MOST_NUMBERS}): give fewer heads or tokens")
    limit = _limit(patterns, limit)
    given = {
        "tokens": [visible(token, spaces=False) for token in tokens],
        "attention": np.round(patterns.astype(float), 4).tolist(),
        "attentionHeadNames": names,
        "maxValue": limit,
        "minValue": -limit,
        "positiveColor": POSITIVE,
        "negativeColor": NEGATIVE,
    }
    body = (
        '<div class="steerlens-heads">The heads are drawn here where scripts run.</div>'
        f'<script type="application/json">{script_json(given)}</script>'
    )
    return View(_framed(title, note, body + _scale(unit, limit, (NEGATIVE, "#fff", POSITIVE))), heads=True)


def view_token_effects(tokens: pd.DataFrame, row: int = 0) -> View:
    """A prompt and its response, coloured by the change of each token's log-probability.

    Args:
        tokens: one row per token, as `TokenEffects.tokens`: row (prompt), token, group, edited, logprob_change and kl.
        row: which prompt.

    Raises:
        ValueError: there is no such row.
    """
    frame = tokens[tokens["row"] == row]
    if frame.empty:
        raise ValueError(f"there is no row {row}: the result has {tokens['row'].nunique()}, counted from 0")
    edited = np.where(frame["edited"], "edited; ", "")
    details = zip(edited, frame["group"], frame["kl"], strict=True)
    return view_tokens(
        frame["token"].tolist(),
        frame["logprob_change"].tolist(),
        f"Prompt {row} and its response",
        "Red: the vector makes this token more likely where it stands; blue: less. Edited tokens are marked under the pointer.",
        "nats: log-probability, steered minus unsteered",
        hover=[f"{mark}{group}\nKL of the next prediction: {kl:.3g} nats" for mark, group, kl in details],
    )


def view_attention_heads(
    patterns: Float[np.ndarray, "layer head query key"], tokens: Sequence[str], layers: Sequence[int], most: int
) -> View:
    """The heads whose attention changes most on one prompt, steered minus unsteered.

    Args:
        patterns: steered minus unsteered probabilities, -1 to 1.
        tokens: of the prompt and its response, as they read on their own.
        layers: numbers of the layers, for the names of the heads.
        most: heads shown; fewer where the prompt is so long that a page would not hold them.

    Raises:
        ValueError: the prompt is too long to draw even one head.
    """
    heads, length = patterns.shape[1], patterns.shape[-1]
    if length**2 > MOST_NUMBERS:
        raise ValueError(f"the first prompt and its response have {length} tokens, too many to draw: put a shorter one first")
    flat = patterns.reshape(-1, length, length)
    names = [f"{layer}.{head}" for layer in layers for head in range(heads)]
    kept = min(most, MOST_NUMBERS // length**2, len(names))
    order = np.argsort(-np.abs(flat).sum((1, 2)), kind="stable")[:kept]
    return view_heads(
        tokens,
        flat[order],
        [names[index] for index in order],
        f"Heads on the first prompt (layer.head), the {kept} of {len(names)} that change most",
        "Rows look at columns. Red: with the vector this token looks there more; blue: less. Point at a head to enlarge it.",
    )


def script_json(value: object) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _limit(numbers: Float[np.ndarray, "..."], limit: float | None) -> float:
    if np.isinf(numbers).any():
        raise ValueError("there are infinite values, which no scale holds: give None where a value is unknown")
    if limit is None:
        return float(np.nanmax(np.abs(numbers), initial=0.0)) or 1.0
    if not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"limit is {limit!r}; it must be finite and above 0")
    return float(limit)


def _colors(points: Sequence[float] | int) -> list[str]:
    """Of the diverging scale, at points from 0 to 1 or at so many of them."""
    return [str(color) for color in sample_colorscale(DIVERGING, points)]


def _token(token: str, value: float, more: str, unit: str, limit: float) -> str:
    """One coloured token with its number under the pointer."""
    known = not math.isnan(value)
    share = max(-1.0, min(1.0, value / limit)) if known else 0.0
    background = _colors([(share + 1) / 2])[0] if known else UNKNOWN
    color = "#fff" if abs(share) > DARK else "#1a1a1a"
    seen = visible(token, spaces=False)
    said = f"{seen}\n{f'{value:+.3g} {unit}' if known else 'unknown'}\n{more}".strip()
    look = f"background:{background};color:{color};padding:2px 0;border-radius:2px;outline:1px solid #e4e4e4"
    line_end = "<br>" * token.count("\n")
    return f'<span class="token" style="{look}" title="{html.escape(said)}">{html.escape(seen)}</span>{line_end}'


def _scale(unit: str, limit: float, colors: Sequence[str], unknown: bool = False) -> str:
    """The colours and what they stand for."""
    stops = f"linear-gradient(to right,{','.join(colors)})"
    bar = f"display:inline-block;width:160px;height:12px;vertical-align:middle;background:{stops}"
    hatched = f'<span style="display:inline-block;width:24px;height:12px;vertical-align:middle;background:{UNKNOWN}"></span>'
    parts = f'{-limit:.3g} <span style="{bar}"></span> +{limit:.3g} {html.escape(unit)}'
    return f'<div style="font-size:13px;color:#444;margin-top:6px">{parts}{f" &nbsp; {hatched} unknown" * unknown}</div>'


def _framed(title: str, note: str, body: str) -> str:
    """On white whatever the page's theme is."""
    head = f'<div style="font-size:17px;margin-bottom:6px">{html.escape(title)}</div>' if title else ""
    foot = f'<div style="font-size:13px;color:#444">{html.escape(note)}</div>' if note else ""
    look = "background:#fff;color:#1a1a1a;padding:8px;margin:12px 0;font-family:system-ui,sans-serif;line-height:1.5"
    return f'<div class="steerlens-view" style="{look}">{head}{body}{foot}</div>'
