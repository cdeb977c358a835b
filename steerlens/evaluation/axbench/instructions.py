"""Test instructions, drawn for each concept as AxBench draws them (Wu et al. 2025; Bao et al. 2026, Sec. 5)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...tables import read_table

ALPACA_EVAL = "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval.json"
"""805 instructions; the file that the benchmark draws from."""
COLUMN = "instruction"

Instructions = str | Path | pd.DataFrame | Sequence[str] | None
"""A json, jsonl, csv or parquet file or a table with a column `instruction`, texts, or None = AlpacaEval from the hub."""


def read_instructions(source: Instructions = None) -> list[str]:
    """All instructions in their order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no column `instruction`, or a row that is not a text.
        RuntimeError: AlpacaEval cannot be fetched (no `datasets` package, no network).
    """
    if isinstance(source, (str, Path)):
        table = read_table(source)
    elif source is None:
        table = _fetch()
    else:
        table = source if isinstance(source, pd.DataFrame) else pd.DataFrame({COLUMN: list(source)})
    if COLUMN not in table:
        named = f"{Path(source).name}: " if isinstance(source, (str, Path)) else ""
        raise ValueError(f"{named}the instructions have the columns {sorted(map(str, table.columns))} and no column {COLUMN!r}")
    texts = table[COLUMN].tolist()
    if not texts:
        raise ValueError("there are no instructions")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"instruction {number} is {text!r:.40}, not a text")
    return texts


def draw_instructions(instructions: Sequence[str], concept_id: int, n: int = 10) -> list[str]:
    """The `n` instructions of a concept: `sample(n, random_state=concept_id)` of the table, as AxBench's code draws them.

    The draw depends on the number of instructions and their order, so a shortened or sorted file gives others.

    Raises:
        ValueError: fewer instructions than are to be drawn, or an id that is no seed.
    """
    if not 1 <= n <= len(instructions):
        raise ValueError(f"{n} instructions are to be drawn from {len(instructions)}")
    if not 0 <= concept_id < 2**32:
        raise ValueError(f"the concept's id is the seed of its instructions, from 0 to {2**32 - 1}; this one is {concept_id}")
    return pd.Series(list(instructions)).sample(n, random_state=int(concept_id)).tolist()


def _fetch() -> pd.DataFrame:
    remedy = "download alpaca_eval.json and give instructions=its path"
    try:
        import datasets
    except ImportError as error:
        raise RuntimeError(f"AlpacaEval is fetched with the package datasets: pip install datasets, or {remedy}") from error
    try:
        loaded: Any = datasets.load_dataset("json", data_files=ALPACA_EVAL, split="train")
    except Exception as error:  # a hub has many ways to fail
        raise RuntimeError(f"AlpacaEval could not be fetched ({type(error).__name__}: {error}): {remedy}") from error
    return pd.DataFrame({COLUMN: list(loaded[COLUMN])})
