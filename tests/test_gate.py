"""Format, lint and types: one command runs everything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("check", [("ruff", "format", "--check", "."), ("ruff", "check", ".")], ids=("format", "lint"))
def test_ruff(check):
    _run(check)


@pytest.mark.slow
def test_pyright():
    _run(("pyright", "--pythonpath", sys.executable))


def _run(command: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
