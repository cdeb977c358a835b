"""Figures carry what they say; pages stand alone."""

import html
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

import steerlens
from steerlens import LayerScan, Selection, SteeringVector, figures
from steerlens.display.html_page import write_page
from steerlens.evaluation.factor_selection import Selections
from steerlens.figures import style

HISTORY = pd.DataFrame(
    {"step": [0, 1], "loss": [2.0, 1.0], "factor": [4.0, 5.0], "vector_norm": [8.0, 9.0], "cos_init": [1.0, 0.5]}
)
NAN = float("nan")
VECTOR = SteeringVector(torch.ones(4), 1.0, 0)


def scan(*, judged: bool) -> LayerScan:
    """Rows that are not in the order of the layers; the best of judged ones is 2, of the others 6."""
    frame = pd.DataFrame({"layer": [6, 2, 4], "held_out_loss": [1.1, 1.3, 1.2], "unsteered_loss": [1.5] * 3})
    if judged:
        scores = {"concept_score": [1.0, 1.2, 0.5], "instruct_score": [2.0, 1.9, NAN], "fluency_score": [1.8, 1.7, 1.6]}
        overall = {"overall": [1.0, 1.4, None], "overall_low": [0.8, 1.1, None], "overall_high": [1.3, 1.6, None]}
        frame = frame.assign(**scores, **overall, n=[4] * 3, unscored=[0, 0, 4])
    frame.attrs["objective"] = "lang"
    return LayerScan(frame, {})


def selection(overall: dict[float, float], fair: float | None = 1.0, concept: str = "sea") -> Selection:
    """One prompt per factor, with three equal ratings."""
    ratings = [f"{name}_score" for name in ("concept", "instruct", "fluency")]
    rows = [
        {"factor": factor, "concept": concept, "overall": score} | dict.fromkeys(ratings, score)
        for factor, score in overall.items()
    ]
    best = max(overall, key=lambda factor: overall[factor])
    return Selection(pd.DataFrame(rows), best, VECTOR.replace(factor=best), overall[best], fair, 0.1, 20)


def by_name(figure: Any) -> dict[str, Any]:
    assert len({trace.name for trace in figure.data}) == len(figure.data)
    return {trace.name: trace for trace in figure.data}


def texts(figure: Any) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


def check_words(figure: Any, x: str, *ys: str) -> None:
    """Title, axes and hover of a figure; of panels over one another only the last names the shared axis."""
    assert figure.layout.title.text
    assert [axis.title.text for axis in figure.select_xaxes()][-1] == x
    assert [axis.title.text for axis in figure.select_yaxes()] == list(ys)
    assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in figure.data)
    assert figure.layout.margin.t >= 80


def check_told_apart(traces: Sequence[Any]) -> None:
    looks = [(trace.line.color, trace.line.dash) for trace in traces]
    assert len(set(looks)) == len(looks)
    assert {color for color, _ in looks} <= {*style.COLORS, style.GREY}


# --- training ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("n", [3, 20])
def test_trajectories(n: int) -> None:
    steps = np.arange(4)
    histories = {
        f"v{k}": pd.DataFrame({"step": steps, "factor": 4.0 + k * steps, "direction_norm": 1 + k * steps**2}) for k in range(n)
    }
    figure = figures.plot_trajectories(histories)
    traces = by_name(figure)
    assert list(traces) == list(histories)
    for name, trace in traces.items():
        assert list(trace.x) == histories[name]["factor"].tolist()
        assert list(trace.y) == histories[name]["direction_norm"].tolist()
        assert list(trace.customdata) == [0, 1, 2, 3]
        first, *between, last = zip(trace.marker.size, trace.marker.color, strict=True)
        assert first == (11, "white") and last == (11, trace.line.color)
        assert {size for size, _ in between} == {0}
    check_told_apart(list(traces.values()))
    check_words(figure, "factor (alpha, a number)", "norm of the direction (residual-stream units)")
    assert "Open circle: after the first step" in figure.layout.title.subtitle.text


# --- layers -----------------------------------------------------------------------------------------------------------

LAYER_AXIS = "layer (0-based block whose output is edited)"


