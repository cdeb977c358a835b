"""A benchmark's folder: what each finished concept left, written at once, so that a killed run goes on where it stopped.

manifest.json                settings of the run; another run may not write here
vectors/3.safetensors        what steered for concept 3 (.json for a steering prompt)
concepts/3.parquet           one row per generation; that it is there says that the concept is finished
generations.parquet          the rows of all concepts that were finished when the last call came to its end
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ...files import write_atomically
from ...scores import SCORES
from ...steering.steering_prompt import SteeringPrompt
from ...vector import SteeringVector

Steering = SteeringVector | SteeringPrompt | None
"""What steers for one concept; None is the plain model."""
FINGERPRINT = "fingerprint"
MANIFEST = "manifest.json"
ELSEWHERE = "give another folder, or delete this one"


def open_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Begin a run in a folder, or check that it is this run that began there.

    Raises:
        ValueError: the folder holds a run with other settings (the message names them), or what began there cannot be known.
        OSError: the folder cannot be written to.
    """
    path = folder / MANIFEST
    here = json.loads(json.dumps(settings))
    if not path.exists():
        if any((folder / "concepts").glob("*.parquet")):
            raise ValueError(f"{folder} holds concepts but no {MANIFEST} that says what they are made with: {ELSEWHERE}")
        with _writing(path):
            write_atomically(path, json.dumps(settings, indent=2, sort_keys=True).encode())
        return
    there, here = _flat(read_settings(folder)), _flat(here)
    other = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if other:
        told = "; ".join(f"{name} is {there.get(name)!r:.80} there and {here.get(name)!r:.80} here" for name in other)
        raise ValueError(f"{folder} holds a run with other settings ({told}): {ELSEWHERE}")


def read_settings(folder: Path) -> dict[str, Any]:
    """What a run was begun with.

    Raises:
        FileNotFoundError: no run began there.
        ValueError: the manifest is not intact.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run of the protocol: there is no {MANIFEST}")
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not intact ({error}), so it cannot be known what began there: {ELSEWHERE}") from error
    if not isinstance(there, dict):
        raise ValueError(f"{path} holds a {type(there).__name__}, not settings by name: {ELSEWHERE}")
    if "method" not in there:
        raise ValueError(f"{path} is no manifest of this protocol: it names no method: {ELSEWHERE}")
    return there


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those of the model one by one, so that what differs is named."""
    model = settings.get("model")
    parts = {f"model {name}": value for name, value in model.items()} if isinstance(model, Mapping) else {"model": model}
    return {name: value for name, value in settings.items() if name != "model"} | parts


def fingerprint(*parts: Any) -> str:
    """sha256 of what a concept's rows depend on beside the settings: its data, its prompts, a vector given for it."""
    plain = [_plain(part) for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def finished(folder: Path) -> list[int]:
    """The ids of the concepts that are finished, smallest first."""
    return sorted(int(path.stem) for path in (folder / "concepts").glob("*.parquet") if path.stem.lstrip("-").isdigit())


def load_concept(folder: Path, number: int, expected: str | None) -> pd.DataFrame | None:
    """The rows of a finished concept, or None.

    Args:
        expected: the fingerprint the rows must have; None = any.

    Raises:
        ValueError: the rows were made from other data, prompts or vectors, or the file is not intact.
    """
    path = _rows_path(folder, number)
    if not path.exists():
        return None
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # a parser has many ways to stumble over half a file
        raise ValueError(f"{path} is not intact ({type(error).__name__}: {error}): {_remedy(folder, number)}") from error
    if expected is not None and frame.attrs.get(FINGERPRINT) != expected:
        raise ValueError(f"{path} was made from other data, prompts or vectors for concept {number}: give another folder")
    ids = set(frame.get("concept_id", [])) if {*SCORES, "prompt", "response", "vector_file"} <= set(frame) else set()
    if ids != {number}:
        raise ValueError(f"{path} does not hold rows of concept {number}: {_remedy(folder, number)}")
    frame.attrs = {}
    return frame


def save_concept(folder: Path, number: int, frame: pd.DataFrame, expected: str) -> None:
    """Write a concept's rows: the concept is finished."""
    marked = frame.copy()
    marked.attrs = {FINGERPRINT: expected}
    _write_rows(_rows_path(folder, number), marked)


def save_all(folder: Path, frame: pd.DataFrame) -> None:
    """Write the rows of all concepts as one table."""
    _write_rows(folder / "generations.parquet", frame)


def _write_rows(path: Path, frame: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    with _writing(path):
        write_atomically(path, buffer.getvalue())


def save_steering(folder: Path, number: int, steering: Steering) -> str | None:
    """Write what steers for a concept; its path in the folder, None for the plain model."""
    if steering is None:
        return None
    written = isinstance(steering, SteeringPrompt)
    path = folder / "vectors" / f"{number}.{'json' if written else 'safetensors'}"
    with _writing(path):
        if isinstance(steering, SteeringPrompt):
            write_atomically(path, json.dumps(asdict(steering), indent=2).encode())
        else:
            steering.save(path)
    return path.relative_to(folder).as_posix()


def load_steering(folder: Path, number: int, rows: pd.DataFrame) -> Steering:
    """Read what `save_steering` wrote for a finished concept, of which its rows name the file.

    Raises:
        ValueError: it is not there, or not intact.
    """
    name = rows["vector_file"].iloc[0]
    if pd.isna(name):
        return None
    path = folder / str(name)
    try:
        if path.suffix == ".json":
            return SteeringPrompt(**json.loads(path.read_text(encoding="utf-8")))
        return SteeringVector.load(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not there any more: {_remedy(folder, number)}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not intact ({error}): {_remedy(folder, number)}") from error


def _rows_path(folder: Path, number: int) -> Path:
    return folder / "concepts" / f"{number}.parquet"


def _remedy(folder: Path, number: int) -> str:
    """How a concept is made again."""
    return f"delete {_rows_path(folder, number)}, and concept {number} is made again"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """An OSError that names the file, where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error}): give out= a folder with room that may be written to") from error


def _plain(part: Any) -> Any:
    """What identifies a part, as JSON values."""
    if isinstance(part, SteeringVector):
        place = [part.layer, str(part.positions), part.form, part.factor]
        return [*place, *(tensor.tolist() for tensor in part.weights if tensor is not None)]
    return asdict(part) if isinstance(part, SteeringPrompt) else part
