"""Training read from its record: derived columns by hand, cosines to the end from the directions, endings that are planted."""

import inspect
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import WIDTH

import steerlens
from steerlens import SteeringVector, TrainConfig, figures
from steerlens.analysis.training_dynamics import Dynamics, dynamics
from steerlens.figures.training import loss_title, plot_updates
from steerlens.training.callbacks import DirectionRecorder

QUICK = TrainConfig(epochs=5, batch_size=2, factor_init=0.1, direction_init=2.0, factor_lr=0.3, direction_lr=0.3)
DELTAS = ["delta1", "delta2", "delta3"]


def train(model: Any, data: Any, **changes: Any) -> Any:
    return steerlens.train(model, data, **({"layer": 1, "config": QUICK, "progress": False} | changes))


def train_layers(model: Any, data: Any, **changes: Any) -> list[SteeringVector]:
    return list(steerlens.train_layers(model, data, layers=[0, 2], config=QUICK, progress=False, **changes).values())


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    """Forty steps of made-up numbers."""
    draw, steps = np.random.default_rng(0), np.arange(40)
    columns = {"step": steps, "epoch": steps // 10, "loss": 2 + 0.1 * draw.standard_normal(40), "factor": 4.0 + steps}
    columns |= {"direction_norm": 3.0 + 0 * steps, "vector_norm": 12.0 + steps, "cos_init": np.cos(np.radians(steps))}
    columns |= {"delta1": 3.0 + 0 * steps, "delta2": 1.0 + 0 * steps, "delta3": np.zeros(40)}
    return pd.DataFrame(columns)


def vector(history: pd.DataFrame, **fields: Any) -> SteeringVector:
    return SteeringVector(torch.ones(4), 2.0, 1, history=history, **fields)


# --- numbers ----------------------------------------------------------------------------------------------------------------


def test_derived_columns_by_hand(history: pd.DataFrame) -> None:
    frame = dynamics(vector(history, concept="sea")).to_frame()
    assert set(frame["vector"]) == {"sea"} and list(frame["step"]) == list(range(40))
    assert frame["feature"].tolist() == pytest.approx([(12 + t) / 2 for t in range(40)])  # over sqrt(4)
    assert frame["turned"].tolist() == pytest.approx(list(range(40)), abs=1e-6)
    shares = frame[["share1", "share2", "share3"]].to_numpy()
    assert shares == pytest.approx(np.tile([0.75, 0.25, 0.0], (40, 1)))
    assert frame["cos_end"].isna().all()
    still = history.assign(delta1=0.0, delta2=0.0)
    assert dynamics(vector(still)).frame[["share1", "share2", "share3"]].isna().all(axis=None), "unknown, not 0"


def test_cosine_to_the_end_from_the_directions(model: Any, data: Any) -> None:
    recorder = DirectionRecorder()
    sv = train(model, data, callbacks=[recorder])
    plain = train(model, data)
    assert torch.equal(plain.direction, sv.direction), "recording changes nothing"
    end = sv.direction.double()
    expected = []
    for t in range(1, len(sv.history) + 1):  # where a run that is stopped after t steps would stand
        then = recorder.runs[0].directions[t - 1].double()
        expected.append(float(then @ end / then.norm() / end.norm()))
    frame = dynamics(sv, recorder).frame
    assert frame["cos_end"].tolist() == pytest.approx(expected, abs=1e-9)
    assert frame["cos_end"].iloc[-1] == pytest.approx(1) and frame["cos_end"].iloc[0] < 0.999
    first = torch.cosine_similarity(recorder.runs[0].directions[0], recorder.runs[0].directions[1], dim=0)
    assert frame["cos_prev"].iloc[1] == pytest.approx(float(first), abs=1e-6), "the recorded directions are those of the steps"
    for column in ("loss", "factor", "delta2"):
        assert frame[column].tolist() == sv.history[column].tolist()


def test_the_recorder_finds_the_run_of_each_vector(model: Any, data: Any) -> None:
    recorder = DirectionRecorder()
    layers = train_layers(model, data, callbacks=[recorder])
    again = train(model, data, layer=2, seed=7, callbacks=[recorder])
    assert [(run.name, run.layer) for run in recorder.runs] == [("fish", 0), ("fish", 2), ("fish", 2)]
    assert {len(run.directions) for run in recorder.runs} == {15}
    named = {"low": layers[0], "high": layers[1], "again": again.scaled(0.5)}  # scaling leaves the direction
    found = dynamics(named, recorder).frame.groupby("vector", sort=False)["cos_end"].last()
    assert found.to_dict() == pytest.approx({"low": 1, "high": 1, "again": 1})
    assert recorder.run_of(again) is recorder.runs[2]
    other = train(model, data, seed=8)
    with pytest.raises(ValueError, match="the recorder did not see the training of 'fish': give it to train"):
        dynamics(other, recorder)


def test_a_low_rank_form(model: Any, data: Any) -> None:
    recorder = DirectionRecorder()
    sv = train(model, data, form="loreft", rank=2, callbacks=[recorder])
    frame = dynamics(sv, recorder).frame
    assert frame["cos_end"].iloc[-1] == pytest.approx(1) and recorder.runs[0].directions[0].shape == (2, WIDTH)


def test_several_at_once_are_as_alone(model: Any, data: Any) -> None:
    layers = train_layers(model, data)
    both = dynamics(layers)
    assert list(both.histories()) == ["layer 0", "layer 2"]
    alone = dynamics({"layer 2": layers[1]}).frame
    pd.testing.assert_frame_equal(both.frame[both.frame["vector"] == "layer 2"].reset_index(drop=True), alone)
    assert both.histories()["layer 0"].attrs["objective"] == "lang"


# --- endings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slope", "words"), [(-0.1, "still falling at the end"), (0.1, "was rising at the end"), (0.0, "had settled as far as")]
)
def test_planted_endings(history: pd.DataFrame, slope: float, words: str) -> None:
    planted = dynamics(vector(history.assign(loss=history["loss"] + slope * history["step"])))
    assert words in planted.summary() and words in planted.endings()[0].verdict