def test_scan_by_loss() -> None:
    figure = scan(judged=False).plot()
    traces = by_name(figure)
    assert list(traces) == ["held-out loss", "unsteered loss"]
    assert list(traces["held-out loss"].x) == [2, 4, 6] and list(traces["held-out loss"].y) == [1.3, 1.2, 1.1]
    assert list(traces["unsteered loss"].y) == [1.5, 1.5] and traces["unsteered loss"].line.dash == "dash"
    assert figure.layout.xaxis.range == (1.5, 6.5)
    check_words(figure, LAYER_AXIS, "loss (lang: nats per token)")
    check_told_apart(list(traces.values()))
    assert texts(figure) == ["best: layer 6"] and [shape.x0 for shape in figure.layout.shapes] == [6]
    assert figure.layout.title.subtitle.text.startswith("layer 6 is the best of 3: held-out loss 1.100")


def test_scan_judged() -> None:
    figure = scan(judged=True).plot()
    traces = by_name(figure)
    assert list(traces) == ["held-out loss", "unsteered loss", "overall", "concept", "instruct", "fluency"]
    overall = traces["overall"]
    assert list(overall.x) == [2, 4, 6]
    np.testing.assert_array_equal(overall.y, [1.4, NAN, 1.0])
    np.testing.assert_allclose(overall.error_y.array, [0.2, NAN, 0.3])
    np.testing.assert_allclose(overall.error_y.arrayminus, [0.3, NAN, 0.2])
    assert list(traces["concept"].y) == [1.2, 0.5, 1.0]
    assert all(traces[name].line.width < overall.line.width for name in ("concept", "instruct", "fluency"))
    check_words(figure, LAYER_AXIS, "loss (lang: nats per token)", "mean score (0 to 2)")
    check_told_apart([traces[name] for name in ("overall", "concept", "instruct", "fluency")])
    assert texts(figure) == ["best: layer 2"] and {shape.x0 for shape in figure.layout.shapes} == {2}
    assert {trace.yaxis for trace in list(traces.values())[2:]} == {"y2"}
    low, high = figure.layout.yaxis2.range
    assert -0.2 < low < 0 and 2 < high < 2.2


def test_scan_names_its_loss() -> None:
    other = scan(judged=False).frame
    other.attrs["objective"] = "simpo"
    check_words(LayerScan(other, {}).plot(), LAYER_AXIS, "loss (simpo: mean over examples)")
    other.attrs.clear()
    check_words(LayerScan(other, {}).plot(), LAYER_AXIS, "loss")


def test_scan_in_which_no_response_was_scored_is_one_by_loss() -> None:
    frame = scan(judged=True).frame.assign(overall=None, overall_low=None, overall_high=None)
    assert len(by_name(LayerScan(frame, {}).plot())) == 2


# --- factors ----------------------------------------------------------------------------------------------------------


def test_selection_of_one_concept() -> None:
    one = selection({4.0: 1.0, 1.0: 0.5, 8.0: 1.5}, fair=1.25)
    figure = one.plot()
    traces = by_name(figure)
    assert list(traces) == ["overall", "concept", "instruct", "fluency"]
    for trace in traces.values():
        assert list(trace.x) == [1, 4, 8] and list(trace.y) == [0.5, 1.0, 1.5]
    check_told_apart(list(traces.values()))
    check_words(figure, "factor (alpha, a number)", "mean score (0 to 2)")
    assert texts(figure) == ["chosen: 8"] and [shape.x0 for shape in figure.layout.shapes] == [8]
    assert figure.layout.title.text == "Scores by factor: sea"
    assert "Fair 1.25" in figure.layout.title.subtitle.text and "oracle 1.50" in figure.layout.title.subtitle.text
    assert Selections({"sea": one}).plot() == figure
    assert "No fair score, oracle 1.50" in selection({8.0: 1.5}, None).plot().layout.title.subtitle.text


def test_selections_of_several_concepts() -> None:
    chosen = {"sea": selection({4.0: 1.0, 1.0: 0.5}, 0.8), "war": selection({4.0: 0.5, 1.0: 2.0}, None, "war")}
    figure = Selections(chosen).plot()
    traces = by_name(figure)
    assert list(traces) == ["sea", "war", "chosen"]
    assert [list(traces[name].y) for name in ("sea", "war")] == [[0.5, 1.0], [2.0, 0.5]]
    assert list(traces["sea"].x) == [1, 4]
    assert (list(traces["chosen"].x), list(traces["chosen"].y)) == ([4, 1], [1, 2])
    assert list(traces["chosen"].customdata) == ["sea", "war"]
    check_told_apart([traces["sea"], traces["war"]])
    check_words(figure, "factor (alpha, a number)", "mean overall score (0 to 2)")
    note = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert "Fair 0.80" in note and "oracle 1.50" in note and "over 2 concepts" in note


