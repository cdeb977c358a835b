"""A benchmark's folder: what each finished concept left, written at once, so that a killed run goes on where it stopped.

    manifest.json                settings of the run; another run may not write here
    vectors/3.safetensors        what steered for concept 3 (.json for a steering prompt)
    concepts/3.parquet           one row per generation; that it is there says that the concept is finished
    generations.parquet          the rows of all concepts that were finished when the last call came to its end

How files are written and a manifest is read stands in `steerlens.run_folder`.
"""

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ...arguments import is_number, is_whole
from ...reproducibility import json_digest
from ...run_folder import MANIFEST, ManifestError, RunFolder, changes
from ...scores import SCORES
from ...steering.steering_prompt import SteeringPrompt
from ...vector import SteeringVector

Steering = SteeringVector | SteeringPrompt | None
"""What steers for one concept; None is the plain model."""
FINGERPRINT = "fingerprint"
GENERATIONS = "generations.parquet"
ELSEWHERE = "give another folder, or delete this one"


def folder_at(out: str | Path) -> RunFolder:
    """The folder of a run, begun or not."""
    return RunFolder(out, units="concepts")


def begin(folder: RunFolder, settings: Mapping[str, Any]) -> None:
    """Begin a run in a folder, or check that it is this run that began there.

    Raises:
        ValueError: the folder holds a run with other settings (the message names them), or what began there cannot be known.
        OSError: the folder cannot be written to.
    """
    known = _manifest(folder)
    if known is None:
        folder.write_manifest(settings)
        return
    if differing := changes(known, settings):
        text = "; ".join(f"{change.name} is {change.before!r:.80} there and {change.now!r:.80} here" for change in differing)
        raise ValueError(f"{folder.name} holds a run with other settings ({text}): {ELSEWHERE}")
    folder.tidy(GENERATIONS, "concepts/*.parquet", "vectors/*.safetensors", "vectors/*.json")


def read_settings(folder: RunFolder) -> dict[str, Any]:
    """What a run was begun with.

    Raises:
        FileNotFoundError: no run began there.
        ValueError: the manifest is not intact.
    """
    settings = _manifest(folder)
    if settings is None:
        raise FileNotFoundError(f"{folder.name} holds no run of the protocol: there is no {MANIFEST}")
    return settings


def _manifest(folder: RunFolder) -> dict[str, Any] | None:
    path = folder.path_of(MANIFEST)
    try:
        settings = folder.manifest()
    except ManifestError as error:
        raise ValueError(f"{path} is not intact ({error}), so it cannot be known what began there: {ELSEWHERE}") from error
    if settings is not None and "method" not in settings:
        raise ValueError(f"{path} is no manifest of this protocol: it names no method: {ELSEWHERE}")
    return settings


def fingerprint(*parts: Any) -> str:
    """sha256 of what a concept's rows depend on beside the settings: its data, its prompts, a vector given for it."""
    return json_digest([_plain(part) for part in parts])


def finished(folder: RunFolder) -> list[int]:
    """The ids of the concepts that are finished, smallest first."""
    stems = (name.removesuffix(".parquet") for name in folder.unit_files() if name.endswith(".parquet"))
    return sorted(int(stem) for stem in stems if stem.lstrip("-").isdigit())


def load_concept(folder: RunFolder, number: int, expected: str | None) -> pd.DataFrame | None:
    """The rows of a finished concept, or None.

    Args:
        expected: the fingerprint the rows must have; None = any.

    Raises:
        ValueError: the rows were made from other data, prompts or vectors, or the file is not intact.
    """
    name = _rows_file(number)
    content, path = folder.read(name), folder.path_of(name)
    if content is None:
        return None
    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # a parser has many ways to stumble over half a file
        raise ValueError(f"{path} is not intact ({type(error).__name__}: {error}): {_remedy(folder, number)}") from error
    if expected is not None and frame.attrs.get(FINGERPRINT) != expected:
        raise ValueError(f"{path} was made from other data, prompts or vectors for concept {number}: give another folder")
    if wrong := _wrong(frame, number):
        raise ValueError(f"{path} does not hold rows of concept {number}: {wrong}; {_remedy(folder, number)}")
    frame.attrs = {}
    return frame


