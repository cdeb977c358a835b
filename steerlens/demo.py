"""`steerlens demo`: the whole way on the embedded model, from data to judged text, saved vectors and a page."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from . import figures, terrarium
from .display.html_page import write_page
from .evaluation.scoring import Evaluation, accuracy, evaluate
from .model.bridge import Bridge
from .model.loading import load_model
from .training.loop import train_many
from .vector import SteeringVector

N_CONCEPTS, N_PROMPTS, N_QUESTIONS, NEW_TOKENS = 3, 10, 60, 64
METHODS = {"PrOSV": "p2+s2", "FSSV": "all"}
COLUMN = 36
PAGE = "demo.html"


class Outcome(NamedTuple):
    """One way of answering, for one concept."""

    method: str
    concept: str
    evaluation: Evaluation
    accuracy: float


def files(out: Path) -> list[Path]:
    """What `run` writes into `out`."""
    concepts = terrarium.concepts("test")[:N_CONCEPTS]
    return [_vector_file(out, method, concept) for method in METHODS for concept in concepts] + [out / PAGE]


def run(out: Path, seed: int = 42) -> list[Outcome]:
    """Train, apply and judge; print tables; write vectors and a page into `out`."""
    print("Terrarium: a small language model that ships with steerlens, trained on a small world of its own.")
    model = load_model("terrarium")
    concepts = terrarium.concepts("test")[:N_CONCEPTS]
    vectors = {method: _train(model, method, positions, concepts, seed) for method, positions in METHODS.items()}
    outcomes = _judge(model, vectors, concepts, seed)
    print(_answers(outcomes, concepts))
    table = scores(outcomes)
    print(text_table(table))
    for method, trained in vectors.items():
        for concept, sv in trained.items():
            sv.save(_vector_file(out, method, concept))
    page = _page(out / PAGE, outcomes, vectors, table)
    print(_next_steps(out, page, concepts[0]))
    return outcomes


def _train(model: Bridge, method: str, positions: str, concepts: Sequence[str], seed: int) -> dict[str, SteeringVector]:
    print(f"\n{method}: one vector per concept, added at {positions} after block {terrarium.LAYER}")
    data = {concept: terrarium.data(concept) for concept in concepts}
    config = terrarium.settings(positions)
    return train_many(model, data, layer=terrarium.LAYER, positions=positions, config=config, seed=seed)


def _judge(
    model: Bridge, vectors: Mapping[str, Mapping[str, SteeringVector]], concepts: Sequence[str], seed: int
) -> list[Outcome]:
    """Held-out prompts for the concepts, closed questions of other kinds for what must not suffer."""
    print(f"\nJudging {N_PROMPTS} held-out prompts per concept, and {N_QUESTIONS} unrelated questions per vector")
    judge, questions = terrarium.Judge(), terrarium.utility_questions(N_QUESTIONS, seed)
    outcomes = []
    unsteered = accuracy(model, None, questions, max_new_tokens=NEW_TOKENS)
    for method in ("unsteered", *vectors):
        for concept in concepts:
            sv = vectors[method][concept] if method in vectors else None
            prompts = terrarium.test_prompts(concept, N_PROMPTS)
            judged = evaluate(
                model, sv, concept, prompts, judge, max_new_tokens=NEW_TOKENS, temperature=terrarium.TEMPERATURE, seed=seed
            )
            right = unsteered if sv is None else accuracy(model, sv, questions, max_new_tokens=NEW_TOKENS)
            outcomes.append(Outcome(method, concept, judged, right))
    return outcomes


def scores(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row per method and concept, and one per method over its concepts."""
    rows = [_score_row(o.method, o.concept, o.evaluation, o.accuracy) for o in outcomes]
    for method in dict.fromkeys(o.method for o in outcomes):
        mine = [o for o in outcomes if o.method == method]
        right = sum(o.accuracy for o in mine) / len(mine)
        rows.append(_score_row(method, "mean of concepts", Evaluation.concat([o.evaluation for o in mine]), right))
    return pd.DataFrame(rows)


