"""Tables, means, intervals and the figure of an AxBench result, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from steerlens.protocol.benchmark import AxBenchResult


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
    units = np.array([1.5, 0.0, 1.0])
    draws = np.random.default_rng(0).choice(units, size=(2000, 3)).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert sorted(result.evaluation.interval() or ()) == pytest.approx(sorted([low, high]), abs=0.06)
    assert "1 of 6 rows are unscored: rejudge=True with the run's own out judges them again" in result.summary()
    assert "overall 0.83 of 2" in result.summary() and "Lowest: same [1] (0.00)" in result.summary()
    figure = result.plot()
    assert {trace.name for trace in figure.data} == {"code", "text"}
    assert figure.layout.xaxis.title.text == "mean overall score (0 to 2)" and figure.layout.title.text
    assert sorted(x for trace in figure.data for x in trace.x) == [0, 1, 1.5]
