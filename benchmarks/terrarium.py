"""Every method on Terrarium: settings chosen on the development concepts, methods compared on the test concepts.

    python benchmarks/terrarium.py choose     # the grid, on development concepts  -> results/settings.csv
    python benchmarks/terrarium.py compare    # every method, on test concepts     -> results/methods/, results/methods.csv
    python benchmarks/terrarium.py table      # results/methods.csv again, from results/methods/

All methods get the same examples, prompts and judge (Terrarium's exact one). A prompt's sampling seed is the same for all
methods without selection, and the same for all with it. The model runs in bfloat16 with float32 parameters for the vectors.
Joint training has settings chosen on development concepts (LoReFT takes PrOSV's, RePS takes SimPO's); a fixed or sampled factor
has the published lambda and lr_v, and selection instead. A method whose files are there is not run again; delete them, or name
it with --only. Seconds are those of the machine at the time: they compare only where nothing else ran.
"""

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import steerlens
from steerlens import terrarium
from steerlens.evaluation.factor_selection import best_factor, fair_score
from steerlens.evaluation.scoring import accuracy
from steerlens.intervals import mean_interval
from steerlens.training.scaling import published_row, transfer

RESULTS = Path(__file__).parent / "results"
SCORES = ("overall", "concept_score", "instruct_score", "fluency_score")
N_QUESTIONS = 45
N_CHOOSE = 12
"""Prompts per concept in the grid."""
MAX_NEW_TOKENS = 80
PUBLISHED_WIDTH = 2304
TRAINING_FACTORS = tuple(range(2, 21, 2))
"""Factor sampling draws from these (Wu et al. 2025, for Gemma), carried to this width by the scaling rule."""
SELECTION_FACTORS = (*TRAINING_FACTORS, 25, 30, 40, 50)
"""Factor selection tries these: as they are for unit directions, carried to this width for directions trained by sampling."""
AROUND_JOINT = (3.0, 4.5, 6.0, 7.5, 9.0, 10.5, 12.0, 15.0, 18.0)
"""For the full-sequence vectors of joint training, whose factors end near 6: is it the strength or the direction?"""


class Arm(NamedTuple):
    """One way of getting a vector for each concept, to be compared with others."""

    name: str
    positions: str = "all"
    objective: str = "lang"
    form: str = "add"
    rank: int = 1
    factor: Any = "joint"
    extracted: str = ""
    """Method of `steerlens.extract`, instead of training."""
    selected: tuple[float, ...] = ()
    """Factors to select from after training."""
    config: steerlens.TrainConfig | None = None

    @property
    def slug(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.name.lower()).strip("-")


def carried(factors: Sequence[float]) -> tuple[float, ...]:
    """Factors are of the order of the square root of the width."""
    return tuple(round(factor * (terrarium.defaults.WIDTH / PUBLISHED_WIDTH) ** 0.5, 4) for factor in factors)


def arms() -> list[Arm]:
    """The methods of the paper's table, in its order."""
    unit, sampled = tuple(map(float, SELECTION_FACTORS)), carried(SELECTION_FACTORS)
    joint = [Arm(f"{kind}, {objective}, joint", positions, objective) for objective in ("lang", "simpo", "reps")
             for kind, positions in (("FSSV", "all"), ("PrOSV p2+s2", "p2+s2"))]  # fmt: skip
    return [
        Arm("unsteered"),
        Arm("prompt steering"),
        Arm("difference in means + selection", extracted="difference", selected=unit),
        Arm("PCA + selection", extracted="pca", selected=unit),
        Arm("FSSV, lang, fixed unit factor", factor=1.0),
        Arm("FSSV, lang, factor sampling + selection", factor=carried(TRAINING_FACTORS), selected=sampled),
        *joint,
        Arm("FSSV, lang, joint, then selection", selected=AROUND_JOINT),
        Arm("LoReFT r1 p2+s2, lang", "p2+s2", form="loreft", rank=1),
        Arm("LoReFT r4 p2+s2, lang", "p2+s2", form="loreft", rank=4),
    ]


def config_of(arm: Arm) -> steerlens.TrainConfig:
    """Settings of a method: the grid's for joint training; the published start (lambda, lr_v) where the factor is given."""
    if arm.config is not None:
        return arm.config
    if arm.factor == "joint":
        return terrarium.settings(arm.positions, arm.objective)
    row = published_row(None, arm.positions, arm.objective)
    return transfer(row.config, row.d_model, terrarium.defaults.WIDTH)


