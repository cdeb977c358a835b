"""How the score depends on beta, lr_alpha and lambda: joint training on Terrarium's development concepts.

    python benchmarks/heatmap.py                # train and judge every cell, then the table -> results/heatmap.csv
    python benchmarks/heatmap.py --table        # only the table, of the cells that are there
    python benchmarks/heatmap.py --out FOLDER   # cells elsewhere than in results/heatmap_cells
    python benchmarks/heatmap.py --full         # fewer places, trained on everything -> results/heatmap_full.csv

Killed, it goes on where it was. After changes to steerlens that do not change the numbers: --on-mismatch keep.
Learning rates are given as tuned at the published width and carried to this one. Every vector is trained on 24 examples for 4
epochs (8 steps) and judged on 8 held-out prompts: enough to see where so short a training works, not to rank neighbours.
--full trains on 72 examples for 12 epochs (72 steps), with one learning rate and one seed: what of the maps is due to the
shortness shows there.

Columns of the table, a row per place: positions ("all" = FSSV, "p2+s2" = PrOSV), direction_init (lambda), factor_init (beta),
factor_lr (lr_alpha at the published width), overall (0 to 2, mean over seeds, then concepts), overall_low and overall_high
(its interval over concepts; of four it is their range), the three ratings, the norm of the vectors, concepts, seeds, cells,
missing (cells not run, or failed), examples, epochs, prompts.
"""

import argparse
import itertools
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

import steerlens
from steerlens import terrarium
from steerlens.training.scaling import TrainConfig, transfer

SCORES = ("overall", "concept_score", "instruct_score", "fluency_score")
RESULTS = Path(__file__).parent / "results"
PUBLISHED_WIDTH = 2304
BETAS = {"all": (0.125, 0.25, 0.5, 1, 2), "p2+s2": (1, 2, 4, 8, 16)}
"""beta for FSSV and PrOSV. From beta 1 up FSSV breaks the text of this small model, so its map begins lower."""
FACTOR_RATES = (0.01, 0.1, 1, 10, 40)
"""lr_alpha at the published width."""
LAMBDAS = (1, 8)
DIRECTION_RATE = 0.04
"""lr_v at the published width."""
N_CONCEPTS = 4
N_PROMPTS = 8
MAX_NEW_TOKENS = 60


class Size(NamedTuple):
    """How much is run."""

    name: str
    betas: dict[str, tuple[float, ...]]
    factor_rates: dict[str, tuple[float, ...]]
    seeds: tuple[int, ...]
    examples: int
    epochs: int


SHORT = Size("heatmap", BETAS, dict.fromkeys(BETAS, FACTOR_RATES), (42, 43, 44), 24, 4)
FULL = Size("heatmap_full", {"all": (0.125, 0.5, 1, 2), "p2+s2": (1, 2, 4, 8)}, {"all": (1,), "p2+s2": (10,)}, (42,), 72, 12)


def carried(factor_lr: float) -> TrainConfig:
    """Learning rates at this width."""
    published = TrainConfig(factor_lr=factor_lr, direction_lr=DIRECTION_RATE)
    return transfer(published, PUBLISHED_WIDTH, terrarium.defaults.WIDTH)


def grid(size: Size) -> list[dict[str, object]]:
    """The maps, place by place."""
    return [
        {
            "layer": terrarium.LAYER,
            "positions": positions,
            "direction_init": start,
            "factor_init": beta,
            "factor_lr": carried(rate).factor_lr,
        }
        for positions, betas in size.betas.items()
        for start, beta, rate in itertools.product(LAMBDAS, betas, size.factor_rates[positions])
    ]


def table(swept: steerlens.Sweep, size: Size) -> pd.DataFrame:
    """A row per place of the four maps, with the rates as published."""
    place = ["positions", "direction_init", "factor_init", "factor_lr"]
    maps = {score: swept.heatmap("factor_lr", "factor_init", by=place[:2], score=score) for score in (*SCORES, "norm")}
    whole = maps["overall"]
    for score, one in maps.items():
        whole[score] = one[score]
    ends = ["low", "high", *SCORES[1:], "norm", "concepts", "seeds", "cells", "missing", "unscored"]
    whole = whole[[*place, "overall", *ends]].rename(columns={"low": "overall_low", "high": "overall_high"})
    tuned = {carried(rate).factor_lr: rate for rate in FACTOR_RATES}
    whole["factor_lr"] = whole["factor_lr"].map(tuned)
    return whole.assign(examples=size.examples, epochs=size.epochs, prompts=N_PROMPTS).sort_values(place, ignore_index=True)


def run(size: Size, out: Path, on_mismatch: str) -> steerlens.Sweep:
    """The whole grid, or what is left of it."""
    concepts = terrarium.concepts("development")[:N_CONCEPTS]
    return steerlens.sweep(
        steerlens.load_model("terrarium", dtype=torch.bfloat16),
        {concept: terrarium.data(concept, size.examples) for concept in concepts},
        grid(size),
        terrarium.Judge(),
        out,
        prompts=lambda concept: terrarium.test_prompts(concept, N_PROMPTS),
        seeds=size.seeds,
        config=TrainConfig(epochs=size.epochs, direction_lr=carried(1).direction_lr),
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=terrarium.TEMPERATURE,
        on_mismatch="keep" if on_mismatch == "keep" else "refuse",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="directory of the cells; results/heatmap_cells if not given")
    parser.add_argument("--full", action="store_true", help="fewer places, all examples and epochs")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--on-mismatch", choices=("refuse", "keep"), default="refuse", help="as steerlens.sweep")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = FULL if arguments.full else SHORT
    out = arguments.out or RESULTS / f"{size.name}_cells"
    swept = steerlens.Sweep.open(out) if arguments.table else run(size, out, arguments.on_mismatch)
    print(swept.summary())
    for error in swept.failed["error"].head(3):
        print(error)
    whole = table(swept, size)
    whole.to_csv(RESULTS / f"{size.name}.csv", index=False, float_format="%.4f")
    for (positions, start), part in whole.groupby(["positions", "direction_init"]):
        print(f"\noverall, {positions}, lambda {start} (rows: beta, columns: lr_alpha)")
        print(part.pivot(index="factor_init", columns="factor_lr", values="overall").to_string(float_format="%.2f"))


if __name__ == "__main__":
    main()
