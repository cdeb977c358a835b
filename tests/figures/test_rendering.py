"""Every figure and view, drawn by a browser from a page on disk with the network cut off."""

import html
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from browser import Seen, chromium, offline_page
from tiny import ARCHITECTURES, LAYERS, WIDTH, Bench

import steerlens
from steerlens import LayerScan, Scores, ScriptedJudge, Selection, SteeringVector, figures
from steerlens.display.html_page import write_page
from steerlens.figures.token_views import View, view_heads, view_tokens

MARKS = ".trace path, .trace rect, .hm image, .points path, .point path, .errorbar path, .js-line, .fills path, .cn path"
"""What plotly draws from data."""


class World(NamedTuple):
    """A small model and vectors, for example results."""

    model: Any
    sv: SteeringVector
    vectors: dict[str, SteeringVector]
    prompts: list[str]
    sae: Any
    statistics: Any


def make_world(model: Any) -> World:
    from steerlens.analysis import SAE, residual_statistics

    data = steerlens.SteeringData([{"prompt": "Name a town.", "response": "Rome"}] * 4, concept="towns")
    config = steerlens.TrainConfig(epochs=4, batch_size=2)
    vectors = {
        name: steerlens.train(model, data, layer=1, config=config, seed=seed, progress=False).scaled(3)
        for seed, name in enumerate(("first <b>", "second", "third"))
    }
    prompts = ["Why is the sky blue?", "Hi\nthere", "x + y = ?"]
    torch.manual_seed(0)
    encoder, decoder = torch.randn(WIDTH, 96), torch.randn(96, WIDTH)
    origin = {"model_name": "tiny-gemma2", "layer": 1, "hook_name": "blocks.1.hook_resid_post", "weight_processing": "raw"}
    sae = SAE(encoder, decoder, torch.zeros(96), torch.zeros(WIDTH), normalisation="none", **origin)
    statistics = residual_statistics(model, prompts, 1)
    return World(model, vectors["second"], vectors, prompts, sae, statistics)


def scan() -> LayerScan:
    scores = {f"{name}_score": [1.0, 1.2, 0.5] for name in ("concept", "instruct", "fluency")}
    overall = {"overall": [1.0, 1.4, None], "overall_low": [0.8, 1.1, None], "overall_high": [1.3, 1.6, None]}
    losses = {
        "layer": [2, 4, 6],
        "held_out_loss": [1.1, 1.3, 1.2],
        "unsteered_loss": [1.5] * 3,
        "n": [4] * 3,
        "unscored": [0, 0, 4],
    }
    return LayerScan(pd.DataFrame(losses | scores | overall), {})


def selection(world: World) -> Selection:
    ratings = [f"{name}_score" for name in ("concept", "instruct", "fluency")]
    rows = [{"factor": f, "concept": "sea", "overall": f / 4} | dict.fromkeys(ratings, f / 4) for f in (1.0, 2.0, 4.0)]
    return Selection(pd.DataFrame(rows), 4.0, world.sv.replace(factor=4.0), 1.0, 0.9, 0.1, 20)


def scores() -> pd.DataFrame:
    return pd.DataFrame(
        {"method": ["a <i>", "b"], "overall": [1.0, 1.5], "overall_low": [0.8, 1.2], "overall_high": [1.2, 1.7]}
    )


def histories(world: World) -> dict[str, Any]:
    return {name: sv.history for name, sv in world.vectors.items()}


def analysed(name: str, *arguments: str, **settings: Any) -> Callable[[World], Any]:
    """The figure of an analysis of the world: its arguments are fields of `World`."""

    def make(world: World) -> Any:
        analysis = getattr(importlib.import_module("steerlens.analysis"), name)
        return analysis(*(getattr(world, argument) for argument in arguments), **settings).plot()

    return make


def decomposition(world: World) -> Any:
    from steerlens.analysis import compare_to_sae

    return compare_to_sae(world.vectors, world.sae, n_random=200).plot_decomposition()


def coordinates(_world: World) -> Any:
    """Made numbers: training at several widths takes too long here."""
    quantities = ("delta1", "delta2", "delta3", "feature")
    places = [(setting, quantity) for setting in ("paper", "constant <b>") for quantity in quantities]
    rows = [(s, q, w, seed, w**0.1 + seed) for s, q in places for w in (64, 128, 256) for seed in (0, 1)]
    sizes = pd.DataFrame(rows, columns=["setting", "quantity", "width", "seed", "size"])
    slopes = pd.DataFrame(
        [{"setting": s, "quantity": q, "slope": 0.1, "low": 0.05, "high": 0.15, "size": 1.0} for s, q in places]
    )
    from steerlens.figures.width_scaling import plot_coordinate_check

    return plot_coordinate_check(sizes, slopes)


