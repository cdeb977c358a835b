"""The AxBench protocol on Terrarium: PrOSV on every concept, 10 held-out instructions each, Terrarium's exact judge.

    python benchmarks/axbench.py --out FOLDER          # -> results/axbench.csv, one row per concept

FOLDER keeps each finished concept; the command goes on where it was stopped. The development concepts are those that the
settings were chosen on: the test concepts are the ones to quote. The real benchmark is the same call with an AxBench folder,
`judge=LLMJudge(...)` and a hub model.
"""

import argparse
from pathlib import Path

import torch

import steerlens
from steerlens import SteeringData, terrarium

RESULTS = Path(__file__).parent / "results"
MAX_NEW_TOKENS = 80
N_PROMPTS = 10


def datasets() -> dict[str, SteeringData]:
    """Concept -> its examples, with the split in place of a genre."""
    splits = {concept: split for split in ("development", "test") for concept in terrarium.concepts(split)}
    data = {concept: terrarium.data(concept) for concept in terrarium.concepts()}
    return {concept: SteeringData(rows.examples, concept, {"genre": splits[concept]}) for concept, rows in data.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps finished concepts")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = steerlens.load_model("terrarium", dtype=torch.bfloat16)
    data = datasets()
    prompts = {concept: terrarium.test_prompts(concept, N_PROMPTS) for concept in data}
    result = steerlens.axbench(
        model,
        data,
        prompts=prompts,
        judge=terrarium.Judge(),
        method="prosv",
        layer=terrarium.LAYER,
        config=terrarium.settings("p2+s2"),
        out=arguments.out,
        seed=arguments.seed,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=terrarium.TEMPERATURE,
    )
    RESULTS.mkdir(exist_ok=True)
    table = result.by_concept().drop(columns=["overall_low", "overall_high"]).rename(columns={"genre": "split"})
    table.to_csv(RESULTS / "axbench.csv", float_format="%.4f")
    print(result.summary())
    print(result.by_genre().to_string(float_format="%.3f"))


if __name__ == "__main__":
    main()
