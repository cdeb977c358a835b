"""Maps of a sweep's scores: means over seeds and then concepts, their intervals, and the figure."""

import html
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerlens import Sweep, figures
from steerlens.sweeps import cell as cells

NAN = float("nan")
FORMS = ("add", "clamp", "null", "loreft", "direft")


def planted(scores: dict[tuple[str, int, int, str], float | None]) -> Sweep:
    """A sweep with given scores by (concept, seed, epochs, positions); None = the cell has not run."""
    listed, rows = [], []
    for (concept, seed, epochs, positions), value in scores.items():
        cell = cells.Cell(concept, seed, {"epochs": epochs, "positions": positions})
        listed.append(cell)
        if value is not None:
            rows.append({"key": cell.key, "concept": concept, "seed": seed, "overall": value, "unscored": 1})
    return Sweep("nowhere", tuple(listed), pd.DataFrame(rows), pd.DataFrame(), ("epochs", "positions"))


def test_a_map_is_the_mean_over_seeds_and_then_over_concepts() -> None:
    swept = planted(
        {("a", 1, 2, "all"): 1.0, ("a", 2, 2, "all"): 2.0, ("b", 1, 2, "all"): 0.0, ("b", 2, 2, "all"): None}
        | {("a", 1, 3, "all"): None, ("a", 2, 3, "all"): None, ("b", 1, 3, "all"): None, ("b", 2, 3, "all"): None}
    )
    table = swept.heatmap("epochs", "positions")
    assert table.columns.tolist()[:5] == ["positions", "epochs", "overall", "low", "high"]
    assert table["overall"].iloc[0] == 0.75  # not the mean over cells, 1.0
    assert table[["concepts", "seeds", "cells", "missing", "unscored"]].iloc[0].tolist() == [2, 2, 3, 1, 3]
    assert table["overall"].isna().tolist() == [False, True]
    assert table["missing"].tolist() == [1, 4]
    # two concepts: a resampled mean is 0, 0.75 or 1.5 with probabilities 1/4, 1/2, 1/4
    assert table[["low", "high"]].iloc[0].tolist() == [0.0, 1.5]
    half = swept.heatmap("epochs", "positions", level=0.2).iloc[0]
    assert (half["low"], half["high"]) == (0.75, 0.75)


def test_the_interval_covers_what_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for trial in range(60):
        true = rng.normal(1.0, 0.2, size=30)  # concepts
        scores = {(f"c{i}", seed, 1, "all"): value + rng.normal(0, 0.05) for i, value in enumerate(true) for seed in (1, 2)}
        row = planted(scores).heatmap("epochs", "positions", seed=trial).iloc[0]
        hits += row["low"] <= 1.0 <= row["high"]
    assert 50 <= hits <= 60  # 95 % of 60 is 57


def test_one_concept_has_an_interval_over_seeds() -> None:
    row = planted({("a", 1, 2, "all"): 1.0, ("a", 2, 2, "all"): 2.0}).heatmap("epochs", "positions").iloc[0]
    assert (row["overall"], row["low"], row["high"], row["concepts"]) == (1.5, 1.0, 2.0, 1)
    alone = planted({("a", 1, 2, "all"): 1.0}).heatmap("epochs", "positions").iloc[0]
    assert alone["overall"] == 1.0
    assert np.isnan(alone["low"])


# --- the figure -------------------------------------------------------------------------------------------------------


