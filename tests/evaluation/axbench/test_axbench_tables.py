"""Tables, means, intervals and the figure of an AxBench result, against numbers worked out by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerlens.evaluation.axbench.results import AxBenchResult
from steerlens.intervals import mean_interval


def test_tables_by_hand() -> None:
    scores = {0: [2, 1], 1: [0, None], 2: [1, 1]}
    rows = [
        {
            "concept_id": number,
            "concept": "same" if number else "sea",
            "genre": "code" if number == 1 else "text",
            "overall": one,
        }
        for number, pair in scores.items()
        for one in pair
    ]
    frame = pd.DataFrame(rows).astype({"overall": float}).assign(error=None)
    frame = frame.assign(**{f"{name}_score": frame["overall"] for name in ("concept", "instruct", "fluency")})
    result = AxBenchResult(frame, {0: None, 1: None, 2: None}, {"method": "m"})
    assert result.evaluation.overall == pytest.approx((1.5 + 0 + 1) / 3), "concepts of the same words stay apart"
    assert result.by_concept().index.tolist() == ["sea", "same [1]", "same [2]"]
    assert result.worst(2)["concept_id"].tolist() == [1, 2]
    genres = result.by_genre()
    assert genres.loc["text", "overall"] == pytest.approx(1.25) and genres.loc["text", "concepts"] == 2
    assert genres.loc["code", "unscored"] == 1
    assert result.evaluation.interval() == (0.0, 1.5), "the interval over three concepts is their range"
    assert (genres.loc["text", "overall_low"], genres.loc["text", "overall_high"]) == (1.0, 1.5)
    alone = genres.loc[["code"], ["overall_low", "overall_high"]]
    assert alone.isna().to_numpy().all(), "one concept has no interval over concepts"
    assert "1 of 6 rows are unscored: rejudge=True with the run's own out judges them again" in result.summary()
    assert "overall 0.83 of 2" in result.summary() and "Lowest: same [1] (0.00)" in result.summary()
    figure: Any = result.plot()
    assert {trace.name for trace in figure.data} == {"code", "text"}
    assert figure.layout.xaxis.title.text == "mean overall score (0 to 2)" and figure.layout.title.text
    assert sorted(x for trace in figure.data for x in trace.x) == [0, 1, 1.5]


def drawn(n: int, name: str = "c", responses: int = 6) -> Any:
    """The figure of concepts with scores 0, 1, 2, 0, ... of their responses; the last concept is unscored."""
    rows = [
        {"concept_id": c, "concept": f"{name} {c}", "genre": None, "overall": r % 3 if c < n - 1 else None, "error": None}
        for c in range(n)
        for r in range(responses)
    ]
    frame = pd.DataFrame(rows).astype({"overall": float})
    frame = frame.assign(**{f"{rating}_score": frame["overall"] for rating in ("concept", "instruct", "fluency")})
    return AxBenchResult(frame, dict.fromkeys(range(n)), {"method": "<m>"}).plot()


def note(figure: Any) -> str:
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def test_dots_have_the_interval_over_their_responses() -> None:
    figure = drawn(7)
    (dots,) = figure.data
    scores = np.array([0.0, 1, 2, 0, 1, 2])
    low, high = mean_interval(scores) or (0, 0)
    np.testing.assert_allclose(dots.error_x.array, [np.nan] + [high - 1] * 6)
    np.testing.assert_allclose(dots.error_x.arrayminus, [np.nan] + [1 - low] * 6)
    assert "concepts, with the 95 % interval over their responses. Grey: mean over concepts and its 95 % interval." in note(
        figure
    )
    assert note(figure).startswith("&lt;m&gt;: overall")
    few = drawn(4, responses=4)
    assert "with the range over their responses, which are too few" in note(few) and "the range over them (3: too" in note(few)
    np.testing.assert_allclose(few.data[0].error_x.array[1:], 2 - 0.75)
    assert "each has a single scored response" in note(drawn(3, responses=1))


def test_every_concept_has_room() -> None:
    """Pixels per concept, with names of one line and of three, and without names."""
    long = "words of a concept that is told at length, in all its parts and with all that belongs to it"
    assert drawn(20).layout.height - 240 == 34 * 20
    assert drawn(20, long).layout.height - 240 >= 3 * 16 * 20
    assert drawn(40).layout.yaxis.showticklabels is None and len(drawn(40).layout.yaxis.ticktext) == 40
    hidden = drawn(41)
    assert hidden.layout.yaxis.showticklabels is False and hidden.layout.height >= 240 + 8 * 41
    assert drawn(200).layout.height >= 240 + 8 * 200
