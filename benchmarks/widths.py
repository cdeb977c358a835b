"""The coordinate check at full size: do updates and feature keep their size from width 64 to 1024?

    python benchmarks/widths.py [--seeds 3] [--steps 30]

Writes to benchmarks/results: widths.csv (setting, width, seed, step, quantity, value), widths_slopes.csv (slopes with 95 %
intervals and sizes at the reference width) and widths_models.csv (sizes of the untouched models). Beside the three settings
of `coordinate_check` it runs the paper's scaling with the published constants of gemma-2-2b-it. A few minutes on one thread.
"""

import argparse
from pathlib import Path

from steerlens.analysis.width_scaling import SETTINGS, Scaling, coordinate_check
from steerlens.training.scaling import published_row

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    row = published_row(None, "p2+s2", "lang")
    published = Scaling("paper, published constants", row.config, tuned_at=row.d_model)
    check = coordinate_check(settings=(*SETTINGS, published), steps=given.steps, seeds=range(given.seeds))
    check.to_frame().to_csv(RESULTS / "widths.csv", index=False, float_format="%.5g", lineterminator="\n")
    check.slopes().to_csv(RESULTS / "widths_slopes.csv", index=False, float_format="%.4f", lineterminator="\n")
    check.models.to_csv(RESULTS / "widths_models.csv", index=False, float_format="%.4f", lineterminator="\n")
    print(check.summary())


if __name__ == "__main__":
    main()
