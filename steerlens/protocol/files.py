"""A benchmark's folder: what each finished concept left, written at once, so that a killed run goes on where it stopped.

manifest.json                settings of the run; another run may not write here
vectors/3.safetensors        what steered for concept 3 (.json for a steering prompt)
concepts/3.parquet           one row per generation; that it is there says that the concept is finished
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ..prompting import SteeringPrompt
from ..vector import SteeringVector, write_atomically

Steering = SteeringVector | SteeringPrompt | None
"""What steers for one concept; None is the plain model."""
FINGERPRINT = "fingerprint"


def open_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Begin a run in a folder, or check that it is this run that began there.

    Raises:
        ValueError: the folder holds a run with other settings; the message names them.
    """
    path = folder / "manifest.json"
    text = json.dumps(settings, indent=2, sort_keys=True)
    if not path.exists():
        write_atomically(path, text.encode())
        return
    there, here = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
    other = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if other:
        told = "; ".join(f"{name} is {there.get(name)!r:.80} there and {here.get(name)!r:.80} here" for name in other)
        raise ValueError(f"{folder} holds a run with other settings ({told}): give another folder, or delete this one")


def fingerprint(*parts: Any) -> str:
    """sha256 of what a concept's rows depend on beside the settings: its data, its prompts, a vector given for it."""
    plain = [_plain(part) for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def load_concept(folder: Path, number: int, expected: str) -> pd.DataFrame | None:
    """The rows of a finished concept, or None.

    Raises:
        ValueError: the rows were made from other data, prompts or vectors.
    """
    path = folder / "concepts" / f"{number}.parquet"
    if not path.exists():
        return None
    frame = pd.read_parquet(path)
    if frame.attrs.get(FINGERPRINT) != expected:
        raise ValueError(f"{path} was made from other data, prompts or vectors for concept {number}: give another folder")
    frame.attrs = {}
    return frame


def save_concept(folder: Path, number: int, frame: pd.DataFrame, expected: str) -> None:
    """Write a concept's rows: the concept is finished."""
    marked = frame.copy()
    marked.attrs = {FINGERPRINT: expected}
    buffer = io.BytesIO()
    marked.to_parquet(buffer, index=False)
    write_atomically(folder / "concepts" / f"{number}.parquet", buffer.getvalue())


def save_steering(folder: Path, number: int, steering: Steering) -> str | None:
    """Write what steers for a concept; its path in the folder, None for the plain model."""
    if steering is None:
        return None
    if isinstance(steering, SteeringPrompt):
        path = folder / "vectors" / f"{number}.json"
        write_atomically(path, json.dumps(asdict(steering), indent=2).encode())
    else:
        path = steering.save(folder / "vectors" / f"{number}.safetensors")
    return path.relative_to(folder).as_posix()


def load_steering(folder: Path, name: str | None) -> Steering:
    """Read what `save_steering` wrote."""
    if name is None:
        return None
    path = folder / name
    if path.suffix == ".json":
        return SteeringPrompt(**json.loads(path.read_text(encoding="utf-8")))
    return SteeringVector.load(path)


def _plain(part: Any) -> Any:
    """What identifies a part, as JSON values."""
    if isinstance(part, SteeringVector):
        place = [part.layer, str(part.positions), part.form, part.factor]
        return [*place, *(tensor.tolist() for tensor in part.weights if tensor is not None)]
    return asdict(part) if isinstance(part, SteeringPrompt) else part