def lengths(_concept: str, prompt: str, response: str) -> Scores:
    """A judge's ratings, different for each text."""
    return Scores(1 + len(response) % 2, 2, 1 + len(prompt) % 2)


def benchmark(world: World) -> Any:
    data = {name: steerlens.SteeringData([{"prompt": "Hi", "response": "Ho"}], concept=name) for name in ("sea", "<b>towns")}
    steering: dict[str, Any] = dict(zip(data, world.vectors.values(), strict=False))
    prompts = dict.fromkeys(data, world.prompts)
    judge = ScriptedJudge(lengths)
    return steerlens.axbench(world.model, data, vectors=steering, prompts=prompts, judge=judge, max_new_tokens=6).plot()


def attack(world: World) -> Any:
    attacked = [f"{prompt} Not a word of the sea!" for prompt in world.prompts]
    settings: dict[str, Any] = {"attacked": attacked, "scales": (1.0, 0.5), **SHORT}
    return steerlens.suppression(world.model, world.vectors, "sea", world.prompts, ScriptedJudge(lengths), **settings).plot()


def tradeoff(world: World) -> Any:
    def score(_model: Any, sv: Any) -> list[float]:
        return [0.0, 0.1] if sv is None else [sv.factor / 10, sv.factor / 8]

    def utility(_model: Any, sv: Any) -> list[float]:
        return [1.0, 0.9] if sv is None else [1 / (1 + abs(sv.factor)), 0.5]

    return steerlens.frontier(world.model, world.vectors, score=score, utility=utility, scales=(1.0, 0.5)).plot()


def harness(_world: World) -> Any:
    row = {"metric": "acc", "filter": "none", "value": 0.5, "stderr": 0.1, "n": 10, "higher_is_better": True, "num_fewshot": 0}
    frame = pd.DataFrame([{"task": "tiny <b>", **row}, {"task": "other", **row, "value": 0.7, "stderr": np.nan}])
    return steerlens.HarnessScores(frame, pd.DataFrame()).plot()


def maps(_world: World) -> Any:
    """Two maps: one place without a score, one that misses a cell."""
    places = [
        {"form": form, "layer": layer, "<b>": beta} for form in ("add", "clamp") for layer in (1, 2) for beta in (0.5, 8.0)
    ]
    counts = {"concepts": 2, "seeds": 3, "cells": 6, "missing": 0, "unscored": 1}
    rows = [place | {"overall": 0.2 * n, "low": 0.1 * n, "high": 0.3 * n} | counts for n, place in enumerate(places)]
    rows[3] |= {"overall": np.nan, "low": np.nan, "high": np.nan, "cells": 0, "missing": 6}
    rows[4] |= {"cells": 5, "missing": 1}
    return figures.plot_heatmap(pd.DataFrame(rows))


SHORT: dict[str, Any] = {"max_new_tokens": 6}
FEW = {"n_random": 200}
FIGURES: dict[str, Callable[[World], Any]] = {
    "plot_history": lambda world: figures.plot_history(histories(world)),
    "plot_trajectories": lambda world: figures.plot_trajectories(histories(world)),
    "plot_updates": lambda world: figures.training.plot_updates(histories(world)),
    "plot_edits": lambda world: steerlens.audit(world.model, list(world.prompts), world.sv, max_new_tokens=4).plot(),
    "plot_class_means": lambda world: figures.plot_class_means(
        pd.DataFrame({"layer": [2, 0, 1], "relative_difference": [0.3, 0.1, 0.2], "difference_norm": [6.0, 1.0, 3.0]})
    ),
    "plot_scan": lambda world: scan().plot(),
    "plot_selection": lambda world: selection(world).plot(),
    "plot_scores": lambda world: figures.plot_scores(scores()),
    "plot_token_effects": analysed("token_effects", "model", "sv", "prompts", **SHORT),
    "plot_position_effects": analysed("position_effects", "model", "sv", "prompts", **SHORT),
    "plot_drift": analysed("drift", "model", "vectors", "prompts", **SHORT),
    "plot_attention": analysed("attention_effects", "model", "sv", "prompts", **SHORT),
    "plot_readout": analysed("readout", "model", "vectors", k=4, **FEW),
    "plot_cosine_map": analysed("cosine_map", "vectors", **FEW),
    "plot_stability": analysed("stability", "vectors", **FEW),
    "plot_sizes": analysed("sizes", "vectors"),
    "plot_sae_comparison": analysed("compare_to_sae", "sv", "sae", **FEW),
    "plot_decomposition": decomposition,
    "plot_feature_effects": analysed("feature_effects", "model", "sv", "sae", "prompts", **SHORT),
    "plot_effect_recovery": analysed("effect_recovery", "model", "sv", "sae", "prompts", ks=(1, 2, 4), **SHORT),
    "plot_residual_statistics": lambda world: world.statistics.plot(),
    "plot_coordinate_check": coordinates,
    "plot_benchmark": benchmark,
    "plot_suppression": attack,
    "plot_frontier": tradeoff,
    "plot_side_effects": lambda world: steerlens.side_effects(world.model, world.vectors, world.prompts, **SHORT).plot(),
    "plot_harness": harness,
    "plot_heatmap": maps,
}
TOKENS = ["<bos>", " a", "\n", "&amp;", "\t", "  "]