def vectors_of(model: Any, arm: Arm, concepts: Sequence[str], seed: int) -> dict[str, Any]:
    """What steers for each concept."""
    if arm.name == "unsteered":
        return dict.fromkeys(concepts)
    if arm.name == "prompt steering":
        return {concept: steerlens.SteeringPrompt(terrarium.steering_prompt(concept), concept) for concept in concepts}
    data = {concept: terrarium.data(concept) for concept in concepts}
    if arm.extracted:
        settings = {"layer": terrarium.LAYER, "method": arm.extracted, "positions": arm.positions, "factor": 1.0}
        return {concept: steerlens.extract(model, rows, **settings) for concept, rows in data.items()}
    settings = {"layer": terrarium.LAYER, "positions": arm.positions, "objective": arm.objective, "form": arm.form}
    settings |= {"rank": arm.rank, "factor": arm.factor, "config": config_of(arm), "seed": seed, "progress": False}
    return {concept: steerlens.train(model, rows, **settings) for concept, rows in data.items()}


def judged(model: Any, vectors: Mapping[str, Any], n: int, seed: int) -> pd.DataFrame:
    """Held-out prompts of each concept under its own vector, in shared batches."""
    asked = [(concept, sv, prompt) for concept, sv in vectors.items() for prompt in terrarium.test_prompts(concept, n)]
    concepts, steer, prompts = (list(column) for column in zip(*asked, strict=True))
    settings = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": terrarium.TEMPERATURE, "seed": seed, "batch_size": 128}
    return steerlens.evaluate(model, steerlens.PerPrompt(steer), concepts, prompts, terrarium.Judge(), **settings).frame


