"""Every causal architecture against plain Hugging Face; the table in the docs says what this finds."""

from pathlib import Path

import pytest
from expected import EXPECTED
from make_table import HEAD, TABLE, row
from matrix import outcome
from registry import Family, built, families
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

RENEW = "docs/architectures.md is not what the matrix gives: run python tests/architectures/make_table.py"


def table_rows() -> list[str]:
    return TABLE.read_text(encoding="utf-8").removeprefix(HEAD).splitlines()


@pytest.mark.parametrize("family", built(), ids=lambda family: family.name)
def test_architecture(family: Family, tmp_path: Path) -> None:
    found = outcome(family, tmp_path)
    known = EXPECTED.get(family.name)
    assert found.status == (known.status if known else "right"), found
    assert row(family, found) in table_rows(), RENEW


def test_all_supported_architectures_are_listed_and_most_are_right() -> None:
    names = [line.split(" | ")[0].removeprefix("| ") for line in table_rows()]
    assert len(names) == len(set(names)) == len(families()) and set(SUPPORTED_ARCHITECTURES) <= set(names), RENEW
    assert all(row(family, None) in table_rows() for family in families() if family.reason is not None), RENEW
    assert TABLE.read_text(encoding="utf-8").startswith(HEAD), RENEW
    right = {line.split(" | ")[0].partition("/")[0] for line in table_rows() if " | right | " in line}
    assert len(right) >= 60
    statuses = {line.split(" | ")[1] for line in table_rows()}
    assert statuses == {"right", "refused", "not built"}, "an architecture is wrong without a word"


def test_known_failures_are_built() -> None:
    assert set(EXPECTED) <= {family.name for family in built()}
