"""Where and how vectors are trained on Terrarium unless told otherwise.

Chosen on the development concepts alone, by `python benchmarks/terrarium.py choose`; its table is in
`benchmarks/results/`.
"""

from steerlens.positions import canonical_positions
from steerlens.scaling import TrainConfig, published_row, transfer

LAYER = 2
"""The block whose output is edited, of 8."""
TEMPERATURE = 0.7
"""For sampling the responses that are judged."""


def settings(positions: str = "p2+s2") -> TrainConfig:
    """Training settings for positions that edit the prompt or everything."""
    row = published_row(None, str(canonical_positions(positions)), "lang")
    return transfer(row.config, row.d_model, 160)
