"""Where and how vectors are trained on Terrarium unless told otherwise.

Chosen on the development concepts alone, by `python benchmarks/terrarium.py choose`; its table is in
`benchmarks/results/settings.csv`.
"""

from dataclasses import replace

from steerlens.positions import canonical_positions
from steerlens.scaling import TrainConfig, published_row, transfer

LAYER = 2
"""The block whose output is edited, of 8."""
TEMPERATURE = 0.7
"""For sampling the responses that are judged."""
WIDTH = 160
"""d_model."""
FULL_SEQUENCE = {"factor_init": 1.0, "factor_lr": 0.1}
"""What the grid preferred to the published beta = 2, lr_alpha = 1 where every token is edited."""


def settings(positions: str = "p2+s2") -> TrainConfig:
    """Training settings: the published ones for gemma-2-2b-it, carried to this width; weaker for full-sequence vectors."""
    row = published_row(None, str(canonical_positions(positions)), "lang")
    config = replace(row.config, **FULL_SEQUENCE) if row.positions == "all" else row.config
    return transfer(config, row.d_model, WIDTH)
