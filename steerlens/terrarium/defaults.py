"""Where and how vectors are trained on Terrarium unless told otherwise.

Chosen on the development concepts alone, by `python benchmarks/terrarium.py choose`; its table is in
`benchmarks/results/settings.csv`.
"""

from dataclasses import replace

from ..positions import canonical_positions
from ..training.scaling import TrainConfig, published_row, transfer

LAYER = 2
"""The block whose output is edited, of 8."""
TEMPERATURE = 0.7
"""For sampling the responses that are judged."""
WIDTH = 160
"""d_model."""
CHOSEN: dict[tuple[str, str], dict[str, float]] = {
    ("p2+s2", "lang"): {"factor_init": 2.0},
    ("all", "lang"): {"factor_init": 0.5, "factor_lr": 0.1},
    ("all", "simpo"): {"factor_init": 0.5},
}
"""(positions, objective) -> what the grid preferred to the published constants, as tuned at the published width."""


def settings(positions: str = "p2+s2", objective: str = "lang") -> TrainConfig:
    """Training settings: the published ones for gemma-2-2b-it with the grid's choice of constants, carried to this width."""
    row = published_row(None, str(canonical_positions(positions)), objective)
    config = replace(row.config, **CHOSEN.get((row.positions, row.objective), {}))
    return transfer(config, row.d_model, WIDTH)
