"""The notebooks run from the top, and keep the outputs of a run with their whole budget."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = Path(__file__).parents[1] / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
LONGEST_CELL = 12
BUDGET = "parameters"
"""Tag of the cell that says how much a notebook trains, samples and asks (the one that papermill goes by)."""
SMALL: dict[str, dict[str, Any]] = {
    "1_first_vector": {"EXAMPLES": 12, "PROMPTS": 2, "NEW_TOKENS": 12},
    "2_joint_training": {"CONCEPTS": 1, "EXAMPLES": 6, "EPOCHS": 1, "PROMPTS": 2, "NEW_TOKENS": 8},
    "3_where_to_steer": {"EPOCHS": 1, "PROMPTS": 2, "QUESTIONS": 6, "NEW_TOKENS": 8},
    "4_evaluating": {"EPOCHS": 1, "SWEEP_EPOCHS": 1, "PROMPTS": 2, "QUESTIONS": 6, "NEW_TOKENS": 8},
    "5_looking_inside": {"EPOCHS": 1, "PROMPTS": 3, "NEW_TOKENS": 8},
    "6_dynamics": {"EPOCHS": 2, "WIDTHS": (32, 64, 96), "STEPS": 2, "FULL_WIDTHS": (32, 64, 96), "FULL_STEPS": 5},
}
"""Budgets with which every cell runs, and shows little."""


def budget_of(notebook: Any) -> Any:
    """The cell with the budget."""
    (cell,) = [cell for cell in notebook.cells if BUDGET in cell.metadata.get("tags", [])]
    return cell


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_saved_and_cells_are_small(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    assert kinds & {"stream", "execute_result", "display_data"}
    assert max(len(cell.source.splitlines()) for cell in cells) <= LONGEST_CELL


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_small_budget_names_all_of_the_budget_and_is_smaller(path):
    whole: dict[str, Any] = {}
    exec(budget_of(nbformat.read(path, as_version=4)).source, whole)
    del whole["__builtins__"]
    assert whole.keys() == SMALL[path.stem].keys()
    assert all(SMALL[path.stem][name] < value for name, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    """From the top to the end, away from the repository, with a small budget in the place of the whole one."""
    notebook = nbformat.read(path, as_version=4)
    budget_of(notebook).source = "\n".join(f"{name} = {value!r}" for name, value in SMALL[path.stem].items())
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_what_a_notebook_reads_from_the_repository_is_there():
    (cell,) = [cell for cell in nbformat.read(TUTORIALS / "6_dynamics.ipynb", as_version=4).cells if "read_csv" in cell.source]
    names = [node.value for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Constant)]
    (folder,) = [name for name in names if isinstance(name, str) and name.startswith("..")]
    files = [name for name in names if isinstance(name, str) and name.endswith(".csv")]
    assert files and all((TUTORIALS / folder / name).is_file() for name in files)
