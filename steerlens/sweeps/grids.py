"""Grids: axes and their values, or settings written out -> the cells of a sweep, checked before any work starts."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..interventions import intervention
from ..objectives import objective_function
from ..positions import canonical_positions
from ..scaling import TrainConfig
from .cells import CONFIG_AXES, TRAIN_AXES, Cell

Grid = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Axis -> its values, of which all combinations are taken; or the settings one by one."""


def cells_of(concepts: Sequence[str], grid: Grid, seeds: Sequence[int], config: TrainConfig | None) -> list[Cell]:
    """All cells, the seed changing slowest and the settings fastest: a sweep that is stopped has compared like with like.

    Raises:
        ValueError: unknown axes, settings that cannot be used, the same settings or the same seed twice.
    """
    listed = list(seeds)
    if not listed or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in listed):
        raise ValueError(f"the seeds {listed} must be whole numbers, at least one")
    if len(set(listed)) < len(listed):
        raise ValueError(f"a seed is given twice: {listed}")
    settings = read_settings(grid, config)
    cells = [Cell(concept, seed, chosen) for seed in listed for concept in concepts for chosen in settings]
    seen: dict[str, Cell] = {}
    for cell in cells:
        if cell.key in seen:
            raise ValueError(f"the grid holds the same settings twice: {dict(cell.settings)}")
        seen[cell.key] = cell
    return cells


def read_settings(grid: Grid, config: TrainConfig | None) -> list[dict[str, Any]]:
    """The settings of a grid, each checked, as JSON values."""
    if isinstance(grid, Mapping):
        _check_names(grid)
        axes = {axis: _values(axis, values) for axis, values in grid.items()}
        rows: list[Mapping[str, Any]] = [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]
    else:
        rows = list(grid)
        for row in rows:
            if not isinstance(row, Mapping):
                raise ValueError(f"the grid must be a mapping axis -> values, or a list of settings; it holds {row!r}")
            _check_names(row)
    if not rows:
        raise ValueError("the grid is empty")
    return [_checked(row, config) for row in rows]


def _check_names(names: Iterable[str]) -> None:
    if unknown := [name for name in names if name not in (*TRAIN_AXES, *CONFIG_AXES)]:
        raise ValueError(
            f"unknown in the grid: {', '.join(map(repr, unknown))}; known are {', '.join(TRAIN_AXES)} (of train) and "
            f"{', '.join(CONFIG_AXES)} (of TrainConfig)"
        )


def _values(axis: str, values: Any) -> list[Any]:
    """The values of an axis; one that is no list stands for itself."""
    if values is None or isinstance(values, (str, bool, int, float)):
        return [values]
    if not isinstance(values, Iterable):
        raise ValueError(f"{axis}: {values!r} is not a list of values")
    listed = list(values)
    if not listed:
        raise ValueError(f"{axis}: there are no values")
    return listed


def _checked(row: Mapping[str, Any], config: TrainConfig | None) -> dict[str, Any]:
    settings = {name: _plain(name, value) for name, value in row.items()}
    try:
        if "layer" not in settings:
            raise ValueError('no layer: add "layer": [...] to the grid')
        if isinstance(settings["layer"], bool) or not isinstance(settings["layer"], int):
            raise ValueError(f"layer {settings['layer']!r}: a cell has one vector, so its layer is one block's index")
        if "positions" in settings:
            settings["positions"] = canonical_positions(settings["positions"])
        objective_function(settings.get("objective", "lang"))
        intervention(settings.get("form", "add"))
        replace(config or TrainConfig(), **{name: settings[name] for name in CONFIG_AXES if name in settings})
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings {settings}: {error}") from error
    return settings


def _plain(axis: str, value: Any) -> Any:
    """The value as JSON has it; 4.0 and 4 are the same."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (list, tuple)):
        return [_plain(axis, one) for one in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{axis}: {value} is not a finite number")
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise ValueError(
        f"{axis}: {value!r} cannot stand in a grid; a cell is named by its settings, which must be text, numbers, None or "
        "lists of these"
    )
