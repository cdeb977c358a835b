"""Grids: axes and their values, or settings written out -> the cells of a sweep, checked before any work starts."""

import inspect
import itertools
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ..data import DataError, SteeringData
from ..model.bridge import Bridge, check_layer, check_model, d_model
from ..positions import canonical_positions
from ..training.loop import train
from ..training.objectives import NULL, needs, objective_function
from ..training.scaling import TrainConfig
from ..training.setup import check_form, published_settings, read_factors
from .cell import CONFIG_AXES, TRAIN_AXES, Cell

Grid = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Axis -> its values, of which all combinations are taken; or the settings one by one."""
DEFAULTS = {name: inspect.signature(train).parameters[name].default for name in TRAIN_AXES if name != "layer"}
"""What `train` takes where a grid says nothing."""


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
    _check_distinct(settings, [settled(chosen, config) for chosen in settings])
    return [Cell(concept, seed, chosen) for seed in listed for concept in concepts for chosen in settings]


def settled(settings: Mapping[str, Any], config: TrainConfig | None) -> dict[str, Any]:
    """Settings with all that they leave open filled in; without a config, its fields stay as they are."""
    fields = {} if config is None else {name: _plain(name, value) for name, value in asdict(config).items()}
    return DEFAULTS | fields | dict(settings)


def _check_distinct(settings: Sequence[Mapping[str, Any]], whole: Sequence[Mapping[str, Any]]) -> None:
    seen: dict[str, Mapping[str, Any]] = {}
    for chosen, filled in zip(settings, whole, strict=True):
        name = json.dumps(filled, sort_keys=True)
        if name in seen:
            same = (
                "" if dict(seen[name]) == dict(chosen) else f" and {dict(chosen)}, which differ in what is the default anyway"
            )
            raise ValueError(f"the grid holds the same settings twice: {dict(seen[name])}{same}")
        seen[name] = chosen


def check_settings(model: Bridge, settings: Sequence[Mapping[str, Any]], config: TrainConfig | None) -> None:
    """What can only be said of settings once the model is there: layers, ranks, and published settings written out.

    Raises:
        ValueError: settings that this model cannot be trained with, or the same settings twice.
    """
    check_model(model)
    whole = []
    for chosen in settings:
        check_layer(model, chosen["layer"])
        full = settled(chosen, config)
        check_form(full["form"], full["rank"], needs(objective_function(full["objective"])), d_model(model))
        published = config or published_settings(model, full["positions"], full["objective"])[0]
        whole.append(settled(chosen, published))
    _check_distinct(settings, whole)


def check_neutral(datasets: Mapping[str, SteeringData], settings: Sequence[Mapping[str, Any]]) -> None:
    """Neutral responses must be there where an objective compares with them.

    Raises:
        DataError: they are not; the message names data, row and objective.
    """
    objectives = [chosen["objective"] for chosen in settings if "objective" in chosen]
    comparing = [objective for objective in objectives if needs(objective_function(objective))]
    for name, data in datasets.items():
        lacking = next((number for number, example in enumerate(data) if example.neutral is None), None)
        if comparing and lacking is not None:
            raise DataError(
                f"{name!r}, row {lacking}: no neutral response, with which the objective {comparing[0]!r} compares the response"
            )


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
        full = DEFAULTS | settings
        needed = needs(objective_function(full["objective"]))
        check_form(full["form"], full["rank"], needed, sys.maxsize)  # the width is known with the model
        read_factors(full["factor"])
        base = replace(config or TrainConfig(), **{name: settings[name] for name in CONFIG_AXES if name in settings})
        if base.null_factor_init is not None and NULL not in needed and full["form"] != "null":
            raise ValueError(f"null_factor_init is set, but the objective {full['objective']!r} has no Null intervention")
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings {settings}: {error}") from error
    return settings


def _plain(axis: str, value: Any) -> Any:
    """The value as JSON has it; 4.0 and 4 are the same."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (list, tuple)):
        return [_plain(axis, item) for item in value]
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
