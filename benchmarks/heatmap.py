"""How the score depends on beta, lr_alpha and lambda: joint training on Terrarium's development concepts.

    python benchmarks/heatmap.py                # train and judge every cell, then the table -> results/heatmap.csv
    python benchmarks/heatmap.py --table        # only the table, of the cells that are there
    python benchmarks/heatmap.py --out FOLDER   # cells elsewhere than in results/heatmap_cells

Killed, it goes on where it was. After changes to steerlens that do not change the numbers: --on-mismatch keep.
Learning rates are given as tuned at the published width and carried to this one. Every vector is trained on 24 examples for 4
epochs (8 steps) and judged on 8 held-out prompts: enough to see where training works, not to rank neighbours.

Columns of the table, a row per place: positions ("all" = FSSV, "p2+s2" = PrOSV), direction_init (lambda), factor_init (beta),
factor_lr (lr_alpha at the published width), overall (0 to 2, mean over seeds, then concepts), its interval over concepts, the
three ratings, the norm of the vectors, concepts, seeds, cells, missing (cells not run, or failed), examples, epochs, prompts.
"""

import argparse
import itertools
from pathlib import Path

import pandas as pd
import torch

import steerlens
from steerlens import terrarium
from steerlens.scaling import TrainConfig, transfer

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
SEEDS = (42, 43, 44)
N_CONCEPTS = 4
N_EXAMPLES = 24
N_PROMPTS = 8
EPOCHS = 4
MAX_NEW_TOKENS = 60


def carried(factor_lr: float) -> TrainConfig:
    """Learning rates at this width."""
    published = TrainConfig(factor_lr=factor_lr, direction_lr=DIRECTION_RATE)
    return transfer(published, PUBLISHED_WIDTH, terrarium.chosen.WIDTH)


def grid() -> list[dict[str, object]]:
    """Both maps, place by place."""
    return [
        {
            "layer": terrarium.LAYER,
            "positions": positions,
            "direction_init": size,
            "factor_init": beta,
            "factor_lr": carried(rate).factor_lr,
        }
        for positions, betas in BETAS.items()
        for size, beta, rate in itertools.product(LAMBDAS, betas, FACTOR_RATES)
    ]


def table(swept: steerlens.Sweep) -> pd.DataFrame:
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
    return whole.assign(examples=N_EXAMPLES, epochs=EPOCHS, prompts=N_PROMPTS).sort_values(place, ignore_index=True)


def run(out: Path, on_mismatch: str) -> steerlens.Sweep:
    """The whole grid, or what is left of it."""
    concepts = terrarium.concepts("development")[:N_CONCEPTS]
    return steerlens.sweep(
        steerlens.load_model("terrarium", dtype=torch.bfloat16),
        {concept: terrarium.data(concept, N_EXAMPLES) for concept in concepts},
        grid(),
        terrarium.Judge(),
        out,
        prompts=lambda concept: terrarium.test_prompts(concept, N_PROMPTS),
        seeds=SEEDS,
        config=TrainConfig(epochs=EPOCHS, direction_lr=carried(1).direction_lr),
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=terrarium.TEMPERATURE,
        on_mismatch="keep" if on_mismatch == "keep" else "refuse",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "heatmap_cells", help="directory of the cells")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--on-mismatch", choices=("refuse", "keep"), default="refuse", help="as steerlens.sweep")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    swept = steerlens.Sweep.open(arguments.out) if arguments.table else run(arguments.out, arguments.on_mismatch)
    print(swept.summary())
    for error in swept.failed["error"].head(3):
        print(error)
    whole = table(swept)
    whole.to_csv(RESULTS / "heatmap.csv", index=False, float_format="%.4f")
    for (positions, size), part in whole.groupby(["positions", "direction_init"]):
        print(f"\noverall, {positions}, lambda {size} (rows: beta, columns: lr_alpha)")
        print(part.pivot(index="factor_init", columns="factor_lr", values="overall").to_string(float_format="%.2f"))


if __name__ == "__main__":
    main()
