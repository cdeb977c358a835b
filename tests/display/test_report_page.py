"""Report pages: what they hold, what they refuse, and how they open from disk."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from browser import Seen, chromium, offline_page
from tiny import WIDTH, Bench

import steerlens
from steerlens import Evaluation
from steerlens.display.report_page import LARGEST, report

BAD = "<script>alert(1)</script>"
PROMPTS = ["Why is the sky blue?", "Hi <b>", "x + y = ?"]
SHORT: dict[str, Any] = {"max_new_tokens": 6}
OF_VECTORS = (
    "What it is",
    "How it was trained",
    "How alike the vectors are",
    "What it answers",
    "What it does to each token",
    "Which edited tokens matter",
    "How long it lasts",
    "Where attention moves",
    "What it says in the vocabulary",
    "Against features of an autoencoder",
)


@pytest.fixture(scope="module")
def model(benches: Callable[..., Bench]) -> Any:
    return benches("gemma2").model


@pytest.fixture(scope="module")
def trained(model: Any) -> Any:
    data = steerlens.SteeringData([{"prompt": "Name a town.", "response": "Rome"}] * 4, concept=BAD)
    config = steerlens.TrainConfig(epochs=3, batch_size=2)
    return steerlens.train(model, data, layer=1, config=config, progress=False).scaled(3)


@pytest.fixture(scope="module")
def sae() -> Any:
    from steerlens.analysis import SAE

    torch.manual_seed(0)
    encoder, decoder = torch.randn(WIDTH, 96), torch.randn(96, WIDTH)
    origin = {"model_name": "tiny-gemma2", "layer": 1, "hook_name": "blocks.1.hook_resid_post", "weight_processing": "raw"}
    return SAE(encoder, decoder, torch.zeros(96), torch.zeros(WIDTH), normalisation="none", **origin)


def judged(scores: dict[str, list[float | None]]) -> Evaluation:
    rows = [
        {"concept": concept, "prompt": f"prompt {number}", "response": f"{concept} response {number}", "seed": number}
        | dict.fromkeys(("concept_score", "instruct_score", "fluency_score", "overall"), score)
        | {"error": None if score is not None else f"judge failed {BAD}"}
        for concept, listed in scores.items()
        for number, score in enumerate(listed)
    ]
    frame = pd.DataFrame(rows)
    return Evaluation(frame.astype(dict.fromkeys(("concept_score", "instruct_score", "fluency_score", "overall"), float)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def opened(browser: Any, path: Path, check: Callable[[Seen], None]) -> None:
    """From disk, offline, below the limit, without a fault."""
    assert path.stat().st_size < LARGEST
    with offline_page(browser) as seen:
        seen.page.on("dialog", lambda dialog: seen.errors.append(f"dialog: {dialog.message}") or dialog.dismiss())
        seen.open(path)
        check(seen)
        assert seen.errors == [] and seen.outside == []


def headings(page: Any) -> list[str]:
    return page.locator("body > h2").all_inner_texts()


def section(text: str, title: str) -> str:
    """The HTML of a section."""
    return text.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]


# --- vectors ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_about_two_vectors(browser: Any, model: Any, trained: Any, sae: Any, tmp_path: Path) -> None:
    vectors = {BAD: trained, "turned": -trained}
    path = report(vectors, tmp_path / "full.html", model=model, prompts=PROMPTS, sae=sae, **SHORT)
    text = path.read_text()
    assert "Not shown" not in text and BAD not in text
    answers = section(text, "What it answers")
    for sv in (None, trained, -trained):
        for answer in steerlens.generate(model, PROMPTS, sv, temperature=0, **SHORT):
            assert f">{html_of(answer) or '(empty)'}</td>" in answers

    def check(seen: Seen) -> None:
        assert headings(seen.page) == list(OF_VECTORS)
        drawn, places = seen.page.locator(".js-plotly-plot"), seen.page.locator(".plotly-figure")
        assert drawn.count() == places.count() >= 10
        assert seen.page.locator(".steerlens-heads canvas").count() == 2 * (1 + 8)  # 4 heads of 2 layers, and the large one
        assert seen.page.locator(".steerlens-view .token").count() > 20
        width = seen.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]

    opened(browser, path, check)


def html_of(text: str) -> str:
    import html

    return html.escape(text)


def test_what_is_missing_is_said(browser: Any, model: Any, trained: Any, tmp_path: Path) -> None:
    by_hand = steerlens.SteeringVector(trained.direction, 2.0, 1)
    path = report(by_hand, tmp_path / "bare.html")
    text = path.read_text()
    assert "Nothing is recorded about how it was made." in section(text, "What it is")
    assert "Not shown: there is no training history" in section(text, "How it was trained")
    for title in OF_VECTORS[3:8]:
        assert "Not shown: it needs model=... and prompts=..." in section(text, title)
    assert "Not shown: it needs model=..." in section(text, OF_VECTORS[8])
    assert "Not shown: it needs sae=..." in section(text, OF_VECTORS[9])
    assert "How alike" not in text
    opened(browser, path, lambda seen: None)


def test_a_refusal_stands_in_its_section_alone(model: Any, trained: Any, sae: Any, tmp_path: Path) -> None:
    """No positions to leave out, one prompt, an autoencoder of another layer: the rest is there."""
    moved = steerlens.SteeringVector(trained.direction, 3.0, 2, "all", model_name="tiny-gemma2")
    text = report(moved, tmp_path / "a.html", model=model, prompts="Hi", sae=sae, **SHORT).read_text()
    assert "Not shown" in section(text, "Which edited tokens matter") and "slots" in section(text, "Which edited tokens matter")
    assert "Not shown" in section(text, "Against features of an autoencoder")
    assert "plotly-figure" in section(text, "Where attention moves")


def test_what_it_is(trained: Any, tmp_path: Path) -> None:
    first = section(report(trained, tmp_path / "a.html").read_text(), "What it is")
    for said in (f">{trained.factor:.2f}<", f">{trained.norm:.2f}<", ">p2+s2<", ">tiny-gemma2<", ">objective<", ">lang<"):
        assert said in first
    both = report({"a": trained, "b": trained.replace(provenance={"seed": 7})}, tmp_path / "b.html").read_text()
    assert re.search(r">seed</td><td[^>]*>differs<", both)


def test_a_vector_changed_after_training_says_so(trained: Any, tmp_path: Path) -> None:
    last = float(trained.history["factor"].iloc[-1])
    text = section(report(trained, tmp_path / "a.html").read_text(), "How it was trained")
    assert f"changed after training, which ended at factor {last:.4g}; it is {3 * last:.4g} now" in text
    as_trained = report(trained.replace(factor=last), tmp_path / "b.html").read_text()
    assert "changed after training" not in as_trained


def test_refusals_come_before_any_work(model: Any, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerlens.display.report_page._vectors", lambda given: pytest.fail("work started"))
    path = tmp_path / "a.html"
    with pytest.raises(ValueError, match=r"a.pdf: name the file \*.html"):
        report(trained, tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="there is no vector"):
        report({}, path)
    with pytest.raises(ValueError, match="prompts need a model"):
        report(trained, path, prompts=PROMPTS)
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        report({"a": trained, "b": trained.replace(layer=9)}, path, model=model)
    with pytest.raises(ValueError, match=r"prompt 1 has .* exceeds the context"):
        report(trained, path, model=model, prompts=["Hi", "x" * 600])
    with pytest.raises(ValueError, match="an evaluation holds all"):
        report(judged({"a": [1.0]}), path, model=model)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_would_be_too_large_is_not_written(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerlens.display.report_page.LARGEST", 1000)
    with pytest.raises(ValueError, match="give fewer vectors, fewer or shorter prompts"):
        report(trained, tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_the_same_report_has_the_same_bytes_and_the_model_is_left(model: Any, trained: Any, tmp_path: Path) -> None:
    tokens = torch.tensor([[1, 20, 30, 40]])
    before = model(tokens)
    first, second = (
        report(trained, tmp_path / name, model=model, prompts=PROMPTS[:2], **SHORT).read_bytes()
        for name in ("a.html", "b.html")
    )
    assert first == second
    assert torch.equal(model(tokens), before)


# --- an evaluation ------------------------------------------------------------------------------------------------------


def test_an_evaluation(browser: Any, tmp_path: Path) -> None:
    evaluation = judged({"sea": [2.0, 1.0, None, 1.5], BAD: [0.0, 0.5, 0.25, None], "none": [None]})
    path = report(evaluation, tmp_path / "scores.html")
    text = path.read_text()
    assert BAD not in text
    assert html_of(evaluation.summary()) in text and "3 of 9 responses are unscored" in text
    table = section(text, "Concepts, the weakest first")
    assert table.index(html_of(BAD)) < table.index(">sea<") < table.index(">none<")
    low, high = Evaluation(evaluation.frame[:4]).interval() or (0, 0)
    assert f">{low:.2f}<" in table and f">{high:.2f}<" in table
    worst, best = (section(text, f"Responses with the {end} scores") for end in ("lowest", "highest"))
    assert worst.index(html_of(f"{BAD} response 0")) < worst.index(html_of(f"{BAD} response 2"))
    assert best.index("sea response 0") < best.index("sea response 3")
    assert "judge failed &lt;script&gt;" in section(text, "Unscored responses") and "sea response 2" not in best

    def check(seen: Seen) -> None:
        assert headings(seen.page)[:2] == ["Scores", "Concepts, the weakest first"]
        plot = seen.page.locator(".js-plotly-plot")
        assert plot.count() == 1 and "unscored" in plot.inner_text()

    opened(browser, path, check)


def test_an_evaluation_without_a_score(tmp_path: Path) -> None:
    text = report(judged({"sea": [None, None]}), tmp_path / "a.html").read_text()
    assert "none of 2 responses could be scored" in text and "2 of 2 responses are unscored" in text
    assert "No response is scored." in text and "The figure is drawn here" not in text


def test_of_many_concepts_the_figure_shows_the_weakest(tmp_path: Path) -> None:
    many = judged({f"c{number:02}": [number / 20, number / 20] for number in range(30)})
    text = section(report(many, tmp_path / "a.html").read_text(), "Concepts, the weakest first")
    assert "20 of 30 concepts" in text
    data = text.split('type="application/json">')[1].split("</script>")[0]
    assert "c00" in data and "c19" in data and "c20" not in data
    assert ">c29<" in text