def _is_text_or_missing(value: Any) -> bool:
    return value is None or value is pd.NA or isinstance(value, str) or (isinstance(value, float) and math.isnan(value))


_COLUMNS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("concept", "prompt", "response"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("genre", "error", "vector_file"), _is_text_or_missing),
    **dict.fromkeys(("concept_id", "instruction", "seed"), is_whole),
    **dict.fromkeys(SCORES, lambda value: is_number(value) and not (value < 0 or value > 2)),  # NaN is unscored
}
"""Column of a concept's rows -> what each of its values must be."""


def _wrong(frame: pd.DataFrame, number: int) -> str | None:
    """Why a table is not that of a concept's rows, or None."""
    if missing := [name for name in _COLUMNS if name not in frame]:
        return f"it lacks {', '.join(missing)}"
    if frame.empty:
        return "it has no rows"
    for name, is_right in _COLUMNS.items():
        for row, value in enumerate(frame[name]):
            if not is_right(value):
                return f"row {row}: {name} is {value!r:.40}"
    others = set(frame["concept_id"]) - {number}
    return f"it has rows of concept {min(others)}" if others else None


def save_concept(folder: RunFolder, number: int, frame: pd.DataFrame, expected: str) -> None:
    """Write a concept's rows: the concept is finished."""
    marked = frame.copy()
    marked.attrs = {FINGERPRINT: expected}
    _write_rows(folder, _rows_file(number), marked)


def save_all(folder: RunFolder, frame: pd.DataFrame) -> None:
    """Write the rows of all concepts as one table."""
    _write_rows(folder, GENERATIONS, frame)


def _write_rows(folder: RunFolder, name: str, frame: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    folder.write(name, buffer.getvalue())


def save_steering(folder: RunFolder, number: int, steering: Steering) -> str | None:
    """Write what steers for a concept; its path in the folder, None for the plain model."""
    if steering is None:
        return None
    if isinstance(steering, SteeringPrompt):
        name = f"vectors/{number}.json"
        folder.write(name, json.dumps(asdict(steering), indent=2).encode())
        return name
    name = f"vectors/{number}.safetensors"
    folder.save(name, steering.save)
    return name


def load_steering(folder: RunFolder, number: int, rows: pd.DataFrame) -> Steering:
    """Read what `save_steering` wrote for a finished concept, of which its rows name the file.

    Raises:
        ValueError: it is not there, or not intact.
    """
    name = rows["vector_file"].iloc[0]
    if pd.isna(name):
        return None
    if name not in (f"vectors/{number}.json", f"vectors/{number}.safetensors"):
        raise ValueError(f"{folder.path_of(_rows_file(number))} names {name!r:.60} as what steered: {_remedy(folder, number)}")
    described = folder.path_of(name)
    try:
        with folder.local(name) as path:
            if path.suffix == ".json":
                return SteeringPrompt(**json.loads(path.read_text(encoding="utf-8")))
            return SteeringVector.load(path)
    except FileNotFoundError as error:
        raise ValueError(f"{described} is not there any more: {_remedy(folder, number)}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{described} is not intact ({error}): {_remedy(folder, number)}") from error


def _rows_file(number: int) -> str:
    return f"concepts/{number}.parquet"


def _remedy(folder: RunFolder, number: int) -> str:
    """How a concept is made again."""
    return f"delete {folder.path_of(_rows_file(number))}, and concept {number} is made again"


def _plain(part: Any) -> Any:
    """What identifies a part, as JSON values."""
    if isinstance(part, SteeringVector):
        about = [part.layer, str(part.positions), part.form, part.factor]
        return [*about, *(tensor.tolist() for tensor in part.weights if tensor is not None)]
    return asdict(part) if isinstance(part, SteeringPrompt) else part