def _score_row(method: str, concept: str, judged: Evaluation, right: float) -> Mapping[str, object]:
    means = {name: judged.mean(f"{name}_score") for name in ("concept", "instruct", "fluency")}
    names = {"concept": "concept 0-2", "instruct": "instruct 0-2", "fluency": "fluency 0-2"}
    scored = {names[name]: value for name, value in means.items()}
    return {"method": method, "for": concept} | scored | {"overall 0-2": judged.overall, "accuracy 0-1": right}


def _answers(outcomes: Sequence[Outcome], concepts: Sequence[str]) -> str:
    """The answers to one prompt of each concept, side by side."""
    lines = []
    for concept in concepts:
        mine = {o.method: o.evaluation.frame.iloc[0] for o in outcomes if o.concept == concept}
        prompt = next(iter(mine.values()))["prompt"]
        lines += ["", f"concept: {concept}", f"prompt:  {prompt}"]
        lines += side_by_side([(method, row["response"]) for method, row in mine.items()])
    return "\n".join(lines)


def side_by_side(columns: Sequence[tuple[str, str]], width: int = COLUMN) -> list[str]:
    """Lines with a column of `width` characters for each heading and text."""
    wrapped = [[head, "-" * width, *textwrap.wrap(text, width)] for head, text in columns]
    height = max(map(len, wrapped))
    padded = [column + [""] * (height - len(column)) for column in wrapped]
    return ["  " + "   ".join(cell.ljust(width) for cell in row).rstrip() for row in zip(*padded, strict=True)]


def text_table(frame: pd.DataFrame) -> str:
    """A table as text, after an empty line; what is not there is left empty."""
    return "\n" + frame.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.2f}")


Vectors = Mapping[str, Mapping[str, SteeringVector]]
"""method -> concept -> vector"""


def _page(path: Path, outcomes: Sequence[Outcome], vectors: Vectors, table: pd.DataFrame) -> Path:
    histories = {
        f"{method}: {concept}": sv.history
        for method, trained in vectors.items()
        for concept, sv in trained.items()
        if sv.history is not None
    }
    answers = pd.concat(
        [o.evaluation.frame.head(3)[["concept", "prompt", "response", "overall"]].assign(method=o.method) for o in outcomes]
    ).sort_values(["concept", "prompt"], kind="stable")
    return write_page(
        path,
        "steerlens demo: prompt-only and full-sequence steering vectors on Terrarium",
        [
            "PrOSV edits the first two and the last two tokens of the prompt and leaves decoding alone; FSSV edits every "
            "token. Both train a factor and a direction together on 72 examples per concept (Bao et al. 2026).",
            "# Scores",
            "Held-out prompts, rated by Terrarium's exact judge: is the concept there, is the instruction answered, is the "
            "text fluent (0 to 2 each); overall is their harmonic mean, 0 if any is 0. Accuracy is the share of unrelated "
            f"closed questions answered rightly with the vector on. {N_PROMPTS} prompts per concept: differences below "
            "about 0.3 in one row are noise.",
            table,
            "# How the vectors were trained",
            "The loss is that of each batch and jumps from batch to batch. A low loss does not mean a strong concept: "
            "read the scores.",
            figures.plot_history(histories, "Factor, norm, loss and turning of the direction"),
            "# Answers",
            "Three prompts per concept and method.",
            answers,
        ],
    )


def _next_steps(out: Path, page: Path, concept: str) -> str:
    vector = _vector_file(out, "PrOSV", concept)
    return textwrap.dedent(f"""
        vectors and page are in {out}: open {page}
        next:
          steerlens generate --model terrarium --vector {vector} "Describe a fox."
          steerlens generate --model terrarium --vector {vector} --scale 0.5 "Describe a fox."
          steerlens train --model google/gemma-2-2b-it --data mine.jsonl --layer 10 --out mine.safetensors
        tutorials/1_first_vector.ipynb does the same in a notebook.""")


def _vector_file(out: Path, method: str, concept: str) -> Path:
    return out / f"{method.lower()}-{_slug(concept)}.safetensors"


def _slug(concept: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in concept.lower()).split())
