"""Options from a dataclass: one per field, typed, with the text under the field."""

import argparse
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from steerlens.dataclass_options import add_options, field_texts, given


@dataclass
class Settings:
    """Of nothing."""

    passes: int = 3
    """Passes,
    100 % of them."""
    rate: int | float = 0.1
    limit: float | None = None
    """None = no limit."""
    mixed: bool = True
    kind: Literal["a", "b"] = "a"


@dataclass
class Unknown:
    names: tuple[str, ...] = ()


def test_each_field_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Settings, "settings", "As they are unless given.")

    def read(*words: str) -> dict[str, Any]:
        return given(parser.parse_args(words), Settings)

    assert read() == {}
    assert read("--passes", "4", "--rate", "2", "--limit", "none", "--no-mixed", "--kind", "b") == {
        "passes": 4,
        "rate": 2.0,
        "limit": None,
        "mixed": False,
        "kind": "b",
    }
    assert read("--limit", "0.5", "--mixed") == {"limit": 0.5, "mixed": True}
    for wrong in (("--passes", "1.5"), ("--passes", "none"), ("--kind", "c"), ("--limit", "x")):
        with pytest.raises(SystemExit):
            read(*wrong)
    with pytest.raises(SystemExit):
        read("--help")
    assert "Passes, 100 % of them." in " ".join(capsys.readouterr().out.split())


def test_what_has_no_option_is_refused() -> None:
    with pytest.raises(TypeError, match=r"the field names is of type .*, for which there is no option"):
        add_options(argparse.ArgumentParser(), Unknown, "", "")


def test_texts_are_those_under_the_fields() -> None:
    assert field_texts(Settings) == {"passes": "Passes, 100 % of them.", "limit": "None = no limit."}
