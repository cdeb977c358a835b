"""Imports point one way: read from the source, so that a lazy import counts as much as one at the top."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import steerlens

ROOT = Path(steerlens.__file__).parent

# from the bottom up; a module may import those in rows below its own
ORDER = (
    ("positions", "interventions", "objectives", "judging", "intervals"),
    ("scaling", "data"),
    ("vector", "terrarium", "prompting"),
    ("model",),
    ("watching",),
    ("passes",),
    ("steering",),
    ("generation", "likelihood"),
    ("recording", "judges"),
    ("auditing", "sites", "activations", "calibration"),
    ("extraction",),
    ("runs",),
    ("training",),
    ("evaluation",),
    ("selection", "scanning", "analysis", "harness"),
    ("protocol", "attacks", "sweeps"),
    ("tradeoffs",),
    ("figures",),
    ("pages",),
    ("live", "exploring", "reporting"),
    ("demo",),
    ("cli",),
)
RANK = {module: rank for rank, row in enumerate(ORDER) for module in row}
# methods of convenience: SteeringVector.steer, and .plot() of a result
AGAINST_THE_FLOW = {
    ("vector", "steering"),
    *(
        (module, "figures")
        for module in ("selection", "scanning", "analysis", "protocol", "attacks", "sweeps", "tradeoffs", "harness")
    ),
}
HEAVY = {
    "transformer_lens": {"model"},
    "plotly": {"figures", "pages", "live", "exploring"},
    "circuitsvis": {"figures"},
    "ipywidgets": {"live", "exploring"},
    "ray": {"sweeps"},
    "lm_eval": {"harness"},
    "datasets": {"protocol"},
    "openai": {"judges"},
}


class Import(NamedTuple):
    """One import statement of a module of steerlens."""

    importer: str
    """"training", "terrarium.judge", ..."""
    imported: str
    """"steerlens.vector", "torch.nn", ..."""
    lazy: bool
    """Inside a function."""
    typing_only: bool

    @property
    def package(self) -> str:
        return self.importer.split(".")[0]

    @property
    def internal(self) -> str | None:
        """The imported module of steerlens."""
        parts = self.imported.split(".")
        return parts[1] if parts[0] == "steerlens" and len(parts) > 1 else None


def imports_of(path: Path) -> Iterator[Import]:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package = ["steerlens", *path.relative_to(ROOT).parts[:-1]]

    def walk(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(name, alias.name, lazy, typing_only) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = ".".join([*package[: len(package) + 1 - child.level], *filter(None, [child.module])])
                base = base if child.level else str(child.module)
                whole = base == "steerlens"  # from . import scaling
                targets = [f"{base}.{alias.name}" for alias in child.names] if whole else [base]
                yield from (Import(name, target, lazy, typing_only) for target in targets)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                guard = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
                yield from walk(child, lazy or inside, typing_only or guard)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, False)


FILES = sorted(path for path in ROOT.rglob("*.py"))
IMPORTS = [found for path in FILES for found in imports_of(path)]


def test_every_module_has_its_place() -> None:
    modules = {path.relative_to(ROOT).with_suffix("").parts[0] for path in FILES} - {"__init__", "__main__"}
    assert modules == set(RANK)
    assert len(IMPORTS) > 100
    assert {i.internal for i in IMPORTS if i.importer == "steering"} >= {"interventions", "model", "passes", "vector"}


def test_imports_point_one_way() -> None:
    wrong = []
    for found in IMPORTS:
        above, below = found.package, found.internal
        if above in ("__init__", "__main__") or below in (None, "__version__", above) or (above, below) in AGAINST_THE_FLOW:
            continue
        if below not in RANK or RANK[below] >= RANK[above]:
            wrong.append(f"{found.importer} imports {below}")
    assert not wrong


def test_the_exception_is_lazy() -> None:
    for found in IMPORTS:
        if (found.package, found.internal) in AGAINST_THE_FLOW:
            assert found.lazy


def test_terrarium_stands_on_the_pure_parts_alone() -> None:
    """The world and its judge know nothing of steering."""
    used = {i.internal for i in IMPORTS if i.package == "terrarium"} - {None, "terrarium"}
    assert used <= {"data", "judging", "positions", "scaling"}


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_have_their_module(package: str) -> None:
    users = {i.package for i in IMPORTS if i.imported.split(".")[0] == package}
    assert users <= HEAVY[package]


def test_what_is_imported_with_the_package() -> None:
    """`import steerlens` and `steerlens --help` load nothing else at their top."""
    for module in ("__init__", "cli"):
        top = {i.imported.split(".")[0] for i in IMPORTS if i.importer == module and not i.lazy and not i.typing_only}
        assert top <= {"importlib", "typing", "argparse", "sys", "collections", "pathlib", "steerlens"}
    heavy = {(i.importer, i.imported) for i in IMPORTS if i.imported.split(".")[0] == "transformer_lens"}
    assert heavy
    for found in IMPORTS:
        if found.imported.split(".")[0] == "transformer_lens":
            assert found.lazy or found.typing_only


def test_annotations_stay_live() -> None:
    """`from __future__ import annotations` would defeat the run-time checks of shapes."""
    assert not [i.importer for i in IMPORTS if i.imported == "__future__"]