def views(world: World) -> dict[str, View]:
    from steerlens.analysis import attention_effects, token_effects

    tokens = token_effects(world.model, world.sv, world.prompts, **SHORT)
    attention = attention_effects(world.model, world.sv, world.prompts, **SHORT)
    patterns = np.tril(np.random.default_rng(0).normal(size=(3, 6, 6)))
    return {
        "tokens": view_tokens(TOKENS, [None, 1.0, -2.0, 0.5, 0.0, 2.0], "Title <b>", "A note", "nats", hover=["more"] * 6),
        "heads": view_heads(TOKENS, patterns, ["3.0", "3.1", "4.0"], "Heads <b>", "What to read"),
        "token effects": tokens.view(1),
        "attention heads": attention.view(5),
    }


def drawing_functions() -> list[str]:
    """The plot_* functions of all modules of steerlens.figures."""
    found = set()
    for info in pkgutil.iter_modules(figures.__path__):
        module = importlib.import_module(f"steerlens.figures.{info.name}")
        found |= {name for name in vars(module) if name.startswith("plot_")}
    return sorted(found)


class Drawn(NamedTuple):
    """The page with all figures and views, open in a browser."""

    seen: Seen
    figures: dict[str, Any]
    views: dict[str, View]


@pytest.fixture(scope="module")
def world(benches: Callable[..., Bench]) -> World:
    return make_world(benches(ARCHITECTURES[0]).model)


@pytest.fixture(scope="module")
def drawn(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drawn]:
    made = {name: make(world) for name, make in FIGURES.items()}
    seen_as = views(world)
    path = write_page(tmp_path_factory.mktemp("page") / "all.html", "All", ["# Figures", *made.values(), *seen_as.values()])
    with chromium() as browser, offline_page(browser) as seen:
        seen.open(path)
        yield Drawn(seen, made, seen_as)


def test_every_figure_has_an_example() -> None:
    assert set(FIGURES) == set(drawing_functions())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn(drawn: Drawn, name: str) -> None:
    figure, place = drawn.figures[name], drawn.seen.page.locator(".js-plotly-plot").nth(list(FIGURES).index(name))
    assert place.evaluate("plot => plot.data.length") == len(figure.data) > 0
    title = place.locator(".gtitle")
    assert title.evaluate("title => title.getBBox().width > 50")
    assert "<b>" not in figure.layout.title.text
    box = place.bounding_box()
    assert box["width"] > 500 and box["height"] >= 150
    sizes = place.evaluate(
        "(plot, marks) => [...plot.querySelectorAll(marks)].map(mark => mark.getBoundingClientRect())"
        ".filter(box => box.width + box.height > 1).length",
        MARKS,
    )
    assert sizes > 0
    words = place.evaluate("plot => [...plot.querySelectorAll('text')].map(text => text.textContent).join(' ')")
    for axis in [*figure.select_xaxes(), *figure.select_yaxes()]:
        if axis.title.text and axis.visible is not False:
            assert html.unescape(axis.title.text.split("<br>")[0])[:12] in words


@pytest.mark.parametrize("name", FIGURES)
def test_title_and_note_stay_inside_and_apart(drawn: Drawn, name: str) -> None:
    """Neither leaves the figure, and the plots begin below them."""
    place = drawn.seen.page.locator(".js-plotly-plot").nth(list(FIGURES).index(name))
    found = place.evaluate(
        """plot => {
            const box = e => e.getBoundingClientRect(), whole = box(plot);
            const heads = [...plot.querySelectorAll(".gtitle, .gtitle-subtitle")].map(box);
            const plots = [...plot.querySelectorAll(".nsewdrag")].map(box).filter(b => b.height);
            const low = Math.max(...heads.map(head => head.bottom)), high = Math.min(...plots.map(b => b.top));
            const holds = head => head.left >= whole.left && head.right <= whole.right + 1 && head.top >= whole.top;
            return {inside: heads.every(holds), apart: plots.length > 0 && low <= high + 1};
        }"""
    )
    assert found == {"inside": True, "apart": True}


def test_nothing_went_wrong_and_nothing_was_loaded(drawn: Drawn) -> None:
    assert drawn.seen.errors == []
    assert drawn.seen.outside == []
    assert drawn.seen.page.locator(".js-plotly-plot").count() == len(FIGURES)


