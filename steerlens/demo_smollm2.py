"""`steerlens demo --model smollm2`: one concept on a real model, by vectors and by a prompt, side by side."""

import json
import re
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from . import figures
from .data import SteeringData
from .demo import METHODS, side_by_side, text_table
from .display.html_page import write_page
from .files import PACKAGE
from .model.bridge import Bridge, model_name
from .model.loading import load_model
from .steering.generation import generate
from .steering.steering_prompt import SteeringPrompt
from .training.loop import train
from .training.objective_value import loss
from .vector import SteeringVector

CONCEPT_FILE = PACKAGE / "demo_smollm2.json"
PAGE = "demo-smollm2.html"
EPOCHS, BATCH_SIZE = 16, 6
"""Instead of the published 12 and 12, for data a third as large: 64 steps. All else is as published."""
COLUMN = 28
TEMPERATURE = 0.7
"""The likeliest text of so small a model soon repeats itself."""
NEW_TOKENS = 64


class Concept(NamedTuple):
    """The demo's own training data: short answers that speak of a concept, and what to ask afterwards."""

    words: str
    layer: int
    training: SteeringData
    held_out: SteeringData
    instruction: str
    """What asks for the concept in words."""
    shown_by: frozenset[str]
    """Words that show the concept."""
    questions: list[str]


class Way(NamedTuple):
    """One way of answering."""

    name: str
    steering: SteeringVector | SteeringPrompt | None
    answers: list[str]
    loss: float | None
    """On held-out examples; None for the steering prompt, whose prompts are others."""


def read_concept() -> Concept:
    """The concept that comes with the package."""
    held = json.loads(CONCEPT_FILE.read_text(encoding="utf-8"))
    rows, n = held["examples"], len(held["examples"]) - held["held_out"]
    training, held_out = (SteeringData(part, concept=held["concept"]) for part in (rows[:n], rows[n:]))
    return Concept(
        held["concept"],
        held["layer"],
        training,
        held_out,
        held["instruction"],
        frozenset(held["words"]),
        list(held["questions"]),
    )


def files(out: Path) -> list[Path]:
    """What `run` writes into `out`."""
    return [_vector_file(out, method) for method in METHODS] + [out / PAGE]


def run(out: Path, seed: int = 42, model: Bridge | None = None) -> list[Way]:
    """Train, answer and compare; print tables; write vectors and a page into `out`."""
    begun = time.monotonic()
    if model is None:
        print("SmolLM2-135M-Instruct: read, and the first time converted, which takes a minute")
        model = load_model("smollm2")
    concept = read_concept()
    print(f"{model_name(model)}, {len(concept.training)} examples of {concept.words!r}, {len(concept.held_out)} held out")
    ways = [_answered(model, concept, "unsteered", None)]
    for method, positions in METHODS.items():
        print(f"\n{method}: a vector added at {positions} after block {concept.layer}")
        sv = train(
            model, concept.training, layer=concept.layer, positions=positions, seed=seed, epochs=EPOCHS, batch_size=BATCH_SIZE
        )
        sv.save(_vector_file(out, method))
        ways.append(_answered(model, concept, method, sv))
    ways.append(_answered(model, concept, "prompt", SteeringPrompt(concept.instruction)))
    table = scores(ways, concept.shown_by)
    print(_side_by_side(ways, concept.questions))
    print(text_table(table))
    page = _page(out / PAGE, model, concept, ways, table)
    print(_next_steps(out, page, model, time.monotonic() - begun))
    return ways


def _answered(model: Bridge, concept: Concept, name: str, steering: SteeringVector | SteeringPrompt | None) -> Way:
    answers = generate(model, concept.questions, steering, max_new_tokens=NEW_TOKENS, temperature=TEMPERATURE)
    known = None if isinstance(steering, SteeringPrompt) else loss(model, steering, concept.held_out)
    return Way(name, steering, answers, known)


def scores(ways: Sequence[Way], shown_by: frozenset[str]) -> pd.DataFrame:
    """One row per way: held-out loss, factor, norm, and how many of the answers' words show the concept."""
    rows = []
    for way in ways:
        sv = way.steering if isinstance(way.steering, SteeringVector) else None
        size = {"factor": None if sv is None else sv.factor, "norm": None if sv is None else sv.norm}
        found = sum(shown(answer, shown_by) for answer in way.answers)
        rows.append(
            {"way": way.name, "held-out loss": way.loss, **size, f"concept's words in {len(way.answers)} answers": found}
        )
    return pd.DataFrame(rows)


def shown(text: str, words: frozenset[str]) -> int:
    """How many words of a text are among these."""
    return sum(word in words for word in re.findall(r"[a-z]+", text.lower()))


def _side_by_side(ways: Sequence[Way], questions: Sequence[str]) -> str:
    lines = []
    for index, question in enumerate(questions):
        lines += ["", f"prompt:  {question}", *side_by_side([(way.name, way.answers[index]) for way in ways], COLUMN)]
    return "\n".join(lines)


def _page(path: Path, model: Bridge, concept: Concept, ways: Sequence[Way], table: pd.DataFrame) -> Path:
    histories: Mapping[str, Any] = {
        way.name: way.steering.history
        for way in ways
        if isinstance(way.steering, SteeringVector) and way.steering.history is not None
    }
    answers = [
        {"prompt": question, "way": way.name, "response": way.answers[index]}
        for index, question in enumerate(concept.questions)
        for way in ways
    ]
    return write_page(
        path,
        f"steerlens demo: {concept.words} on {model_name(model)}",
        [
            "PrOSV edits the first two and the last two tokens of the prompt and leaves decoding alone; FSSV edits every "
            f"token. Both train a factor and a direction together on {len(concept.training)} examples (Bao et al. 2026), with "
            "the constants published for Gemma 2 2B carried to this model's width. The prompt way is asked in words: "
            f'"{concept.instruction}"',
            "# Scores",
            f"Loss: mean surprise per token of {len(concept.held_out)} examples that no vector was trained on, in nats. The "
            f"last column counts words that belong to the concept in answers sampled at temperature {TEMPERATURE}: it is a "
            "look, not a measurement, with one seed and few prompts.",
            table,
            "# Answers",
            pd.DataFrame(answers),
            "# How the vectors were trained",
            figures.plot_history(histories, "Factor, norm, loss and turning of the direction"),
        ],
    )


def _next_steps(out: Path, page: Path, model: Bridge, seconds: float) -> str:
    vector = _vector_file(out, "PrOSV")
    name = model_name(model)
    return textwrap.dedent(f"""
        {seconds:.0f} s in all; vectors and page are in {out}: open {page}
        next:
          steerlens generate --model {name} --temperature {TEMPERATURE} --vector {vector} "What is a river?"
          steerlens generate --model {name} --temperature {TEMPERATURE} --vector {vector} --scale 0.5 "What is a river?"
          steerlens train --model {name} --data mine.jsonl --layer {read_concept().layer} --out mine.safetensors""")


def _vector_file(out: Path, method: str) -> Path:
    return out / f"smollm2-{method.lower()}.safetensors"
