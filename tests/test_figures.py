"""Figures carry what they say; pages stand alone."""

import re
from typing import Any

import pandas as pd

import steerlens
from steerlens.pages import write_page

HISTORY = pd.DataFrame(
    {"step": [0, 1], "loss": [2.0, 1.0], "factor": [4.0, 5.0], "vector_norm": [8.0, 9.0], "cos_init": [1.0, 0.5]}
)


def test_history_figure_has_a_trace_per_panel_and_vector():
    figure = steerlens.figures.plot_history({"a": HISTORY, "b": HISTORY * 2})
    traces: Any = figure.data
    assert len(traces) == 8
    first = [trace for trace in traces if trace.name == "a"]
    assert [list(trace.y) for trace in first] == [[2.0, 1.0], [4.0, 5.0], [8.0, 9.0], [1.0, 0.5]]
    titles = {annotation.text for annotation in figure.layout.annotations}
    assert len(titles) == 4
    assert all(axis.title.text for axis in figure.select_yaxes())
    assert all(axis.title.text == "step" for axis in figure.select_xaxes())
    assert figure.layout.title.text


def test_page_holds_everything_and_loads_nothing(tmp_path):
    figure = steerlens.figures.plot_history(HISTORY)
    table = pd.DataFrame({"text": ["<b>&"], "number": [0.123]})
    page = write_page(tmp_path / "page.html", "A <title>", ["# Heading", "words", figure, table, figure]).read_text()
    assert "A &lt;title&gt;" in page
    assert "&lt;b&gt;&amp;" in page
    assert "0.12<" in page
    assert len(re.findall(r"plotly\.js v\d", page)) == 1
    tags = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[^>]*>", page)
    assert tags == []
