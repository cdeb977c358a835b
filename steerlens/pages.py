"""One self-contained HTML page: text, tables and figures, readable from disk without a network."""

import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from .vector import write_atomically

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:1rem 0;width:100%}
th,td{border:1px solid #ccc;padding:.4rem .6rem;text-align:left;vertical-align:top}
th{background:#f2f4f7}td.number{text-align:right;font-variant-numeric:tabular-nums}p.note{color:#555}
"""

Part = str | pd.DataFrame | go.Figure
"""A paragraph ("# ..." makes it a heading), a table, or a figure."""


def write_page(path: str | Path, title: str, parts: Sequence[Part]) -> Path:
    """Write a page, atomically. Plotly's script stands in it once, and only if there is a figure."""
    body = "\n".join(_render(part) for part in parts)
    script = f"<script>{get_plotlyjs()}</script>" if any(isinstance(part, go.Figure) for part in parts) else ""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>{script}'
    page = f"<!doctype html><html lang=en><head>{head}</head><body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>"
    target = Path(path)
    write_atomically(target, page.encode())
    return target


def _render(part: Part) -> str:
    if isinstance(part, go.Figure):
        return part.to_html(full_html=False, include_plotlyjs=False)
    if isinstance(part, pd.DataFrame):
        return _table(part)
    if part.startswith("# "):
        return f"<h2>{html.escape(part[2:])}</h2>"
    return f"<p>{html.escape(part)}</p>"


def _table(frame: pd.DataFrame) -> str:
    """Numbers with two decimals on the right, text wrapped on the left."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    rows = ["".join(map(_cell, row)) for row in frame.itertuples(index=False)]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"<td class=number>{value:.2f}</td>"
    return f"<td>{html.escape(str(value))}</td>"
