"""What CONTRIBUTING.md says is there: short, one gate command, and every file it sends somebody to."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_it_is_short_and_its_gate_is_that_of_the_readme() -> None:
    assert len(TEXT.splitlines()) <= 60
    (command,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_has_fifteen_rows_and_each_file_exists() -> None:
    rows = re.findall(r"^\| (?!to change|---)(.+?) \| (.+?) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 15
    for subject, places in rows:
        named = re.findall(r"`(\S+?\.py)`", places)
        assert named, subject
        for name in named:
            assert (ROOT / name).is_file(), f"{subject}: {name}"


def test_every_other_file_it_names_exists() -> None:
    for name in re.findall(r"`([\w/.]+\.(?:py|md))`", TEXT):
        assert (ROOT / name).exists() or (ROOT / "steerlens" / name).exists(), name