def place_of(drawn: Drawn, name: str) -> Any:
    return drawn.seen.page.locator(".steerlens-view").nth(list(drawn.views).index(name))


def test_tokens_are_seen_as_they_are(drawn: Drawn) -> None:
    view = place_of(drawn, "tokens")
    tokens = view.locator(".token")
    assert tokens.all_inner_texts() == ["<bos>", " a", "↵", "&amp;", "⇥", "··"]
    assert "Title <b>" in view.inner_text() and "A note" in view.inner_text() and "+2 nats" in view.inner_text()
    boxes = [tokens.nth(number).bounding_box() for number in range(6)]
    assert all(box["width"] > 3 and box["height"] > 10 for box in boxes)
    assert boxes[3]["y"] > boxes[2]["y"] and boxes[3]["x"] < boxes[2]["x"]  # the line ends after its sign
    assert tokens.nth(1).get_attribute("title") == " a\n+1 nats\nmore".strip()


def test_tokens_are_coloured_by_sign(drawn: Drawn) -> None:
    colors = (
        place_of(drawn, "tokens")
        .locator(".token")
        .evaluate_all("tokens => tokens.map(token => getComputedStyle(token).backgroundColor.match(/\\d+/g).map(Number))")
    )
    red, blue = ([color[0] for color in colors], [color[2] for color in colors])
    assert red[1] > blue[1] and red[5] > blue[5] and blue[2] > red[2]
    assert min(colors[4]) > 240
    assert sum(colors[5]) < sum(colors[1]) < sum(colors[3])
    hatched = place_of(drawn, "tokens").locator(".token").first.evaluate("token => getComputedStyle(token).backgroundImage")
    assert "gradient" in hatched


@pytest.mark.parametrize(("name", "heads", "first"), [("heads", 3, "3.0"), ("attention heads", 5, None)])
def test_heads_are_drawn(drawn: Drawn, name: str, heads: int, first: str | None) -> None:
    view = place_of(drawn, name)
    canvases = view.locator("canvas")
    canvases.first.wait_for()
    assert canvases.count() == heads + 1
    large = canvases.last.bounding_box()
    assert large["width"] > 400 and large["height"] > 400
    assert first is None or first in view.inner_text()
    assert "change of attention probability" in view.inner_text()


def test_two_views_of_one_result_are_both_drawn_and_carry_their_script(drawn: Drawn, tmp_path: Path) -> None:
    """As in a notebook, where each output stands for itself."""
    view = drawn.views["heads"]
    bodies = view._repr_html_() + drawn.views["tokens"]._repr_html_() + view._repr_html_()
    assert len(view._repr_html_()) < 600_000
    path = tmp_path / "outputs.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{bodies}", encoding="utf-8")
    with offline_page(drawn.seen.page.context.browser) as seen:
        seen.page.goto(path.as_uri())
        seen.page.wait_for_function("document.querySelectorAll('canvas').length === 8", timeout=30_000)
        assert [seen.page.locator(".steerlens-heads").nth(n).locator("canvas").count() for n in (0, 1)] == [4, 4]
        assert seen.errors == [] and seen.outside == []


# --- views without a browser --------------------------------------------------------------------------------------------


def test_views_refuse_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"2 tokens, 1 values and 2 hover texts"):
        view_tokens(["a", "b"], [1.0])
    with pytest.raises(ValueError, match="0 tokens"):
        view_tokens([], [])
    with pytest.raises(ValueError, match="infinite values"):
        view_tokens(["a"], [float("inf")])
    with pytest.raises(ValueError, match=r"limit is 0\.0"):
        view_tokens(["a"], [1.0], limit=0.0)
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) do not go with 1 tokens and 1 heads"):
        view_heads(["a"], np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        view_heads(["a"], np.full((1, 1, 1), np.nan))
    with pytest.raises(ValueError, match="fewer heads or tokens"):
        view_heads(["a"] * 600, np.zeros((1, 600, 600)))


def test_a_view_is_the_same_each_time() -> None:
    assert view_heads(["a"], np.ones((1, 1, 1))) == view_heads(["a"], np.ones((1, 1, 1)))


def test_attention_heads_are_those_that_change_most(world: World) -> None:
    from steerlens.analysis import attention_effects

    result = attention_effects(world.model, world.sv, world.prompts, **SHORT)
    assert result.layers == tuple(range(2, LAYERS))
    changes = {
        f"{layer}.{head}": float(result.patterns[place, head].abs().sum())
        for place, layer in enumerate(result.layers)
        for head in range(result.patterns.shape[1])
    }
    ranked = sorted(changes, key=lambda name: -changes[name])
    html = result.view(2).html
    assert f'"attentionHeadNames":["{ranked[0]}","{ranked[1]}"]' in html and "the 2 of 8" in html
