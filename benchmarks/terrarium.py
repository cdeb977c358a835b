"""Terrarium: settings chosen on the development concepts, methods reported on the test concepts.

    python benchmarks/terrarium.py choose     # the grid, on development concepts -> results/settings.csv
    python benchmarks/terrarium.py report     # the methods, on test concepts     -> results/methods.csv and rows

Every response is sampled at the same temperature with the same seeds and rated by Terrarium's exact judge.
"""

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

import steerlens
from steerlens import terrarium
from steerlens.evaluation import accuracy

RESULTS = Path(__file__).parent / "results"
SCORES = ("concept_score", "instruct_score", "fluency_score", "overall")
N_QUESTIONS = 45
PUBLISHED_WIDTH, WIDTH = 2304, 160


class Arm(NamedTuple):
    """One way of training, to be compared with others."""

    name: str
    positions: str
    config: steerlens.TrainConfig
    layer: int = terrarium.LAYER
    factor: str | float = "joint"


def vectors_of(model, arm: Arm, concepts: Sequence[str], seed: int) -> dict[str, steerlens.SteeringVector]:
    data = {concept: terrarium.data(concept) for concept in concepts}
    settings = {"layer": arm.layer, "positions": arm.positions, "config": arm.config, "factor": arm.factor}
    return steerlens.train_many(model, data, seed=seed, progress=False, **settings)


def judged(model, vectors: Mapping[str, steerlens.SteeringVector | None], n: int, seed: int, prompted: bool = False):
    """Held-out prompts of each concept under its own vector, in shared batches."""
    about, prompts, steer = [], [], []
    for concept, sv in vectors.items():
        for prompt in terrarium.test_prompts(concept, n):
            about.append(concept)
            steer.append(sv)
            prompts.append(f"{terrarium.steering_prompt(concept)}\n\nQuestion: {prompt}" if prompted else prompt)
    return steerlens.evaluate(
        model,
        steerlens.PerPrompt(steer),
        about,
        prompts,
        terrarium.Judge(),
        max_new_tokens=80,
        temperature=terrarium.TEMPERATURE,
        seed=seed,
        batch_size=128,
    )


def grid() -> list[Arm]:
    """beta x lr_alpha around the published settings of each kind of positions; learning rates carried to this width."""
    betas, rates = {"p2+s2": (2.0, 4.0, 8.0), "all": (1.0, 2.0, 4.0)}, {"p2+s2": (1.0, 10.0), "all": (0.1, 1.0)}
    arms = []
    for positions in ("p2+s2", "all"):
        for factor_lr, beta in itertools.product(rates[positions], betas[positions]):
            changed = replace(steerlens.scaling.published(None, positions), factor_init=beta, factor_lr=factor_lr)
            carried = steerlens.scaling.transfer(changed, PUBLISHED_WIDTH, WIDTH)
            arms.append(Arm(f"{positions} beta={beta:g} lr_alpha={factor_lr:g}", positions, carried))
    return arms


def choose(model, n_concepts: int, n_prompts: int) -> None:
    concepts = terrarium.concepts("development")[:n_concepts]
    rows = []
    for arm in grid():
        start = time.perf_counter()
        vectors = vectors_of(model, arm, concepts, seed=42)
        evaluation = judged(model, vectors, n_prompts, seed=1)
        rows.append(_row(arm.name, evaluation) | {"norm": _mean(sv.norm for sv in vectors.values())})
        rows[-1]["seconds"] = time.perf_counter() - start
        print(_line(rows[-1]), flush=True)
        _write(rows, "settings.csv")


def report(model, n_prompts: int, seeds: Sequence[int]) -> None:
    """Each method on all test concepts; means over seeds within a concept, intervals over concepts."""
    concepts = terrarium.concepts("test")
    questions = terrarium.utility_questions(N_QUESTIONS)
    prosv, fssv = terrarium.settings("p2+s2"), terrarium.settings("all")
    arms = [
        Arm("PrOSV p2+s2, joint", "p2+s2", prosv),
        Arm("PrOSV p4+s5, joint", "p4+s5", prosv),
        Arm("FSSV, joint", "all", fssv),
        Arm("PrOSV p2+s2, fixed unit factor", "p2+s2", prosv, factor=1.0),
        Arm("FSSV, fixed unit factor", "all", fssv, factor=1.0),
    ]
    rows, kept = [], []
    for name, prompted in (("unsteered", False), ("prompt steering", True)):
        parts = [judged(model, dict.fromkeys(concepts), n_prompts, seed, prompted) for seed in seeds]
        rows.append(_row(name, steerlens.Evaluation.concat(parts)))
        rows[-1]["accuracy"] = accuracy(model, None, questions, max_new_tokens=80)
        kept += [part.frame.assign(method=name, train_seed=None) for part in parts]
        print(_line(rows[-1]), flush=True)
    for arm in arms:
        start = time.perf_counter()
        parts, right, norms = [], [], []
        for seed in seeds:
            vectors = vectors_of(model, arm, concepts, seed)
            parts.append(judged(model, vectors, n_prompts, seed))
            norms += [sv.norm for sv in vectors.values()]
            right += [accuracy(model, sv, questions, max_new_tokens=80, batch_size=128) for sv in vectors.values()]
            kept.append(parts[-1].frame.assign(method=arm.name, train_seed=seed))
        row = _row(arm.name, steerlens.Evaluation.concat(parts)) | {"accuracy": _mean(right), "norm": _mean(norms)}
        rows.append(row | {"seconds": time.perf_counter() - start})
        print(_line(rows[-1]), flush=True)
        _write(rows, "methods.csv")
    pd.concat(kept, ignore_index=True).to_parquet(RESULTS / "methods_rows.parquet", index=False)


def _row(name: str, evaluation: steerlens.Evaluation) -> dict[str, Any]:
    low, high = evaluation.interval() or (None, None)
    means = {score.removesuffix("_score"): evaluation.mean(score) for score in SCORES}
    count = {"n": len(evaluation.frame), "unscored": evaluation.unscored}
    return {"method": name} | means | {"overall_low": low, "overall_high": high} | count


def _mean(values) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _line(row: Mapping[str, object]) -> str:
    return "  ".join(f"{name} {value:.3f}" if isinstance(value, float) else str(value) for name, value in row.items())


def _write(rows: Sequence[Mapping[str, object]], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(RESULTS / name, index=False, float_format="%.4f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "report"))
    parser.add_argument("--model", default="terrarium")
    parser.add_argument("--prompts", type=int, default=16, help="held-out prompts per concept")
    parser.add_argument("--concepts", type=int, default=4, help="development concepts in the grid")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = steerlens.load_model(arguments.model)
    if arguments.what == "choose":
        choose(model, arguments.concepts, arguments.prompts)
    else:
        report(model, arguments.prompts, arguments.seeds)


if __name__ == "__main__":
    main()