def test_the_figure_shows_each_map_and_marks_what_is_missing() -> None:
    scores = {("a", seed, epochs, "all"): 0.1 * seed + epochs / 4 for seed in (1, 2) for epochs in (1, 2)}
    swept = planted(scores | {("a", 1, 1, "p2+s2"): 1.0, ("a", 2, 1, "p2+s2"): None, ("a", 1, 2, "p2+s2"): None})
    figure: Any = swept.plot("epochs", "positions")
    (drawn,) = figure.data
    assert list(drawn.x) == ["1", "2"] and list(drawn.y) == ["all", "p2+s2"]
    np.testing.assert_allclose(np.array(drawn.z, dtype=float), [[0.4, 0.65], [1.0, np.nan]])
    assert [list(row) for row in drawn.text] == [["0.40", "0.65"], ["1.00*", "none"]]
    assert "hover for the range over its seeds (2: too few for an interval)" in said(figure)
    assert (
        list(drawn.customdata[0][0]) == ["range 0.35 to 0.45 of 2 seeds", 1, 2, 2, 0, 2]
        and drawn.customdata[1][0][0] == "no interval"
    )
    assert figure.layout.coloraxis.cmin == 0 and figure.layout.coloraxis.cmax == 2
    assert figure.layout.coloraxis.colorbar.title.text == "mean overall (0 to 2)"
    assert "* = cells are missing" in figure.layout.title.subtitle.text and "0 to 2 cells" in figure.layout.title.subtitle.text
    assert figure.layout.xaxis.title.text == "epochs" and figure.layout.yaxis.title.text == "positions"


def grid_of(**axes: Sequence[Any]) -> Sweep:
    """A sweep with the score 1 at every combination of values."""
    listed = [cells.Cell("a", 1, dict(zip(axes, values, strict=True))) for values in product(*axes.values())]
    rows = [{"key": cell.key, "concept": "a", "seed": 1, "overall": 1.0, "norm": 3.0, "unscored": 0} for cell in listed]
    return Sweep("nowhere", tuple(listed), pd.DataFrame(rows), pd.DataFrame(), tuple(axes))


def test_without_axes_all_that_vary_are_drawn() -> None:
    swept = grid_of(layer=[3], form=["add", "clamp"], rank=[1, 2], epochs=[5, 6])
    figure: Any = swept.plot()
    assert figure == swept.plot("form", "rank", by=["epochs"])
    assert swept.plot(by=["rank"]) == swept.plot("form", "epochs", by=["rank"])
    assert swept.plot(where={"form": "add", "epochs": 5}) == swept.plot("rank", "layer", where={"form": "add", "epochs": 5})
    assert grid_of(layer=[3], form=["add"]).plot() == grid_of(layer=[3], form=["add"]).plot("layer", "form")
    figure = grid_of(layer=[3, 4]).plot()
    (drawn,) = figure.data
    assert (list(drawn.x), list(drawn.y)) == (["3", "4"], ["overall"])
    figure = grid_of(layer=[3, 4], form=["add", "clamp"]).plot("layer", by=["form"], score="norm")
    assert [list(trace.y) for trace in figure.data] == [["norm"], ["norm"]]
    with pytest.raises(ValueError, match="by names every axis, layer: leave out"):
        grid_of(layer=[3]).plot(by=["layer"])
    with pytest.raises(ValueError, match="y is 'form' and x is not given"):
        swept.plot(y="form")
    with pytest.raises(ValueError, match=r"a mean over rank .* would hide"):
        swept.plot("form", by=["epochs"])


def test_a_map_for_each_value_of_further_axes() -> None:
    table = planted({("a", 1, epochs, "all"): float(epochs) for epochs in (1, 2)}).heatmap("epochs", "positions")
    figure: Any = figures.plot_heatmap(pd.concat([pd.DataFrame({"form": form} | dict(table)) for form in FORMS]))
    titles = [note.text for note in figure.layout.annotations]
    assert titles == [f"form {form}" for form in FORMS] and len(figure.data) == 5
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}


def made(xs: Sequence[Any], ys: Sequence[Any] = ("all",), heads: Sequence[Any] = (), **counts: int | float) -> pd.DataFrame:
    """A frame as `heatmap` gives it, the score counting up by place."""
    places = [{"head": head, "y": y, "x": x} for head in heads or [None] for y in ys for x in xs]
    shared = {"low": 0.0, "high": 1.0, "concepts": 9, "seeds": 1, "cells": 9, "missing": 0, "unscored": 0} | counts
    table = pd.DataFrame([place | {"overall": n / 10} | shared for n, place in enumerate(places)])
    return table if heads else table.drop(columns="head")


