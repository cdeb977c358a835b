"""The suppression attack: what the model is given, what the judge is shown, and the numbers, against hand-made tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import steerlens
from steerlens import PerPrompt, Scores, ScriptedJudge, SteeringPrompt
from steerlens.evaluation.scales import scaled
from steerlens.evaluation.suppression_attack import Suppression, forbid, read_suppression, rewriter, suppression

PROMPTS = ["one", "two", "three"]
ATTACKED = ["one, no fish", "two, no fish", "three, no fish"]
FAST: dict[str, Any] = {"max_new_tokens": 5, "seed": 3}


def length_judge() -> ScriptedJudge:
    """Rates by the response alone, so that a row can be checked by hand."""
    return ScriptedJudge(lambda concept, prompt, response: Scores(len(response) % 3, 2, 1))


def test_the_model_gets_the_attack_and_the_judge_the_original(model: Any, make_vector: Callable[..., Any]) -> None:
    judge, vectors = length_judge(), {"a": make_vector(seed=1), "b": make_vector(seed=2, positions="all")}
    found = suppression(model, vectors, "fish", PROMPTS, judge, attacked=ATTACKED, scales=(1, 0.5), **FAST)
    assert len(found.frame) == 2 * 2 * 2 * 3
    assert {call[:2] for call in judge.calls} == {("fish", prompt) for prompt in PROMPTS}
    seeds = found.frame["seed"].tolist()[:3]
    for name, sv in vectors.items():
        for scale in (1.0, 0.5):
            for attack, given in ((False, PROMPTS), (True, ATTACKED)):
                rows = found.evaluation(name, scale=scale, attack=attack).frame
                expected = steerlens.generate(model, given, sv.scaled(scale), max_new_tokens=5, seed=seeds)
                assert rows["response"].tolist() == expected
                assert rows["given"].tolist() == given and rows["prompt"].tolist() == PROMPTS
                assert rows["concept_score"].tolist() == [len(text) % 3 for text in expected]


def test_a_steering_prompt_stands_before_the_attack_and_has_one_scale(model: Any) -> None:
    asked = SteeringPrompt("Talk of fish.")
    found = suppression(model, {"prompt": asked}, "fish", PROMPTS, length_judge(), attacked=forbid, scales=(1, 0.5), **FAST)
    assert set(found.frame["scale"]) == {1.0}
    given = [forbid("fish", prompt) for prompt in PROMPTS]
    seeds = found.frame["seed"].tolist()[:3]
    expected = steerlens.generate(model, [asked.apply(text) for text in given], max_new_tokens=5, seed=seeds)
    assert found.evaluation("prompt").frame["response"].tolist() == expected


def test_several_concepts_with_a_vector_each(model: Any, make_vector: Callable[..., Any]) -> None:
    first, last = make_vector(seed=1), make_vector(seed=2)
    rows = PerPrompt([first, None, last])
    found = suppression(model, rows, ["x", "y", "x"], PROMPTS, length_judge(), attacked=ATTACKED, scales=(0.5,), **FAST)
    halved = PerPrompt([first.scaled(0.5), None, last.scaled(0.5)])
    expected = steerlens.generate(model, ATTACKED, halved, max_new_tokens=5, seed=found.frame["seed"].tolist()[:3])
    assert found.evaluation("vector", scale=0.5).frame["response"].tolist() == expected
    assert found.frame["concept"].tolist() == ["x", "y", "x"] * 2


def table(overall: list[float | None], concepts: list[str] | None = None) -> Suppression:
    """Rows without the attack, then the same prompts with it."""
    half = len(overall) // 2
    rows = pd.DataFrame({"overall": overall, "attack": [False] * half + [True] * half}).astype({"overall": float})
    rows = rows.assign(vector="v", scale=1.0, concept=(concepts or ["c"] * half) * 2, prompt="p", error=None)
    return Suppression(rows.assign(**{f"{name}_score": rows["overall"] for name in ("concept", "instruct", "fluency")}))


def test_numbers_by_hand() -> None:
    row = table([2, 1, None, 1.5, 1, 0, 1, None]).to_frame().iloc[0]
    assert row["overall"] == pytest.approx((2 + 1 + 1.5) / 3)
    assert row["attacked"] == pytest.approx((1 + 0 + 1) / 3)
    assert row["drop"] == pytest.approx((1 + 1) / 2), "only the pairs that are scored in both"
    assert (row["drop_low"], row["drop_high"]) == (1.0, 1.0)
    assert (row["n"], row["unscored"]) == (4, 2)
    told = table([2, 1, None, 1.5, 1, 0, 1, None]).summary()
    assert "drop 1.00, 95 % interval 1.00 to 1.00, too few to trust it, 2 of 4 prompts scored in both, 2 rows unscored" in told
    assert "(drop 1.00, no interval, 1 of 1 prompts scored in both" in table([2, 1]).summary()
    assert "drop 1.00" in table([2, 1, 1, 0]).summary()
    assert "too few" not in table([2, 1, 2, 1, 2, 1, 1, 0, 1, 0]).summary()
    assert "not scored both" in table([2.0, None]).summary()


def test_intervals_are_over_concepts_when_there_are_several() -> None:
    """Drops of 2 and 0 within each concept: their means are alike, so the interval has no width."""
    one = table([2, 1, 2, 1, 0, 1, 0, 1]).to_frame().iloc[0]
    several = table([2, 1, 2, 1, 0, 1, 0, 1], ["a", "a", "b", "b"]).to_frame().iloc[0]
    assert (several["drop"], several["drop_low"], several["drop_high"]) == (1.0, 1.0, 1.0)
    assert [one["drop_low"], one["drop_high"]] == [0.0, 2.0], "that of four pairs is their range"
    assert (one["units"], several["units"], several["pairs"]) == (4, 2, 4)


def test_attacks_are_read_from_files(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "original_prompt": ["p0", "p1", "q0"],
            "steered_prompt": ["p0!", "p1!", "q0!"],
            "concept": ["x", "x", "y"],
            "concept_id": [4, 4, 7],
        }
    )
    for name in ("a.parquet", "a.csv"):
        write = rows.to_parquet if name.endswith("parquet") else rows.to_csv
        write(tmp_path / name, index=False)
        found = read_suppression(tmp_path / name)
        assert list(found) == [4, 7]
        assert found[4] == ("x", ("p0", "p1"), ("p0!", "p1!"))
    for ids in (["4.0", "4", "7.0"], [4.0, 4.0, 7.0]):
        rows.assign(concept_id=ids).to_csv(tmp_path / "float.csv", index=False)
        assert list(read_suppression(tmp_path / "float.csv")) == [4, 7]
    rows.assign(concept_id=[4.0, 4.0, 7.0]).to_parquet(tmp_path / "float.parquet")
    assert list(read_suppression(tmp_path / "float.parquet")) == [4, 7]
    for wrong, told in (("x", "'x'"), ("", "''"), ("4.5", "'4.5'"), ("inf", "'inf'")):
        rows.assign(concept_id=["4", wrong, "7"]).to_csv(tmp_path / "id.csv", index=False)
        with pytest.raises(ValueError, match=rf"id\.csv, row 1: concept_id is {told}, not a whole number"):
            read_suppression(tmp_path / "id.csv")
    rows.assign(concept_id=[4, np.nan, 7]).to_parquet(tmp_path / "gap.parquet")
    with pytest.raises(ValueError, match=r"gap\.parquet, row 1: concept_id is nan, not a whole number"):
        read_suppression(tmp_path / "gap.parquet")
    rows.assign(steered_prompt=["a", " ", "b"]).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match=r"b\.csv, row 1: steered_prompt is ' ', not a text"):
        read_suppression(tmp_path / "b.csv")
    rows.drop(columns="concept").to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(ValueError, match=r"lacks the columns \['concept'\]"):
        read_suppression(tmp_path / "c.csv")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_suppression(tmp_path / "none.parquet")


def test_a_language_model_writes_the_attack(model: Any) -> None:
    asked: list[str] = []

    def complete(text: str) -> str:
        asked.append(text)
        return f" rewritten {len(asked)} \n"

    found = suppression(model, None, "fish {braces}", PROMPTS, length_judge(), attacked=rewriter(complete), **FAST)
    assert found.evaluation("vector").frame["given"].tolist() == ["rewritten 1", "rewritten 2", "rewritten 3"]
    assert all(prompt in text and "fish {braces}" in text for prompt, text in zip(PROMPTS, asked, strict=True))
    with pytest.raises(ValueError, match="returned nothing for the instruction 'one'"):
        rewriter(lambda text: " ")("fish", "one")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacked": ["x"]}, "1 attacked prompts for 3 prompts"),
        ({"attacked": "bcd"}, "attacked is one text, 'bcd': give a list"),
        ({"attacked": ["x", "two", "y"]}, "prompt 1 is the same with the attack and without: 'two'"),
        ({"scales": ()}, "must be at least one"),
        ({"scales": (1, 1.0)}, "each once"),
        ({"sv": {}}, "no vectors to attack"),
        ({"concept": ["a"]}, "1 concepts for 3 prompts"),
    ],
)
def test_refused(model: Any, changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"sv": None, "concept": "c", "attacked": ATTACKED} | changes
    with pytest.raises(ValueError, match=message):
        suppression(model, prompts=PROMPTS, judge=length_judge(), **settings, **FAST)
    with pytest.raises(ValueError, match="no vector 'w' at scale 1"):
        table([1, 1]).evaluation("w")


def test_scales(make_vector: Callable[..., Any]) -> None:
    sv, asked = make_vector(factor=2.0), SteeringPrompt("x")
    assert scaled(sv, [1.0, 0.5]) == {1.0: make_vector(factor=2.0), 0.5: make_vector(factor=1.0)}
    assert scaled(asked, [0.5]) == {1.0: asked} and scaled(None, [0.5]) == {1.0: None}
    assert scaled([asked, sv], [0.5]) == {0.5: [asked, sv.scaled(0.5)]}


def test_the_figure_says_what_is_left() -> None:
    figure: Any = table([2, 1, 1, 0]).plot()
    assert [trace.name for trace in figure.data] == ["without the attack", "under the attack"]
    assert list(figure.data[0].x) == [1.5] and list(figure.data[1].x) == [0.5]
    assert figure.layout.xaxis.title.text == "mean overall score (0 to 2)" and figure.layout.yaxis.title.text
    assert "Suppression" in figure.layout.title.text
    assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in figure.data)


def test_nothing_is_drawn_where_nothing_was_scored() -> None:
    tables = {"both": table([2, 1, 1, 0]), "plain": table([2, 1, None, None]), "attacked": table([None, None, 1, 0])}
    tables["none"] = table([None] * 4)
    frame = pd.concat([one.frame.assign(vector=name) for name, one in tables.items()], ignore_index=True)
    figure: Any = Suppression(frame).plot()
    assert [(line.x0, line.x1, line.y0) for line in figure.layout.shapes] == [(1.5, 0.5, 0)]
    assert list(figure.layout.yaxis.ticktext) == [
        "both x 1",
        "plain x 1 (unscored under the attack)",
        "attacked x 1 (unscored without the<br>attack)",
        "none x 1 (unscored)",
    ]
