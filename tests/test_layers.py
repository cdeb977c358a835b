"""Imports point one way: read from the source, so that a lazy import counts as much as one at the top."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import steerlens

ROOT = Path(steerlens.__file__).parent

# from the bottom up; a package or module may import those in rows below its own
ORDER = (
    (
        "files",
        "reproducibility",
        "visible_text",
        "tables",
        "keywords",
        "arguments",
        "dataclass_options",
        "positions",
        "interventions",
        "intervals",
        "scores",
        "result",
        "vector_file",
    ),
    ("figures", "conversations", "run_folder"),
    ("row_formats",),
    ("data",),
    ("vector",),
    ("model",),
    ("steering",),
    ("training", "judges"),
    ("extraction",),
    ("evaluation", "analysis"),
    ("sweeps",),
    ("display",),
    ("terrarium",),
    ("demo",),
    ("demo_smollm2",),
    ("cli",),
)
RANK = {package: rank for rank, row in enumerate(ORDER) for package in row}
AGAINST_THE_FLOW = {("vector", "steering.hooks")}
"""The method of convenience SteeringVector.steer."""
HEAVY = {
    "transformer_lens": {"model"},
    "plotly": {"figures", "display", "training"},
    "circuitsvis": {"figures"},
    "ipywidgets": {"training", "display"},
    "ray": {"sweeps"},
    "lm_eval": {"evaluation"},
    "datasets": {"evaluation"},
    "openai": {"judges"},
}
"""package -> packages of steerlens that may import it."""
NAMED_EVERYWHERE = {"plotly"}
"""Packages that any signature may name, since a type loads nothing: a result's `.plot() -> go.Figure`."""


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
        """The imported module, without "steerlens."."""
        package, _, rest = self.imported.partition(".")
        return rest if package == "steerlens" and rest else None

    @property
    def internal_package(self) -> str | None:
        return None if self.internal is None else self.internal.split(".")[0]


def _imported(base: str, name: str) -> str:
    """The module that `from base import name` reads: base.name where that is a module, else base."""
    inner = f"{base}.{name}".removeprefix("steerlens.").replace(".", "/")
    is_module = base.split(".")[0] == "steerlens" and ((ROOT / f"{inner}.py").exists() or (ROOT / inner).is_dir())
    return f"{base}.{name}" if is_module or base == "steerlens" else base


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
                yield from (Import(name, _imported(base, alias.name), lazy, typing_only) for alias in child.names)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                guard = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
                yield from walk(child, lazy or inside, typing_only or guard)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, False)


FILES = sorted(path for path in ROOT.rglob("*.py"))
IMPORTS = [found for path in FILES for found in imports_of(path)]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}


def module_in(dotted: str | None) -> str | None:
    """The file that a dotted name below steerlens stands for: a module, a package's __init__, or None."""
    if dotted is None:
        return None
    return dotted if dotted in MODULES else f"{dotted}.__init__" if f"{dotted}.__init__" in MODULES else None


def test_every_package_has_its_place() -> None:
    packages = {name.split(".")[0] for name in MODULES} - {"__init__", "__main__"}
    assert packages == set(RANK)
    assert len(IMPORTS) > 100
    seen = {i.internal for i in IMPORTS if i.importer == "steering.hooks"}
    assert seen >= {"interventions", "model.bridge", "steering.prompt_tracking", "vector"}


def test_imports_point_one_way() -> None:
    """Also lazy and type-only ones."""
    wrong = []
    for found in IMPORTS:
        above, below = found.package, found.internal_package
        if above in ("__init__", "__main__") or below in (None, "__version__", above):
            continue
        if (found.importer, found.internal) in AGAINST_THE_FLOW:
            continue
        if below not in RANK or RANK[below] >= RANK[above]:
            wrong.append(f"{found.importer} imports {found.internal}")
    assert not wrong


def test_no_circle_of_modules() -> None:
    """Within packages too, lazy and type-only imports included."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES - {"__init__"}}
    for found in IMPORTS:
        below = module_in(found.internal)
        allowed = (found.importer, found.internal) in AGAINST_THE_FLOW
        if found.importer in graph and below in graph and below != found.importer and not allowed:
            graph[found.importer].add(below)
    order = TopologicalSorter(graph)
    order.prepare()  # raises CycleError, which names the circle


def test_the_exception_is_lazy() -> None:
    against = [found for found in IMPORTS if (found.importer, found.internal) in AGAINST_THE_FLOW]
    assert len(against) == 1 and against[0].lazy


def test_figures_import_no_result() -> None:
    """Frames and numbers come in: a figure knows names and colours, and no class that it draws."""
    used = {i.internal_package for i in IMPORTS if i.package == "figures"} - {None, "figures"}
    assert used <= {"scores", "intervals", "visible_text"}


def test_the_world_knows_nothing_of_steering() -> None:
    """The world and its judge stand on the pure parts alone; settings for training on it are not part of the world."""
    world = [i for i in IMPORTS if i.package == "terrarium" and not i.importer.startswith("terrarium.build")]
    used = {i.internal for i in world if i.internal_package != "terrarium"} - {None}
    assert used <= {"data", "files", "scores", "positions", "training.scaling"}


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_have_their_module(package: str) -> None:
    named = package in NAMED_EVERYWHERE
    users = {i.package for i in IMPORTS if i.imported.split(".")[0] == package and not (named and i.typing_only)}
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