def draw(frame: pd.DataFrame) -> Any:
    return figures.plot_heatmap(frame)


def said(figure: Any) -> str:
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def test_numbers_stand_in_their_order_and_words_in_the_grids() -> None:
    figure = draw(made([1, 10, 0.1, None], ["p2+s2", "all"], heads=[8, 1]))
    first, second = figure.data
    assert list(first.x) == ["0.1", "1", "10", "not given"] and list(first.y) == ["p2+s2", "all"]
    np.testing.assert_allclose(np.array(first.z, float), [[1.0, 0.8, 0.9, 1.1], [1.4, 1.2, 1.3, 1.5]])  # of head 1
    np.testing.assert_allclose(np.array(second.z, float), [[0.2, 0.0, 0.1, 0.3], [0.6, 0.4, 0.5, 0.7]])
    assert [note.text for note in figure.layout.annotations] == ["head 1", "head 8"]
    for axis in [*figure.select_xaxes(), *figure.select_yaxes()]:
        assert (axis.type, axis.categoryorder) == ("category", "array")
    assert figure.layout.xaxis.categoryarray == ("0.1", "1", "10", "not given")


def test_settings_that_nearly_read_the_same_keep_their_own_cells() -> None:
    (drawn,) = draw(made([0.1234567, 0.12345674, 0.5], [1, "1"])).data
    assert list(drawn.x) == ["0.1234567", "0.12345674", "0.5"] and list(drawn.y) == ["1", "'1'"]
    np.testing.assert_allclose(np.array(drawn.z, float), [[0, 0.1, 0.2], [0.3, 0.4, 0.5]])


def test_settings_are_shown_as_they_are_written() -> None:
    figure = draw(made(["<b>0</b>", (1, 0.5)], ["a&b"], heads=["<i>" + " long" * 9, "s"]))
    assert list(figure.data[0].x) == ["&lt;b&gt;0&lt;/b&gt;", "1, 0.5"] and list(figure.data[0].y) == ["a&amp;b"]
    head = figure.layout.annotations[0].text
    assert head.startswith("head &lt;i&gt; long") and head.count("<br>") == 1
    assert max(map(len, html.unescape(head).split("<br>"))) <= 32, "it stays over its own map"


@pytest.mark.parametrize("n", [1, 2, 4, 5, 9])
def test_rows_of_maps_leave_each_other_room(n: int) -> None:
    """Pixels, whatever the number of rows: an axis title, tick names and the next map's title."""
    figure = draw(made([1, 2], [1, 2], heads=list(range(n))))
    spans = sorted({axis.domain for axis in figure.select_yaxes()})
    area = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert len(spans) == -(-n // 2) and len({axis.domain for axis in figure.select_xaxes()}) == min(n, 2)
    assert all((high - low) * area >= 200 for low, high in spans)
    assert all((above[0] - below[1]) * area >= 90 for below, above in pairwise(spans))


def test_the_range_of_few_units_is_not_called_an_interval() -> None:
    few, enough, alone = made([1], concepts=4), made([2], concepts=5), made([3], concepts=1, seeds=1, low=NAN, high=NAN)
    hovers = [str(trace.customdata[0][0][0]) for frame in (few, enough, alone) for trace in draw(frame).data]
    assert hovers == ["range 0 to 1 of 4 concepts", "95 % 0 to 1", "no interval"]
    assert "hover for the range over its concepts (4: too few for an interval)." in said(draw(few))
    assert "median width" not in said(draw(few))
    assert said(draw(enough)).endswith("hover for its 95 % interval (median width 1).")
    both = said(draw(pd.concat([few, enough, alone], ignore_index=True)))
    assert both.endswith("95 % interval (median width 1), or the range where there are fewer than 5 concepts.")
    assert "no intervals" in said(draw(alone))


def test_a_frame_that_is_no_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no column cells, concepts, high, low, .*give what Sweep.heatmap returns"):
        figures.plot_heatmap(pd.DataFrame({"overall": [1.0]}))
