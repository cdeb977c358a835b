"""Every result of the analyses shows itself alike: a sentence, a frame, a figure, a short repr and a small view in Jupyter."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from random_sae import LAYER, randn, vector
from tiny import ARCHITECTURES, WIDTH, Bench

import steerlens
from steerlens import analysis
from steerlens.result import COLUMNS_SHOWN, ROWS_SHOWN, Result, html_view

HOSTILE = "<script>alert('x')</script>"
NO_RESULTS = {"SAE", "SAEError", "DirectionRecorder", "Scaling"}
"""Public classes that are no results: what results are made from."""
TAGS = {"div", "b", "small", "table", "thead", "tbody", "tr", "th", "td"}
PROMPTS = [f"Say {HOSTILE}", "Hi\nthere", "x + y = ?"]
SHORT: dict[str, Any] = {"max_new_tokens": 8}
QUICK: dict[str, Any] = {"n_random": 100}


class Tags(HTMLParser):
    """Everything that a browser would take for markup, and the text between."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def model(benches: Callable[..., Bench]) -> Any:
    return benches(ARCHITECTURES[0]).model


@pytest.fixture(scope="module")
def results(model: Any) -> dict[str, Result]:
    """class name -> one of it, about vectors, concepts and texts with hostile names."""
    vectors = {name: vector(randn(WIDTH, seed=seed), concept=name) for seed, name in enumerate((HOSTILE, "second", "third"))}
    sv = vectors[HOSTILE]
    encoder, decoder = randn(WIDTH, 96, seed=4) / 7, randn(96, WIDTH, seed=5)
    origin = {"model_name": "tiny-gemma2", "layer": LAYER, "weight_processing": "raw", "normalisation": "none"}
    sae = analysis.SAE(encoder, decoder, torch.zeros(96), torch.zeros(WIDTH), source=HOSTILE, **origin)
    data = steerlens.SteeringData([{"prompt": "Name a town.", "response": "Rome"}] * 4, concept=HOSTILE)
    settings = {"config": steerlens.TrainConfig(epochs=12, batch_size=2), "progress": False}
    trained = {HOSTILE: steerlens.train(model, data, layer=LAYER, **settings)}
    made = (
        analysis.token_effects(model, sv, PROMPTS, **SHORT),
        analysis.position_effects(model, sv, PROMPTS, **SHORT),
        analysis.drift(model, vectors, PROMPTS, **SHORT),
        analysis.attention_effects(model, sv, PROMPTS, **SHORT),
        analysis.cosine_map(vectors, **QUICK),
        analysis.stability([sv, 2 * sv, -sv], **QUICK),
        analysis.readout(model, vectors, **QUICK),
        analysis.sizes({(HOSTILE, name): each for name, each in vectors.items()}),
        analysis.compare_to_sae(vectors, sae, **QUICK),
        analysis.feature_effects(model, sv, sae, PROMPTS, **SHORT),
        analysis.effect_recovery(model, sv, sae, PROMPTS, ks=(1, 2), n_random=2, **SHORT),
        analysis.residual_statistics(model, PROMPTS, LAYER),
        analysis.dynamics(trained),
        coordinates(),
    )
    return {type(result).__name__: result for result in made}


def coordinates() -> analysis.CoordinateCheck:
    """Made numbers: training at several widths takes too long here."""
    rows = [
        {"setting": setting, "width": width, "seed": 0, "step": 0, "quantity": quantity, "value": width**0.1}
        for setting in (HOSTILE, "paper")
        for quantity in ("delta1", "delta2", "delta3", "feature")
        for width in (64, 128, 256)
    ]
    return analysis.CoordinateCheck(pd.DataFrame(rows), pd.DataFrame(), 256)


def names() -> list[str]:
    classes = {name for name in analysis.__all__ if inspect.isclass(getattr(analysis, name))}
    assert classes >= NO_RESULTS
    return sorted(classes - NO_RESULTS)


def test_the_examples_are_all_public_results(results: dict[str, Result]) -> None:
    assert set(results) == set(names())


