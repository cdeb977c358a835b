"""The coordinate check: its fit, its models, its settings, and what it finds on small widths."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import steerlens
from steerlens import TrainConfig
from steerlens.analysis.width_scaling import (
    CONSTANT_RATES,
    HEAD,
    LAYER,
    PAPER,
    QUANTITIES,
    SETTINGS,
    UNIT_FACTOR,
    CoordinateCheck,
    Scaling,
    coordinate_check,
    random_data,
    random_model,
)
from steerlens.figures.width_scaling import NOTE, plot_coordinate_check
from steerlens.intervals import t_quantile
from steerlens.model.batches import encode_data
from steerlens.training import scaling

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
WIDTHS, STEPS = (64, 128, 256), 6


@pytest.fixture(scope="module")
def check() -> CoordinateCheck:
    return coordinate_check(widths=WIDTHS, settings=(PAPER, CONSTANT_RATES), steps=STEPS, seeds=(0,), progress=False)


def planted(powers: dict[str, float], seeds: int = 3, noise: float = 0.0) -> CoordinateCheck:
    """Sizes that follow given powers of the width; every seed has a level of its own, and steps differ by a known shape."""
    draw = np.random.default_rng(0)
    rows = [
        {
            "setting": "s",
            "width": width,
            "seed": seed,
            "step": step,
            "quantity": quantity,
            "value": shape * (1 + seed) * (width / 256) ** power * math.exp(jitter),
        }
        for width in (64, 128, 256, 512)
        for seed in range(seeds)
        for quantity, power in powers.items()
        for jitter in [noise * draw.standard_normal()]
        for step, shape in enumerate((1.0, 7.0))  # root mean square 5
    ]
    return CoordinateCheck(pd.DataFrame(rows), pd.DataFrame(), 256)


# --- the fit ------------------------------------------------------------------------------------------------------------


def test_planted_powers_are_recovered() -> None:
    powers: dict[str, float] = dict(zip(QUANTITIES, (0.5, -0.5, 0.0, 0.25), strict=True))
    slopes = planted(powers).slopes().set_index("quantity")
    for quantity, power in powers.items():
        row: Any = slopes.loc[quantity]
        assert row[["slope", "low", "high"]].to_numpy(dtype=float) == pytest.approx([power] * 3, abs=1e-9)
        assert row["size"] == pytest.approx(5 * 6 ** (1 / 3)), "the geometric mean of the seeds' levels 1, 2, 3"
        assert row["runs"] == 12


def test_the_fit_against_least_squares_with_a_column_per_seed() -> None:
    check = planted({"delta1": 0.3}, noise=0.2)
    sizes = check.sizes()
    columns = [np.log(sizes["width"]), *(sizes["seed"] == seed for seed in range(3))]
    design, y = np.stack([np.asarray(column, dtype=float) for column in columns], axis=1), np.log(sizes["size"].to_numpy())
    solution, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    free = 12 - 4
    error = math.sqrt(residual[0] / free * np.linalg.inv(design.T @ design)[0, 0])
    row = check.slopes().iloc[0]
    assert row["slope"] == pytest.approx(solution[0])
    assert row["high"] - row["slope"] == pytest.approx(2.306 * error, rel=1e-3)  # t of 8 degrees of freedom, from a table
    assert row["low"] < 0.3 < row["high"]


@pytest.mark.parametrize(("free", "value"), [(1, 12.706), (2, 4.303), (5, 2.571), (12, 2.179), (120, 1.980)])
def test_quantiles_of_t_from_a_table(free: int, value: float) -> None:
    assert t_quantile(free) == pytest.approx(value, abs=2e-3)


def test_a_size_of_zero_has_no_slope() -> None:
    check = planted({"delta1": 0.0, "delta2": 0.0})
    check.rows.loc[check.rows["quantity"] == "delta1", "value"] = 0.0
    slopes: Any = check.slopes().set_index("quantity")
    assert slopes.loc["delta1", ["slope", "low", "high"]].isna().all() and slopes.loc["delta1", "size"] == 0
    assert slopes.loc["delta2", "slope"] == pytest.approx(0)
    figure: Any = check.plot()
    assert "no slope (a size is 0)" in figure.layout.annotations[0].text


# --- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [64, 256, 1024])
def test_the_papers_powers_are_those_of_transfer(width: int) -> None:
    config = TrainConfig(factor_lr=3, direction_lr=0.1)
    got = Scaling("s", config, tuned_at=256).at(width)
    expected = scaling.transfer(config, 256, width)
    assert (got.factor_lr, got.direction_lr) == pytest.approx((expected.factor_lr, expected.direction_lr))
    assert (got.factor_init, got.direction_init) == pytest.approx((config.factor_init, config.direction_init))


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_other_powers(distribution: Any) -> None:
    """From the sizes that the parameters really start with."""
    config = TrainConfig(init_distribution=distribution, direction_init=2, factor_init=3, factor_lr=1, direction_lr=0.1)
    setting = Scaling("s", config, tuned_at=400, factor_init=0.0, direction_init=-1.0, factor_lr=1.0, direction_lr=0.0)
    narrow, wide = setting.at(400), setting.at(1600)
    assert scaling.initial_factor(narrow, 400) == scaling.initial_factor(wide, 1600) == 60
    sizes = [
        float(scaling.initial_direction(config, width, torch.Generator().manual_seed(0)).square().mean().sqrt())
        for config, width in ((narrow, 400), (wide, 1600))
    ]
    assert sizes[1] / sizes[0] == pytest.approx(1 / 4, rel=0.1)
    assert (wide.factor_lr, wide.direction_lr) == (4.0, 0.1)


def test_the_factor_that_starts_at_one() -> None:
    for width in (64, 1024):
        assert scaling.initial_factor(UNIT_FACTOR.at(width), width) == pytest.approx(1)
        assert (UNIT_FACTOR.at(width).factor_lr, CONSTANT_RATES.at(width).direction_lr) == (1.0, 0.01)
    assert len({setting.at(256).factor_lr for setting in SETTINGS}) == 1, "all agree at the width they were tuned at"


# --- models and data ------------------------------------------------------------------------------------------------------


def test_random_models_are_seeded_and_scaled_by_fan_in() -> None:
    state = torch.random.get_rng_state()
    weights = [dict(random_model(64, seed).original_model.named_parameters()) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    down = next(name for name in first if "down_proj" in name)
    assert not torch.equal(first[down], other[down])
    for name, weight in first.items():
        if weight.ndim == 2:
            size = 1.0 if "embed" in name else weight.shape[1] ** -0.5
            assert float(weight.detach().std()) == pytest.approx(size, rel=0.05), name


def test_data_are_random_words_of_one_token_each() -> None:
    model, data = random_model(64, 0), random_data(50, 0)
    rows = encode_data(model, data)
    assert {len(row.prompt) for row in rows} == {11} and {len(row.response) for row in rows} == {8}
    assert {row.prompt[0] for row in rows} == {model.tokenizer.bos_token_id}
    assert len({token for row in rows for token in row.response}) == 16
    assert min(min(row.prompt[1:]) for row in rows) >= 3, "no word is unknown"
    assert random_data(50, 0).hash == data.hash != random_data(50, 1).hash
    assert random_data(99, 0)[:50].hash == data.hash, "more steps see the same examples first"  # pyright: ignore


def test_models_keep_their_sizes(check: CoordinateCheck) -> None:
    """What the theory asks of them."""
    sizes = check.models.set_index("width")[["residual", "logits"]]
    assert (sizes.max() / sizes.min() < 1.15).all() and sizes.to_numpy().min() > 0.5 and sizes.to_numpy().max() < 2


# --- the check ------------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_a_training_of_ones_own(check: CoordinateCheck) -> None:
    config = replace(CONSTANT_RATES.at(128), epochs=1)
    data = random_data(STEPS * config.batch_size, 0)
    seen: list[torch.Tensor] = []
    settings = {"layer": LAYER, "config": config, "seed": 0, "progress": False}
    sv = steerlens.train(random_model(128, 0), data, callbacks=[lambda step: seen.append(step.direction)], **settings)
    chosen = check.to_frame().query("setting == 'constant rates' and width == 128")
    rows = chosen.pivot(index="step", columns="quantity", values="value")
    last = sv.vector.double()
    assert rows["feature"].iloc[-1] == pytest.approx(float(last.square().mean().sqrt()), rel=1e-5)
    assert sv.history is not None
    factors = sv.history["factor"].tolist()
    for step in range(1, STEPS):
        turned, moved = (seen[step] - seen[step - 1]).double(), factors[step] - factors[step - 1]
        parts = [moved * seen[step - 1], factors[step - 1] * turned, moved * turned]
        for name, part in zip(("delta1", "delta2", "delta3"), parts, strict=True):
            assert rows[name].iloc[step] == pytest.approx(float(part.double().square().mean().sqrt()), rel=2e-3)
    assert rows["loss"].tolist() == pytest.approx(sv.history["loss"].tolist(), rel=1e-4)


def test_the_papers_scaling_keeps_sizes_and_constant_rates_do_not(check: CoordinateCheck) -> None:
    slopes = check.slopes().set_index(["setting", "quantity"])["slope"]
    assert slopes["paper"].abs().max() <= 0.1
    assert slopes["constant rates", "delta1"] < -0.2 and slopes["constant rates", "delta2"] > 0.2


def test_frame_and_summary(check: CoordinateCheck) -> None:
    frame = check.to_frame()
    assert list(frame.columns) == ["setting", "width", "seed", "step", "quantity", "value"]
    assert len(frame) == 2 * 3 * 1 * STEPS * 5 and not frame.isna().any(axis=None)
    text = check.summary()
    row: Any = check.slopes().query("setting == 'constant rates' and quantity == 'delta2'").iloc[0]
    assert "Widths 64, 128, 256, 1 seed(s), 6 steps" in text and "95 % intervals; sizes are those at width 256" in text
    assert f"delta2 {row['slope']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] (size {row['size']:.3g})" in text


def test_it_does_not_depend_on_what_else_is_checked(check: CoordinateCheck) -> None:
    alone = coordinate_check(widths=WIDTHS[::-1], settings=CONSTANT_RATES, steps=STEPS, seeds=[0], progress=False)
    other = check.rows[check.rows["setting"] == "constant rates"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.rows, other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"widths": (64, 128)}, r"the widths \[64, 128\] must be at least three different ones"),
        ({"widths": (64, 64, 128)}, "at least three different ones: two always lie on a line"),
        ({"widths": (64, 128, 250)}, f"width 250: it must be a multiple of {HEAD}, the size of a head"),
        ({"settings": ()}, "must be at least one, each with a name of its own"),
        ({"settings": (PAPER, replace(CONSTANT_RATES, name="paper"))}, r"the settings \['paper', 'paper'\] must be"),
        ({"seeds": ()}, r"the seeds \[\] must be at least one, each once"),
        ({"seeds": (1, 1)}, r"the seeds \[1, 1\]"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
    ],
)
def test_refusals(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        coordinate_check(**settings, progress=False)


# --- the figure and the results that are kept -----------------------------------------------------------------------------


def test_figure(check: CoordinateCheck) -> None:
    figure: Any = check.plot()
    assert figure.layout.title.text and NOTE[:30] in figure.layout.title.subtitle.text
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == 8 and len(figure.data) == 16
    assert [line.name for line in lines if line.showlegend] == ["paper", "constant rates"]
    sizes = check.sizes().query("setting == 'paper' and quantity == 'delta1'")
    assert list(lines[0].x) == list(WIDTHS) and list(lines[0].y) == pytest.approx(sizes["size"].tolist())
    assert {axis.type for axis in figure.select_xaxes()} == {"log"} == {axis.type for axis in figure.select_yaxes()}
    assert {axis.title.text for axis in figure.select_xaxes()} == {"width (d_model)"}
    spans = [axis.range[1] - axis.range[0] for axis in figure.select_yaxes()]
    assert max(spans) - min(spans) < 1e-9, "equal slopes look equal"
    assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in figure.data)
    assert len({(line.line.color, line.line.dash) for line in lines[:2]}) == 2
    row = check.slopes().iloc[0]
    assert f"paper: {row['slope']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]" in figure.layout.annotations[0].text
    renamed = [frame.assign(setting="<b>") for frame in (check.sizes(), check.slopes().iloc[:4])]
    escaped: Any = plot_coordinate_check(renamed[0][: len(sizes) * 4], renamed[1])
    assert escaped.data[0].name == "&lt;b&gt;"


def test_the_results_that_are_kept() -> None:
    """benchmarks/widths.py ran the check at full size: widths 64 to 1024."""
    check = CoordinateCheck(pd.read_csv(RESULTS / "widths.csv"), pd.read_csv(RESULTS / "widths_models.csv"), 256)
    kept = pd.read_csv(RESULTS / "widths_slopes.csv")
    pd.testing.assert_frame_equal(check.slopes(), kept, atol=2e-4, rtol=1e-3)
    assert sorted(check.rows["width"].unique()) == [64, 128, 256, 512, 1024]
    slopes = kept.set_index(["setting", "quantity"])["slope"]
    assert slopes["paper"].abs().max() <= 0.1
    assert slopes["constant rates", "delta1"] < -0.2 and slopes["constant rates", "delta2"] > 0.2
    assert (RESULTS / "widths.csv").stat().st_size < 1_000_000
