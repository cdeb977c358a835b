"""What every result can do: a sentence, a frame, a figure, and a small view in Jupyter made of the first two."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS_SHOWN = 8
COLUMNS_SHOWN = 12
CELL_SHOWN, FACT_SHOWN = 40, 100
"""Characters of a cell, and of a named fact."""
REPR_SHOWN, SENTENCE_SHOWN = 300, 1200
"""Characters of the summary in `repr` and in the view."""
# lines in the text's own colour, faint, and no background: the same in light and dark
_ROW = "border-bottom:1px solid rgba(128,128,128,.35)"
_TABLE = "border-collapse:collapse;background:transparent;color:inherit;font-size:90%"


class Result:
    """Base of every result; a subclass says what its numbers are.

    A dataclass that inherits from it takes `repr=False`, so that the last line of a cell shows a sentence and never pages of
    numbers.
    """

    def summary(self) -> str:
        """What was found, in a sentence or a few."""
        raise NotImplementedError

    def to_frame(self) -> "pd.DataFrame":
        """The numbers, one row per thing that was measured."""
        raise NotImplementedError

    def plot(self) -> "go.Figure":
        """The figure of the result."""
        raise NotImplementedError

    def __repr__(self) -> str:
        line = " ".join(self.summary().split())
        return f"<{type(self).__name__}: {_cut(line, REPR_SHOWN)}>"

    def _repr_html_(self) -> str:
        return html_view(type(self).__name__, self.summary(), self.to_frame())


def html_view(title: str, sentence: str, frame: "pd.DataFrame") -> str:
    """A title, a sentence and the first rows of a frame, as HTML that takes the colours of the page around it."""
    shown = frame.iloc[:ROWS_SHOWN, :COLUMNS_SHOWN]
    rows = [[*map(_text, row)] for row in shown.itertuples(index=False)]
    parts = [_heading(title, sentence), html_table([*map(_text, shown.columns)], rows)]
    left_out = []
    if len(frame) > ROWS_SHOWN:
        left_out.append(f"{ROWS_SHOWN} of {len(frame)} rows")
    if frame.shape[1] > COLUMNS_SHOWN:
        left_out.append(f"{COLUMNS_SHOWN} of {frame.shape[1]} columns")
    if left_out:
        parts.append(f"<div><small>{' and '.join(left_out)} shown; all of them: .to_frame()</small></div>")
    return f"<div>{''.join(parts)}</div>"


def html_facts(title: str, sentence: str, facts: Mapping[str, object]) -> str:
    """A title, a sentence and a two-column table of named facts, in the colours of the page around it."""
    rows = [[name, _text(value, FACT_SHOWN)] for name, value in facts.items()]
    return f"<div>{_heading(title, sentence)}{html_table((), rows)}</div>"


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table that scrolls sideways where it is wider than the page; every text is escaped."""
    head = f"<thead>{_row('th', columns)}</thead>" if columns else ""
    body = "".join(_row("td", row) for row in rows)
    table = f'<table cellpadding="4" style="{_TABLE}">{head}<tbody>{body}</tbody></table>'
    return f'<div style="overflow-x:auto">{table}</div>'


def _row(tag: str, texts: Sequence[str]) -> str:
    cells = "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
    return f'<tr style="{_ROW}">{cells}</tr>'


def _heading(title: str, sentence: str) -> str:
    return f"<div><b>{escape(title)}</b></div><div>{escape(_cut(sentence, SENTENCE_SHOWN))}</div>"


def _text(value: object, longest: int = CELL_SHOWN) -> str:
    """A cell: numbers to four digits, texts cut."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return _cut(str(value), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
