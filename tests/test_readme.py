"""What the README promises is there: two commands, the public names, the file map, a transcript that runs."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import steerlens

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def test_set_up_is_exactly_two_commands():
    blocks = re.findall(r"```sh\n(.*?)```", section("Set up"), re.DOTALL)
    assert len(blocks) == 2
    assert all(len(block.strip().splitlines()) == 1 for block in blocks)
    assert "steerlens demo" in blocks[0]
    assert "pytest" in blocks[1]


def test_public_names_are_those_of_the_package():
    listed = set(re.findall(r"`([A-Za-z_]+)`", section("Names")))
    assert listed == set(steerlens.__all__) - {"__version__"}


def test_file_map_is_complete():
    listed = set(re.findall(r"^(\S+?)(?:\s{2,}.*)?$", section("Files").split("```")[1], re.MULTILINE))
    paths = {name for name in listed if "." in name or name.endswith("/")}
    assert all((ROOT / name).exists() for name in paths), [name for name in paths if not (ROOT / name).exists()]
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "steerlens").glob("*.py")}
    assert modules <= paths, modules - paths


@pytest.mark.slow
def test_transcript_runs_and_prints_as_many_lines():
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", section("One screen"), re.DOTALL)[:2]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    assert len(out.getvalue().splitlines()) == len(printed.splitlines())
