"""The vector as a value, and its algebra."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from tiny import WIDTH

import steerlens
from steerlens import SteeringVector

PROMPTS = ["Hi", "Why is the sky blue?", "x"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_vector_cannot_be_changed(dtype: torch.dtype) -> None:
    given = torch.ones(WIDTH, dtype=dtype, requires_grad=True)
    facts = {"seed": 1}
    sv = SteeringVector(given, 2, 1, provenance=facts)
    with torch.no_grad():
        given.fill_(7.0)
    facts["seed"] = 2
    assert torch.equal(sv.direction, torch.ones(WIDTH)) and sv.provenance["seed"] == 1
    assert (sv.direction.dtype, sv.direction.requires_grad, type(sv.factor)) == (torch.float32, False, float)
    for name in ("factor", "direction", "layer", "anything"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sv, name, 3)
    with pytest.raises(TypeError):
        sv.provenance["seed"] = 3  # type: ignore[index]


def test_numbers_by_hand() -> None:
    sv = SteeringVector(torch.tensor([3.0, 4.0]), -2.0, 0)
    assert torch.equal(sv.vector, torch.tensor([-6.0, -8.0]))
    assert (sv.norm, sv.d_model, sv.scaled(0.5).factor) == (10.0, 2, -1.0)
    assert (sv.positions, sv.form) == ("p2+s2", "add")
    assert sv.replace(positions="l1").positions == "s1"
    assert repr(sv) == (
        "SteeringVector(None, factor=-2, norm=10, d_model=2, layer=0, positions='p2+s2', form='add', model_name=None)"
    )


@pytest.mark.parametrize("seed", range(5))
def test_laws(make_vector: Callable[..., Any], seed: int) -> None:
    v, w = make_vector(seed, factor=1.5), make_vector(seed + 100, factor=-0.75)
    assert 2 * v == v + v == v * 2
    negative = -v
    assert negative == v * -1 and -negative == v
    assert v / 2 + v / 2 == v
    assert v + w == w + v
    assert v - w == v + (-w) == -(w - v)
    assert (v - v).norm == 0
    assert hash(2 * v) == hash(v + v)
    assert v != w and v != v.scaled(1.5) and v != v.replace(layer=2) and v != "v"


def test_a_difference_with_itself_steers_nothing(model: Any, make_vector: Callable[..., Any]) -> None:
    v = make_vector(positions="all")
    options: Any = {"temperature": 0, "max_new_tokens": 8}
    bare = steerlens.generate(model, PROMPTS, None, **options)
    assert steerlens.generate(model, PROMPTS, v - v, **options) == bare
    assert steerlens.generate(model, PROMPTS, v, **options) != bare
    assert steerlens.generate(model, PROMPTS, [v, -v], **options) == bare


def test_sums_keep_what_they_can(make_vector: Callable[..., Any]) -> None:
    sea, war = make_vector(1, concept="sea", model_name="m"), make_vector(2, concept="war", model_name="m")
    assert ((sea + war).concept, (sea - war).concept, (sea + sea).concept) == ("sea + war", "sea - war", "sea")
    assert (sea + war).model_name == "m"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer": 2}, "cannot add vectors of different layer: 1 and 2"),
        ({"positions": "all"}, r"cannot add vectors of different positions: 'p2\+s2' and 'all'"),
        ({"model_name": "other"}, "cannot add vectors of different model_name: None and 'other'"),
        ({"form": "clamp"}, "cannot add vectors of different form: 'add' and 'clamp'"),
        ({"direction": torch.ones(3)}, "cannot add vectors of different d_model: 48 and 3"),
    ],
)
def test_vectors_that_do_not_match_have_no_sum(make_vector: Callable[..., Any], change: dict, words: str) -> None:
    v = make_vector()
    for combine in (lambda: v + v.replace(**change), lambda: v - v.replace(**change)):
        with pytest.raises(ValueError, match=words):
            combine()


def test_clamps_have_no_sum(make_vector: Callable[..., Any]) -> None:
    clamped = make_vector(form="clamp")
    with pytest.raises(ValueError, match="vectors of form 'clamp' have no sum; apply them together"):
        _ = clamped + clamped
    assert (2 * clamped).factor == 2 * clamped.factor


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"direction": torch.full((4,), math.nan)}, "NaN or infinite"),
        ({"direction": torch.full((4,), math.inf)}, "NaN or infinite"),
        ({"factor": math.nan}, "the factor is nan; it must be finite"),
        ({"factor": -math.inf}, "the factor is -inf"),
        ({"layer": -1}, "the layer is -1; it must be a block's index, counted from 0"),
        ({"positions": "middle"}, "positions 'middle': cannot read 'middle'"),
        ({"form": "rotate"}, "form 'rotate' is unknown; known forms: add, clamp"),
        ({"direction": torch.zeros(4), "form": "clamp"}, "the form 'clamp' needs a direction that is not zero"),
    ],
)
def test_impossible_vectors_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SteeringVector(**({"direction": torch.ones(4), "factor": 1.0, "layer": 0} | fields))


# --- what it shows ------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(model: Any, data: Any) -> SteeringVector:
    return steerlens.train(model, data, layer=1, batch_size=5, epochs=3, factor_lr=0.1, progress=False)


def test_the_callers_frame_is_left_alone(make_vector: Callable[..., Any]) -> None:
    given = pd.DataFrame({"step": [0, 1], "epoch": [0, 0], "loss": [2.0, 1.0]})
    sv = make_vector(history=given, provenance={"objective": "lang", "config_source": "by hand"})
    assert given.attrs == {} and sv.history.attrs == {"objective": "lang", "config_source": "by hand"}
    given["loss"] = 7.0
    assert sv.history["loss"].tolist() == [2.0, 1.0]
    frame = sv.to_frame()
    frame["loss"] = 8.0
    assert sv.history["loss"].tolist() == [2.0, 1.0]
    twice = sv.scaled(2)
    twice.history.attrs["objective"] = "dpo"
    assert sv.history.attrs["objective"] == "lang"


def test_summary(trained: SteeringVector, make_vector: Callable[..., Any]) -> None:
    assert trained.history is not None
    loss = trained.history["loss"].iloc[-1]  # one batch an epoch
    assert trained.summary() == (
        f"'fish', a vector of form 'add' at p2+s2 after block 1 of tiny-gemma2: factor {trained.factor:.4g}, norm "
        f"{trained.norm:.4g}; trained with 'lang' on 5 examples; loss {loss:.4g} in the last epoch."
    )
    bare = make_vector(positions=lambda mask: mask, factor=2.0)
    assert bare.summary() == (
        f"A vector of form 'add' at positions of a function after block 1: factor 2, norm {bare.norm:.4g}."
    )


def test_a_view_in_jupyter_says_where_it_acts_and_how_it_was_made(trained: SteeringVector) -> None:
    page = trained.replace(concept="<b>sea</b>")._repr_html_()
    assert "&lt;b&gt;sea&lt;/b&gt;" in page and "<b>sea" not in page
    for words in ("blocks.1.hook_resid_post", "p2+s2", "tiny-gemma2", "lang", "5 examples", "42", f"{trained.norm:.4g}"):
        assert f">{words}</td>" in page
    assert ">changed from it</td>" in page and ">epochs, batch_size, factor_lr</td>" in page
    bare = SteeringVector(torch.ones(4), 1.0, 0)._repr_html_()
    assert "blocks.0.hook_resid_post" in bare and "None" not in bare and "objective" not in bare


def test_the_history_as_frame_and_figure(trained: SteeringVector) -> None:
    assert trained.history is not None
    pd.testing.assert_frame_equal(trained.to_frame(), trained.history)
    figure = trained.plot()
    assert isinstance(figure, go.Figure)
    traces: list[Any] = list(figure.select_traces())
    for trace, column in zip(traces, ("loss", "factor", "vector_norm", "cos_init"), strict=True):
        assert list(trace.y) == trained.to_frame()[column].tolist()
    bare = SteeringVector(torch.ones(4), 1.0, 0)
    assert bare.to_frame().empty
    with pytest.raises(ValueError, match="no history to plot: only `train`, `train_layers` and `train_many` keep one"):
        bare.plot()