@pytest.mark.parametrize("name", names())
def test_a_result_has_a_sentence_a_frame_and_a_figure(results: dict[str, Result], name: str) -> None:
    result = results[name]
    assert isinstance(result, Result)
    assert result.summary().endswith(".")
    frame, figure = result.to_frame(), result.plot()
    traces: Any = figure.data
    assert isinstance(frame, pd.DataFrame) and len(frame) > 1
    assert isinstance(figure, go.Figure) and len(traces) > 0
    for method in ("summary", "to_frame", "plot"):
        assert inspect.getdoc(vars(type(result))[method]), "each says what its numbers are"


@pytest.mark.parametrize("name", names())
def test_the_repr_is_a_line(results: dict[str, Result], name: str) -> None:
    text = repr(results[name])
    assert text.startswith(f"<{name}: {results[name].summary()[:100]}") and text.endswith(">")
    assert len(text) < 400 and "\n" not in text


@pytest.mark.parametrize("name", names())
def test_the_view_is_small_and_holds_no_markup_of_others(results: dict[str, Result], name: str) -> None:
    """Also where every text of the frame is hostile, as a token may be."""
    result = results[name]
    view = result._repr_html_()
    assert len(view) < 8000
    assert set(Tags(view).tags) <= TAGS and f"{name}{result.summary()[:100]}" in Tags(view).text
    frame = result.to_frame()
    texts = {str(column): HOSTILE for column in frame if not pd.api.types.is_numeric_dtype(frame[column])}
    hostile = Tags(html_view(name, HOSTILE, frame.assign(**texts)))
    assert set(hostile.tags) <= TAGS
    shown = [column for column in frame.columns[:COLUMNS_SHOWN] if column in texts]
    assert hostile.text.count(HOSTILE) == 1 + len(shown) * min(len(frame), ROWS_SHOWN)


@pytest.mark.parametrize("name", names())
def test_the_view_takes_the_colours_of_the_page(results: dict[str, Result], name: str) -> None:
    attributes = Tags(results[name]._repr_html_()).attributes
    assert {key for key, _ in attributes} <= {"style", "cellpadding"}
    styles = ";".join(str(style) for key, style in attributes if key == "style")
    assert set(re.findall(r"background[a-z-]*:([^;]*)", styles)) <= {"transparent"}
    assert set(re.findall(r"(?<![a-z-])color:([^;]*)", styles)) <= {"inherit"}
    assert "#" not in styles and "bgcolor" not in styles


def test_a_concept_that_is_markup_is_text_in_the_view(results: dict[str, Result]) -> None:
    for name in ("Drift", "Readout", "Sizes", "SAEComparison", "Dynamics", "CosineMap"):
        view = results[name]._repr_html_()
        assert HOSTILE in Tags(view).text and "<script" not in view, name


def test_an_autoencoder_shows_itself_alike(results: dict[str, Result]) -> None:
    """Though it is no result."""
    sae = analysis.SAE(randn(6, 10), randn(10, 6), torch.zeros(10), torch.zeros(6), source=HOSTILE, layer=1)
    view = Tags(sae._repr_html_())
    assert set(view.tags) <= TAGS and HOSTILE in view.text and "10 features of 6 dimensions, relu" in view.text
    assert len(repr(sae)) < 400 and "background:#" not in sae._repr_html_()
    full = replace(sae, model_name="m" * 80, weight_processing="raw", neuronpedia_id="n" * 60)
    assert len(full._repr_html_()) < 8000


# --- views of tokens and heads ------------------------------------------------------------------------------------------


def test_tokens_can_be_looked_at(results: dict[str, Result]) -> None:
    effects: Any = results["TokenEffects"]
    html = effects.view(0).html
    assert html.count('class="token"') == (effects.tokens["row"] == 0).sum() and "Prompt 0 and its response" in html
    with pytest.raises(ValueError, match="there is no row 3: the result has 3, counted from 0"):
        effects.view(3)


def test_heads_can_be_looked_at(results: dict[str, Result]) -> None:
    effects: Any = results["AttentionEffects"]
    assert "the 3 of 8 that change most" in effects.view(3).html
    with pytest.raises(ValueError, match="too many to draw"):
        replace(effects, patterns=torch.zeros(2, 4, 600, 600)).view()