def selected(model: Any, vectors: Mapping[str, Any], arm: Arm, n: int, seed: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All rows of the selection, and the vectors with the factor that is best on all prompts."""
    prompts = {concept: terrarium.test_prompts(concept, n) for concept in vectors}
    settings = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": terrarium.TEMPERATURE, "seed": seed, "batch_size": 128}
    chosen = steerlens.select_factors(model, vectors, prompts, terrarium.Judge(), arm.selected, **settings)
    return pd.concat([s.frame for s in chosen.values()], ignore_index=True), {name: s.vector for name, s in chosen.items()}


def run(model: Any, arm: Arm, concepts: Sequence[str], n: int, seed: int, folder: Path) -> None:
    """One method, timed, into two files."""
    start = time.perf_counter()
    vectors = vectors_of(model, arm, concepts, seed)
    trained = time.perf_counter()
    frame, vectors = selected(model, vectors, arm, n, seed) if arm.selected else (judged(model, vectors, n, seed), vectors)
    done = time.perf_counter()
    questions = terrarium.utility_questions(N_QUESTIONS)
    norms = [sv.norm for sv in vectors.values() if isinstance(sv, steerlens.SteeringVector)]
    distinct = dict.fromkeys(concepts[:1]) if arm.name == "unsteered" else vectors
    about = {
        "method": arm.name,
        "seed": seed,
        "seconds_getting_vectors": round(trained - start, 1),
        "seconds_judging": round(done - trained, 1),
        "selection_generations_per_concept": len(arm.selected) * n,
        "accuracy": _mean(accuracy(model, sv, questions, max_new_tokens=80, batch_size=128) for sv in distinct.values()),
        "norm": _mean(norms) if norms else None,
        "config": asdict(config_of(arm)) if norms and not arm.extracted else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / f"{arm.slug}.parquet", index=False)
    (folder / f"{arm.slug}.json").write_text(json.dumps(about, indent=2) + "\n")


def table(folder: Path) -> pd.DataFrame:
    """The comparison, made from the files of the methods that are there; a selecting method has two rows."""
    rows = []
    for arm in arms():
        if not (folder / f"{arm.slug}.json").exists():
            continue
        about = json.loads((folder / f"{arm.slug}.json").read_text())
        frame = pd.read_parquet(folder / f"{arm.slug}.parquet")
        for kind in ("fair", "oracle") if arm.selected else ("",):
            by_concept = {concept: _scores(part, kind) for concept, part in frame.groupby("concept", sort=False)}
            scores = pd.DataFrame(by_concept).T
            low, high = mean_interval(scores["overall"].to_numpy()) or (np.nan, np.nan)
            row = {"method": f"{arm.name} ({kind})" if kind else arm.name, "overall": scores["overall"].mean()}
            row |= {"overall_low": low, "overall_high": high, "overall_sd": scores["overall"].std()}
            row |= {score.removesuffix("_score"): scores[score].mean() for score in SCORES[1:]}
            kept = {key: value for key, value in about.items() if key not in ("method", "seed", "config")}
            if kind == "fair":  # these two were measured with the factor that is best on all prompts
                kept |= {"accuracy": None, "norm": None}
            rows.append(row | {"unscored": int(frame["overall"].isna().sum())} | kept)
    return pd.DataFrame(rows)


def _scores(frame: pd.DataFrame, kind: str) -> dict[str, float]:
    """Mean scores of one concept's rows; of a selection those of the chosen factor, fairly or on the same prompts."""
    if not kind:
        return {score: frame[score].mean() for score in SCORES}
    factors = frame["factor"].drop_duplicates().tolist()
    tables = {score: frame[score].to_numpy(float).reshape(len(factors), -1) for score in SCORES}
    if kind == "oracle":
        best = factors.index(best_factor(tables["overall"], factors))
        return {score: float(np.nanmean(values[best])) for score, values in tables.items()}
    fair = {score: fair_score(tables["overall"], factors, report=values) for score, values in tables.items()}
    return {score: value.mean for score, value in fair.items() if value is not None}


def grid() -> list[Arm]:
    """beta x lr_alpha around the published constants of each kind of positions and objective, carried to this width."""
    tried = {
        ("p2+s2", "lang"): ((1.0, 2.0, 4.0, 8.0), (1.0, 10.0)),
        ("all", "lang"): ((0.25, 0.5, 1.0, 2.0), (0.1, 1.0)),
        ("all", "simpo"): ((0.25, 0.5, 1.0, 2.0), (0.1,)),
        ("p2+s2", "simpo"): ((2.0, 4.0), (20.0,)),
    }
    found = []
    for (positions, objective), (betas, rates) in tried.items():
        for rate, beta in itertools.product(rates, betas):
            changed = replace(steerlens.scaling.published(None, positions, objective), factor_init=beta, factor_lr=rate)
            config = transfer(changed, PUBLISHED_WIDTH, terrarium.defaults.WIDTH)
            name = f"{positions} {objective} beta={beta:g} lr_alpha={rate:g}"
            found.append(Arm(name, positions, objective, config=config))
    return found


def choose(model: Any, n_concepts: int, seed: int) -> None:
    """The grid, on development concepts; what the file has already is not run again."""
    concepts = terrarium.concepts("development")[:n_concepts]
    path = RESULTS / "settings.csv"
    rows: list[dict[Any, Any]] = pd.read_csv(path).to_dict("records") if path.exists() else []
    known = {row["settings"] for row in rows}
    for arm in (arm for arm in grid() if arm.name not in known):
        start = time.perf_counter()
        vectors = vectors_of(model, arm, concepts, seed)
        means = judged(model, vectors, N_CHOOSE, seed=1)[list(SCORES)].mean()
        row = {"settings": arm.name, **means, "norm": _mean(sv.norm for sv in vectors.values())}
        rows.append(row | {"concepts": len(concepts), "prompts": N_CHOOSE, "seconds": time.perf_counter() - start})
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in rows[-1].items()), flush=True)
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4f")


def compare(model: Any, n: int, seed: int, only: Sequence[str]) -> None:
    """Every method (or those whose names begin as asked), on test concepts."""
    folder = RESULTS / "methods"
    for arm in arms():
        asked = any(arm.slug.startswith(name) for name in only)
        if asked or (not only and not (folder / f"{arm.slug}.json").exists()):
            run(model, arm, terrarium.concepts("test"), n, seed, folder)
            print(f"{arm.name}: done", flush=True)
    write_table(folder)


def write_table(folder: Path) -> None:
    whole = table(folder)
    whole.to_csv(RESULTS / "methods.csv", index=False, float_format="%.4f")
    print(whole.to_string(index=False, float_format="%.2f"))


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "compare", "table"))
    parser.add_argument("--model", default="terrarium")
    parser.add_argument("--prompts", type=int, default=12, help="held-out prompts per concept")
    parser.add_argument("--concepts", type=int, default=3, help="development concepts in the grid")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="names of methods, as their files begin")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    RESULTS.mkdir(exist_ok=True)
    if arguments.what == "table":
        return write_table(RESULTS / "methods")
    model = steerlens.load_model(arguments.model, dtype=torch.bfloat16)
    if arguments.what == "choose":
        choose(model, arguments.concepts, arguments.seed)
    else:
        compare(model, arguments.prompts, arguments.seed, arguments.only)


if __name__ == "__main__":
    main()