# --- methods ----------------------------------------------------------------------------------------------------------

METHODS = pd.DataFrame(
    {
        "method": ["none", "PrOSV", "FSSV"],
        "overall": [0.0, 1.5, NAN],
        "overall_low": [0.0, 1.25, NAN],
        "overall_high": [0.0, 1.75, NAN],
    }
)


def test_scores_of_methods() -> None:
    figure = figures.plot_scores(METHODS, "My methods")
    (trace,) = by_name(figure).values()
    np.testing.assert_array_equal(trace.x, METHODS["overall"])
    np.testing.assert_array_equal(trace.error_x.array, [0, 0.25, NAN])
    np.testing.assert_array_equal(trace.error_x.arrayminus, [0, 0.25, NAN])
    assert list(trace.y) == [0, 1, 2]
    axis = figure.layout.yaxis
    assert axis.range[0] > axis.range[1], "the first is on top"
    assert list(axis.ticktext) == ["none", "PrOSV", "FSSV (unscored)"] and list(axis.tickvals) == [0, 1, 2]
    check_words(figure, "mean overall score (0 to 2)", "method")
    assert figure.layout.title.text == "My methods"
    low, high = figure.layout.xaxis.range
    assert -0.2 < low < 0 and 2 < high < 2.2


@pytest.mark.parametrize("suffix", ["", "_score"])
def test_ratings_stand_beside_the_overall_score(suffix: str) -> None:
    ratings = {"concept": [0.0, 1.2, 1.0], "instruct": [2.0, 2.0, 2.0], "fluency": [2.0, 1.8, 2.0]}
    frame = METHODS.assign(**{name + suffix: column for name, column in ratings.items()})
    traces = by_name(figures.plot_scores(frame))
    assert list(traces) == ["overall", *ratings]
    for name, column in ratings.items():
        assert list(traces[name].x) == column
        assert traces[name].marker.size < traces["overall"].marker.size and traces[name].error_x.array is None
    rows = np.array([trace.y for trace in traces.values()])
    assert len(np.unique(rows)) == rows.size, "no marker lies on another"
    assert (rows.round() == [0, 1, 2]).all()
    assert len({(trace.marker.color, trace.marker.symbol) for trace in traces.values()}) == 4
    assert {trace.marker.color for trace in traces.values()} <= set(style.COLORS)


def test_names_are_shown_as_they_are_written() -> None:
    """Plotly reads tags in names."""
    name = "<b>bold</b> & long " + "x" * 80
    (shown,) = by_name(figures.plot_trajectories({name: HISTORY.assign(direction_norm=1.0)}))
    assert shown.startswith("&lt;b&gt;bold&lt;/b&gt; &amp; long xx")
    assert shown.endswith("x…") and len(shown) < 70
    figure: Any = figures.plot_scores(METHODS.assign(method=["<b>a", "a method of many words " * 3, "c"]))
    assert figure.layout.yaxis.ticktext[0] == "&lt;b&gt;a"
    assert figure.layout.yaxis.ticktext[1].split("<br>") == [
        "a method of many words a method of many",
        "words a method of many words",
    ]


def test_notes_are_shown_as_they_are_written() -> None:
    """They carry error texts and names."""
    figure: Any = style.finish(go.Figure(), "<i>title</i>", "a < b & <b>error</b> " + "x&" * 60)
    note = figure.layout.title.subtitle.text
    assert note.startswith("a &lt; b &amp; &lt;b&gt;error&lt;/b&gt;") and figure.layout.title.text == "<i>title</i>"
    lines = html.unescape(note).split("<br>")
    assert len(lines) == 2 and max(map(len, lines)) <= style.LONGEST_LINE, "lines are as long as what is read"
    assert "&amp;" in note.replace("&amp;", "", 1) and not re.search("&(?!amp;|lt;|gt;)", note), "no entity is cut"


def test_colors_differ() -> None:
    assert len(set(style.COLORS)) == len(style.COLORS) >= 8
    looks = [style.line_look(number) for number in range(len(style.COLORS) * len(style.DASHES))]
    assert len({(look["color"], look["dash"]) for look in looks}) == len(looks)


# --- pages ------------------------------------------------------------------------------------------------------------


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
