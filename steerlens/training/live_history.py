"""Training as it runs: curves in a notebook, lines of text elsewhere.

steerlens.train(model, data, layer=2, callbacks=[LiveHistory()])
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
from tqdm import tqdm

from .callbacks import Step

FIGURE_EVERY = 0.4
"""Seconds between two drawings, at least."""
TEXT_EVERY = 1.0
"""Seconds between two rounds of text, at least."""
PATIENCE = 5
"""A drawing is followed by this many times its own duration without one, so that the view never takes over."""
MOST_CURVES, MOST_LINES = 12, 4
"""Vectors that are drawn, or told in text; of others only their number."""

Show = Callable[[Any], Any]


class LiveHistory:
    """A callback for `train` and `train_many` that shows loss, factor, norm and the direction's cosine to its start.

    In Jupyter it is a figure that grows while the cell runs (it needs the extra "notebook": ipywidgets and anywidget), with
    one line per vector. Elsewhere, and where the figure cannot be shown, it prints a line at most every second, and the last
    step in any case. A view that fails never stops the training: it goes on in text, and says why. One `LiveHistory` may be
    given to several trainings; a name that comes again starts its line again.

    The figure is gone when the notebook is closed: keep `steerlens.figures.plot_history(sv.history)`.

    Args:
        show: what displays the widget; None = IPython's `display` in a notebook, and text anywhere else.
    """

    def __init__(self, show: Show | None = None) -> None:
        self._show = show
        self._view: Callable[[], None] | None = None
        self._rows: dict[tuple[str, int], list[dict[str, int | float]]] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._widget: Any = None
        self._drawn: list[str] = []
        self._due = 0.0

    def __call__(self, step: Step) -> None:
        """Take in one step, and show it if it is time to."""
        key = (step.name, step.layer)
        number = int(step.row["step"])
        if number == 0:
            self._rows[key] = []
        self._rows[key].append(dict(step.row))
        self._ends[key] = step.n_steps
        # a first round is waited for, so that all vectors of a training come into the view together
        if self._all_over() or (number > 0 and time.monotonic() >= self._due):
            self._draw()

    def histories(self) -> dict[str, pd.DataFrame]:
        """What has been seen so far, by name (and layer, where a name has several)."""
        return {name: pd.DataFrame(self._rows[key]) for name, key in self._named().items()}

    def _named(self) -> dict[str, tuple[str, int]]:
        names = [name for name, _ in self._rows]
        return {f"{name}, layer {layer}" if names.count(name) > 1 else name: (name, layer) for name, layer in self._rows}

    def _all_over(self) -> bool:
        return all(len(rows) >= self._ends[key] for key, rows in self._rows.items())

    def _draw(self) -> None:
        began = time.monotonic()
        if self._view is None:
            self._view = self._choose()
        try:
            self._view()
        except Exception as error:  # whatever a front end may do: training is worth more than its picture
            if self._view != self._print:
                _say(f"the live figure failed ({type(error).__name__}: {error}); going on in text")
                self._view = self._print
                self._print()
        now = time.monotonic()
        pause = TEXT_EVERY if self._view == self._print else FIGURE_EVERY
        self._due = now + max(pause, PATIENCE * (now - began))

    def _choose(self) -> Callable[[], None]:
        if self._show is None:
            self._show = _notebook_display()
        return self._print if self._show is None else self._plot

    # --- the figure -------------------------------------------------------------------------------------------------

    def _plot(self) -> None:
        named = dict(list(self._named().items())[:MOST_CURVES])
        if self._widget is None or list(named) != self._drawn:
            self._begin(list(named))
            return
        from ..figures.training import HISTORY_PANELS

        traces = iter(self._widget.data)
        with self._widget.batch_update():
            self._widget.layout.title.text = self._title()
            for panel in HISTORY_PANELS:
                for key in named.values():
                    trace, rows = next(traces), self._rows[key]
                    trace.x, trace.y = [row["step"] for row in rows], [row[panel.column] for row in rows]

    def _begin(self, names: list[str]) -> None:
        """Show the figure, or put other lines into the one that is shown."""
        import plotly.graph_objects as go

        from ..figures import plot_history

        histories = self.histories()
        figure = plot_history({name: histories[name] for name in names}, self._title())
        if self._widget is None:
            widget = go.FigureWidget(figure)
            assert self._show is not None
            self._show(widget)
            self._widget = widget
        else:
            self._widget.data = ()
            self._widget.add_traces(figure.data)
            self._widget.layout.title.text = self._title()
        self._drawn = names

    def _title(self) -> str:
        hidden = f", {MOST_CURVES} of {len(self._rows)} vectors" if len(self._rows) > MOST_CURVES else ""
        return f"Training: {'done' if self._all_over() else self._progress()}{hidden}"

    def _progress(self) -> str:
        done, total = sum(map(len, self._rows.values())), sum(self._ends.values())
        return f"{100 * done // total} %"

    # --- text ---------------------------------------------------------------------------------------------------------

    def _print(self) -> None:
        named = self._named()
        for name, key in list(named.items())[:MOST_LINES]:
            row = self._rows[key][-1]
            _say(
                f"{name}: step {row['step'] + 1}/{self._ends[key]}, loss {row['loss']:.3f}, factor {row['factor']:.2f}, norm "
                f"{row['vector_norm']:.2f}, cosine to the start {row['cos_init']:.3f}"
            )
        if len(named) > MOST_LINES:
            _say(f"... and {len(named) - MOST_LINES} more")


def _say(text: str) -> None:
    """Print beside a progress bar; a closed output is no reason to stop training."""
    try:
        tqdm.write(text)
    except Exception:
        return


def _notebook_display() -> Show | None:
    """IPython's display in a Jupyter kernel with the widget packages, else None."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    try:
        import anywidget  # noqa: F401  (plotly imports it, when the figure is made: only to see that it is there)
        import ipywidgets  # noqa: F401  (the same)
    except ImportError:
        _say('no live figure: it needs the extra "notebook" (pip install "steerlens[notebook]"); going on in text')
        return None
    from IPython.display import display

    return display
