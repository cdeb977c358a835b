"""The demo's whole way, in small."""

import pytest

import steerlens
from steerlens import demo, terrarium


@pytest.mark.slow
def test_demo_trains_judges_saves_and_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "N_CONCEPTS", 1)
    monkeypatch.setattr(demo, "N_PROMPTS", 4)
    monkeypatch.setattr(demo, "N_QUESTIONS", 9)
    outcomes = demo.run(tmp_path, seed=1)
    printed = capsys.readouterr().out
    concept = terrarium.concepts("test")[0]
    assert [(o.method, o.concept) for o in outcomes] == [(m, concept) for m in ("unsteered", "PrOSV", "FSSV")]
    for part in (concept, "unsteered", "PrOSV", "FSSV", "overall 0-2", "accuracy 0-1", "next:", "demo.html"):
        assert part in printed
    vectors = {path.name: steerlens.SteeringVector.load(path) for path in tmp_path.glob("*.safetensors")}
    assert {(sv.positions, sv.concept) for sv in vectors.values()} == {("p2+s2", concept), ("all", concept)}
    assert all(sv.history is not None and len(sv.history) > 10 for sv in vectors.values())
    page = (tmp_path / "demo.html").read_text()
    assert "Plotly.newPlot" in page
    assert outcomes[1].evaluation.frame["response"][0].split()[0] in page


def test_side_by_side_keeps_every_word():
    lines = demo.side_by_side([("one", "a b c " * 20), ("two", "short")])
    assert lines[0].split() == ["one", "two"]
    assert "".join(line[: demo.COLUMN + 2] for line in lines).count("a") == 20


def test_scores_average_over_concepts():
    import pandas as pd

    from steerlens.evaluation.scoring import Evaluation

    def outcome(concept: str, overall: float, right: float) -> demo.Outcome:
        names = ("concept_score", "instruct_score", "fluency_score", "overall")
        frame = pd.DataFrame([{"concept": concept} | dict.fromkeys(names, overall)])
        return demo.Outcome("PrOSV", concept, Evaluation(frame), right)

    table = demo.scores([outcome("a", 2.0, 0.5), outcome("b", 1.0, 1.0)])
    assert table["for"].tolist() == ["a", "b", "mean of concepts"]
    assert table["overall 0-2"].tolist() == [2.0, 1.0, 1.5]
    assert table["accuracy 0-1"].tolist() == [0.5, 1.0, 0.75]
