"""One self-contained HTML page: text, tables, figures and views, readable from disk without a network."""

import html
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from ..figures.token_views import DRAW_HEADS, UNPACK, View, circuitsvis_script, packed
from ..files import write_atomically

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.6rem}body>h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:1rem 0;width:100%}
th,td{border:1px solid #ccc;padding:.4rem .6rem;text-align:left;vertical-align:top;overflow-wrap:break-word}
th{background:#f2f4f7}td.number{text-align:right;font-variant-numeric:tabular-nums}p.note{color:#555}
td.text{white-space:pre-line}
"""
_DRAW = """
(async () => {
  const figures = [...document.querySelectorAll(".plotly-figure")], heads = [...document.querySelectorAll(".steerlens-heads")];
  try {
    if (figures.length) await steerlensRun(packedScripts.plotly);
    for (const figure of figures) {
      const given = JSON.parse(figure.nextElementSibling.textContent);
      figure.textContent = "";
      await Plotly.newPlot(figure, given.data, given.layout, {responsive: true, displaylogo: false});
    }
    if (heads.length) await steerlensRun(packedScripts.circuitsvis);
    heads.forEach(steerlensHeads);
  } catch (error) {
    const reason = `This could not be drawn (${error}). It needs a browser of 2023 or later.`;
    for (const place of [...figures, ...heads]) if (!place.children.length) place.textContent = reason;
    console.error(error);
  }
  document.documentElement.dataset.drawn = "yes";
})();
"""
_NO_SCRIPT = "<noscript><p class=note>Scripts are off: texts and tables can be read, figures are not drawn.</p></noscript>"

Part = str | pd.DataFrame | go.Figure | View
"""A paragraph ("# ..." makes it a heading), a table, a figure, or a view of tokens or heads."""


def write_page(path: str | Path, title: str, parts: Sequence[Part]) -> Path:
    """Write a page, atomically.

    The scripts of plotly and CircuitsVis stand in it once, packed, and only if something needs them: about 2 MB and 0.5 MB.
    """
    target = Path(path)
    write_atomically(target, page(title, parts).encode())
    return target


def page(title: str, parts: Sequence[Part]) -> str:
    """The HTML that `write_page` writes."""
    body = "\n".join(_render(part) for part in parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    top = f"<h1>{html.escape(title)}</h1>\n{_NO_SCRIPT}"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{top}\n{body}\n{_scripts(parts)}</body></html>"


def _scripts(parts: Sequence[Part]) -> str:
    """What the parts need to be drawn, and no more."""
    sources = {}
    if any(isinstance(part, go.Figure) for part in parts):
        sources["plotly"] = (get_plotlyjs(), f"plotly.js v{get_plotlyjs_version()} (MIT license)")
    if any(isinstance(part, View) and part.heads for part in parts):
        sources["circuitsvis"] = (circuitsvis_script(), "CircuitsVis (MIT license)")
    bundle = "".join(f'// {notice}\npackedScripts.{name} = "{packed(source)}";\n' for name, (source, notice) in sources.items())
    return f"<script>const packedScripts = {{}};\n{bundle}{UNPACK}\n{DRAW_HEADS}{_DRAW}</script>"


def _render(part: Part) -> str:
    if isinstance(part, View):
        return part.html
    if isinstance(part, go.Figure):
        return _figure(part)
    if isinstance(part, pd.DataFrame):
        return _table(part)
    if part.startswith("# "):
        return f"<h2>{html.escape(part[2:])}</h2>"
    return f"<p>{html.escape(part)}</p>"


def _figure(figure: go.Figure) -> str:
    """The place of a figure and its data, which the page's script draws."""
    data = str(figure.to_json()).replace("<", "\\u003c")  # JSON that may stand inside a script element
    room = f'<div class="plotly-figure" style="min-height:{figure.layout.height or 450}px">The figure is drawn here.</div>'
    return f'{room}<script type="application/json">{data}</script>'


def _table(frame: pd.DataFrame) -> str:
    """Numbers on the right, text wrapped on the left."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    rows = ["".join(map(_cell, row)) for row in frame.itertuples(index=False)]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _cell(value: object) -> str:
    """Two decimals, or two digits where those would be zeros; a dash for what is unknown."""
    if value is None or value is pd.NA or (isinstance(value, Real) and math.isnan(value)):
        return "<td>&ndash;</td>"
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"<td class=number>{_number(value)}</td>"
    return f"<td class=text>{html.escape(str(value))}</td>"


def _number(value: Real) -> str:
    if isinstance(value, int):
        return f"{value:d}"
    return f"{value:.2g}" if 0 < abs(float(value)) < 0.01 else f"{value:.2f}"