def test_the_interval_of_an_ending_by_hand(history: pd.DataFrame) -> None:
    (ending,) = dynamics(vector(history)).endings()
    before, last = history["loss"].to_numpy()[32:36], history["loss"].to_numpy()[36:]
    assert ending.fall == pytest.approx(before.mean() - last.mean())
    error = 2.447 * math.sqrt((before.var(ddof=1) + last.var(ddof=1)) / 4)  # t of 6 degrees of freedom, from a table
    assert ending.fall_error == pytest.approx(error, rel=1e-3)
    assert (ending.factor_change, ending.norm_change) == pytest.approx((4 / 43, 4 / 51))


def test_settled_is_not_claimed_too_often() -> None:
    """Of pure noise about one run in twenty looks like a trend."""
    draw = np.random.default_rng(1)
    steps = np.arange(60)
    columns = {name: np.ones(60) for name in ("factor", "direction_norm", "vector_norm", "cos_init", *DELTAS)}
    runs = [pd.DataFrame({"step": steps, "loss": draw.standard_normal(60), **columns}) for _ in range(120)]
    endings = dynamics({str(k): vector(run) for k, run in enumerate(runs)}).endings()
    wrong = sum(abs(ending.fall) > ending.fall_error for ending in endings)
    assert 1 <= wrong <= 14


def test_too_few_steps_to_say(history: pd.DataFrame) -> None:
    (ending,) = dynamics(vector(history[:29])).endings()
    assert math.isnan(ending.fall) and "29 steps are too few to say whether it had settled" in ending.verdict
    assert ending.factor_change == pytest.approx(2 / 32)


def test_summary(history: pd.DataFrame) -> None:
    text = dynamics({"sea": vector(history)}).summary()
    for words in ("sea, 40 steps: factor 4 to 43, norm 12 to 51, direction turned by 39 degrees", "75 / 25 / 0 %"):
        assert words in text
    assert (
        "from the last but one tenth of the steps to the last, in which the factor moved by 9.3 % and the norm by 7.8 %" in text
    )


# --- refusals ---------------------------------------------------------------------------------------------------------------


def test_refusals(history: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="'vector' has no history: only `train` and `train_many` keep one"):
        dynamics(SteeringVector(torch.ones(4), 1.0, 0))
    with pytest.raises(ValueError, match="a list holds vectors of different layers"):
        dynamics([vector(history), vector(history)])
    with pytest.raises(ValueError, match="there are no vectors"):
        dynamics({})
    with pytest.raises(ValueError, match="the recorder did not see the training of 'vector'"):
        dynamics(vector(history), DirectionRecorder())
    with pytest.raises(ValueError, match="two names read the same: 1 and '1'"):
        dynamics({1: vector(history), "1": vector(history)})
    with pytest.raises(TypeError):
        inspect.unwrap(dynamics)(["x"])
    assert "vector, 40 steps" in dynamics(vector(history, form="null")).summary(), "training has a history whatever the form"


