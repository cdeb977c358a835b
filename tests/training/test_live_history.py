"""The live view: what it shows, when, and that it never stops a training."""

import time
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient

import steerlens
from steerlens import TrainConfig
from steerlens.training import live_history as live
from steerlens.training.callbacks import Step
from steerlens.training.live_history import MOST_CURVES, MOST_LINES, LiveHistory

QUICK = TrainConfig(epochs=4, batch_size=3, factor_init=0.1, direction_init=2.0, factor_lr=0.3, direction_lr=0.03)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time as the view sees it, set by hand."""
    now = [100.0]
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def step(name: str, number: int, n: int = 10, layer: int = 1) -> Step:
    row = {"step": number, "loss": 3.0 - number, "factor": 4.0 + number, "vector_norm": 8.0, "cos_init": 0.5}
    return Step(name, n, row, layer, torch.zeros(2))


def feed(view: LiveHistory, *names: str, n: int = 10, layer: int = 1) -> None:
    for number in range(n):
        for name in names:
            view(step(name, number, n, layer))


# --- the figure -----------------------------------------------------------------------------------------------------------


def test_the_figure_holds_the_history_of_a_real_training(model: Any, data: Any) -> None:
    shown: list[Any] = []
    view = LiveHistory(show=shown.append)
    sv: Any = steerlens.train(model, data, layer=1, config=QUICK, progress=False, callbacks=[view])
    (widget,) = shown
    columns = ["loss", "factor", "vector_norm", "cos_init"]
    assert [list(trace.y) for trace in widget.data] == [sv.history[column].tolist() for column in columns]
    assert [list(trace.x) for trace in widget.data] == [sv.history["step"].tolist()] * 4
    assert widget.layout.title.text == "Training: done"
    assert view.histories()["fish"].equals(sv.history)
    plain = steerlens.train(model, data, layer=1, config=QUICK, progress=False)
    assert torch.equal(plain.direction, sv.direction)


def test_several_names_and_layers_are_lines_of_one_figure(clock: list[float]) -> None:
    shown: list[Any] = []
    view = LiveHistory(show=shown.append)
    feed(view, "a", "b")
    (widget,) = shown
    assert [trace.name for trace in widget.data[:2]] == ["a", "b"] and len(widget.data) == 8
    feed(view, "b", n=3, layer=5)  # a later training joins
    assert [trace.name for trace in widget.data[:3]] == ["a", "b, layer 1", "b, layer 5"] and len(widget.data) == 12
    assert [len(trace.x) for trace in widget.data[:3]] == [10, 10, 3]
    assert [trace.xaxis for trace in widget.data] == ["x"] * 3 + ["x2"] * 3 + ["x3"] * 3 + ["x4"] * 3
    assert len(shown) == 1
    feed(view, "a", n=4)  # trained again: its line begins again
    assert [len(trace.x) for trace in widget.data[:3]] == [4, 10, 3]


def test_it_draws_seldom_and_at_the_end(clock: list[float]) -> None:
    shown: list[Any] = []
    view = LiveHistory(show=shown.append)
    lengths = []
    for number in range(10):
        clock[0] += 0.11
        for name in ("a", "b"):
            view(step(name, number))
        lengths.append([len(trace.x) for trace in shown[0].data[:2]] if shown else [])
    # from the second step on; then 0.44 s later; all of the last step
    assert lengths == [[], *[[2, 1]] * 4, *[[6, 5]] * 3, *[[6, 5]], [10, 10]]


def test_a_slow_front_end_is_asked_less_often(clock: list[float]) -> None:
    view, drawn = LiveHistory(show=lambda widget: None), []

    def slow() -> None:
        drawn.append(clock[0])
        clock[0] += 2.0

    view._view = slow
    for number in range(40):
        clock[0] += 0.5
        view(step("a", number, 1000))
    assert len(drawn) == 2 and drawn[1] - drawn[0] >= 2 + live.PATIENCE * 2


def test_of_many_vectors_some_are_drawn(clock: list[float]) -> None:
    shown: list[Any] = []
    feed(LiveHistory(show=shown.append), *(f"v{k}" for k in range(20)), n=2)
    assert len(shown[0].data) == 4 * MOST_CURVES
    assert shown[0].layout.title.text == "Training: done, 12 of 20 vectors"


# --- text -----------------------------------------------------------------------------------------------------------------


def test_text_outside_a_notebook(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveHistory()
    for number in range(30):
        clock[0] += 0.1
        view(step("a", number, 30))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a: step 2/30, loss 2.000, factor 5.00, norm 8.00, cosine to the start 0.500"
    assert 3 <= len(lines) <= 5 and lines[-1].startswith("a: step 30/30")


def test_text_of_many_vectors_is_short(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    feed(LiveHistory(), *(f"v{k}" for k in range(7)), n=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "... and 3 more" and lines[-2].startswith(f"v{MOST_LINES - 1}: step 1/1")


# --- failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["showing", "updating"])
def test_a_view_that_fails_goes_on_in_text(
    model: Any, data: Any, when: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(list[Any]):
        def __call__(self, widget: Any) -> None:
            if when == "showing":
                raise RuntimeError("no front end")
            monkeypatch.setattr(widget, "batch_update", lambda: 1 / 0)

    monkeypatch.setattr(live, "FIGURE_EVERY", 0.0)
    monkeypatch.setattr(live, "PATIENCE", 0)
    sv = steerlens.train(model, data, layer=1, config=QUICK, progress=False, callbacks=[LiveHistory(show=Broken())])
    out = capsys.readouterr().out
    assert f"the live figure failed ({'RuntimeError: no front end' if when == 'showing' else 'ZeroDivisionError'}" in out
    assert "going on in text" in out and "fish: step 8/8" in out
    assert out.count("failed") == 1 and sv.history is not None and len(sv.history) == 8


def test_a_closed_output_does_not_stop_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(text: str) -> None:
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(live.tqdm, "write", closed)
    feed(LiveHistory(), "a")


# --- a real kernel --------------------------------------------------------------------------------------------------------

CELL = """
import time, torch
from steerlens import LiveHistory
from steerlens.training.callbacks import Step
view = LiveHistory()
for number in range(5):
    row = {"step": number, "loss": 3.0 - number, "factor": 4.0, "vector_norm": 8.0, "cos_init": 0.5}
    view(Step("a", 5, row, 1, torch.zeros(2)))
    time.sleep(0.3)
print(type(view._widget).__name__, len(view._widget.data), len(view._widget.data[0].x))
"""


@pytest.mark.slow
def test_in_a_notebook(tmp_path: Any) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    began = time.monotonic()
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert time.monotonic() - began < 120
    outputs = notebook.cells[0].outputs
    views = [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
    assert len(views) == 1
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert printed == "FigureWidget 4 5\n"