# --- figures ----------------------------------------------------------------------------------------------------------------


def with_end(history: pd.DataFrame) -> Dynamics:
    result = dynamics({"a": vector(history), "b": vector(history)})
    return Dynamics(result.frame.assign(cos_end=0.5), {"a": "lang", "b": "lang"})


def test_history_figure_with_both_cosines(history: pd.DataFrame) -> None:
    figure: Any = with_end(history).plot()
    assert len(figure.data) == 4 * 2 + 2
    for trace in figure.data[-2:]:
        assert list(trace.y) == [0.5] * 40 and trace.xaxis == "x4" and trace.line.width == 1 and not trace.showlegend
    assert "thin ones to its end" in figure.layout.title.subtitle.text
    assert figure.layout.annotations[3].text == "Cosine of the direction to its start and end"
    assert figure.layout.yaxis.title.text == "loss (lang: nats per token)"
    plain: Any = dynamics(vector(history)).plot()
    assert len(plain.data) == 4 and "thin ones" not in plain.layout.title.subtitle.text
    assert plain.layout.yaxis.title.text == "loss", "the objective is not known"


def test_loss_axis(history: pd.DataFrame) -> None:
    def of(name: str | None) -> pd.DataFrame:
        copy = history.copy()
        copy.attrs = {} if name is None else {"objective": name}
        return copy

    assert loss_title([of("lang"), of("lang")]) == "loss (lang: nats per token)"
    assert loss_title([of("simpo")]) == "loss (simpo: mean over examples)"
    assert loss_title([of("<b>")]) == "loss (&lt;b&gt;: mean over examples)"
    assert loss_title([of("lang"), of("simpo")]) == "loss (objectives differ: do not compare)"
    assert loss_title([of("lang"), of(None)]) == "loss (objectives differ: do not compare)"
    assert loss_title([of(None)]) == "loss"
    simpo: Any = dynamics(vector(history, provenance={"objective": "simpo"})).plot()
    assert simpo.layout.yaxis.title.text == "loss (simpo: mean over examples)"


def test_updates_of_one_vector(history: pd.DataFrame) -> None:
    figure: Any = dynamics(vector(history)).plot("updates")
    assert [trace.name.split(":")[0] for trace in figure.data] == DELTAS
    assert list(figure.data[0].y) == [3.0] * 40 and np.isnan(figure.data[2].y).all(), "zero has no place on a log axis"
    assert figure.layout.yaxis.type == "log" and figure.layout.yaxis.title.text == "RMS per coordinate"
    assert len({trace.line.color for trace in figure.data}) == 3
    assert figure.layout.xaxis.title.text == "step" and "log axis" in figure.layout.title.subtitle.text


def test_updates_of_several(history: pd.DataFrame) -> None:
    figure: Any = plot_updates({"a": history, "<b>": history * 2})
    assert [(trace.name, trace.xaxis) for trace in figure.data[:3]] == [("a", "x"), ("&lt;b&gt;", "x"), ("a", "x2")]
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False, False, False]
    assert [axis.type for axis in figure.select_yaxes()] == ["log"] * 3
    assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in figure.data)


def test_the_path_of_one_vector_is_coloured_by_loss(history: pd.DataFrame) -> None:
    figure: Any = dynamics(vector(history, provenance={"objective": "lang"})).plot("path")
    (trace,) = figure.data
    assert list(trace.x) == history["factor"].tolist() and list(trace.y) == [3.0] * 40
    assert list(trace.marker.color) == history["loss"].tolist()
    assert trace.marker.colorbar.title.text == "loss (lang: nats per token)"
    assert (trace.marker.symbol[0], trace.marker.symbol[-1]) == ("circle-open", "circle")
    assert (trace.marker.size[0], trace.marker.size[1], trace.marker.size[-1]) == (14, 6, 14)
    several: Any = dynamics({"a": vector(history), "b": vector(history)}).plot("path")
    assert [trace.name for trace in several.data] == ["a", "b"] and several.data[0].marker.color[0] == "white"
    single: Any = figures.plot_trajectories({"a": history[:1]})
    assert len(single.data[0].marker.size) == 1
