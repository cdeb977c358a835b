"""Where a sweep lives: one directory with a manifest, and two files for each finished cell.

    manifest.json               what the cells are made from (fingerprints) and which cells are planned
    cells/<key>.safetensors     the vector
    cells/<key>.json            everything else; written last, so a cell that has this file is finished

Files appear whole or not at all. What a killed process leaves behind has a name that begins with a dot, and is not read.
"""

import ast
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from ..files import PACKAGE, write_atomically
from ..judges.base import Judge, judge_identity
from ..model.bridge import Bridge, identity, weights_hash
from ..reproducibility import software_versions
from ..vector import SteeringVector
from .cell import RECORD, ROW, SCHEMA, Cell, Job, Result

DECIDING = (
    "files", "reproducibility", "keywords", "positions", "interventions", "intervals", "scores", "result", "data", "vector",
    "model.bridge", "model.chat", "model.forward", "model.batches",
    "steering.steering_prompt", "steering.forward_inputs", "steering.prompt_tracking", "steering.hooks", "steering.generation",
    "training.scaling", "training.objectives", "training.logprobs", "training.callbacks", "training.parameters",
    "training.settings", "training.setup", "training.loop", "judges.base", "evaluation.scoring", "sweeps.cell",
)  # fmt: skip
"""The modules whose code decides what a cell's numbers are, beside the judge's."""
ASKING = ("judges.rubrics", "judges.llm_base")
"""The modules that also decide what a judge of `steerlens.judges` says."""
SHOWN = 60
"""Characters of a differing value that an error shows."""
STALE = 3600.0
"""Seconds after which a temporary file belongs to nobody."""


class Folder:
    """The files of a sweep, in a local directory or anywhere that fsspec reaches ("s3://...", "memory://...")."""

    def __init__(self, out: str | Path) -> None:
        self.name = str(out)
        self._remote: Any = None
        if "://" in self.name and not self.name.startswith("file://"):
            import fsspec

            self._remote, self._root = fsspec.core.url_to_fs(self.name)
        self.path = Path(self.name.removeprefix("file://"))

    def check_writable(self) -> None:
        """Say now what would otherwise end a sweep when its first cell is done; nothing is made.

        Raises:
            OSError: there is a file in the way, or nothing may be written there.
        """
        if self._remote is not None:
            return
        there = next((path for path in (self.path, *self.path.absolute().parents) if path.exists()), self.path)
        if not there.is_dir():
            raise NotADirectoryError(f"{self.name} cannot hold a sweep: {there} is not a directory")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.name} cannot hold a sweep: {there} may not be written to")

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        try:
            return (self.path / name).read_bytes() if self._remote is None else self._remote.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole: by renaming locally, in one request elsewhere.

        Raises:
            OSError: it cannot be written; the message names it.
        """
        try:
            if self._remote is None:
                write_atomically(self.path / name, content)
            else:
                self._remote.pipe_file(f"{self._root}/{name}", content)
        except OSError as error:
            raise OSError(error.errno, f"{self.name}/{name} could not be written: {error}") from error

    def cell_files(self) -> set[str]:
        """Names of the files of cells, without what was left half-written."""
        if self._remote is None:
            found = [path.name for path in (self.path / "cells").glob("*.*")]
        else:
            place = f"{self._root}/cells"
            listed = self._remote.ls(place, detail=False) if self._remote.exists(place) else []
            found = [str(name).rsplit("/", 1)[-1] for name in listed]
        return {name for name in found if not name.startswith(".")}

    def tidy(self) -> None:
        """Remove temporary files of processes killed long ago."""
        if self._remote is None:
            for path in [*self.path.glob(".*.json.*"), *(self.path / "cells").glob(".*.*.*")]:
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink(missing_ok=True)

    def store(self, result: Result, made_with: str) -> None:
        """Write a cell; its record comes last and makes it finished."""
        if result.vector is not None:
            with tempfile.TemporaryDirectory() as scratch:
                content = result.vector.save(Path(scratch) / "vector.safetensors").read_bytes()
            self.write(f"cells/{result.key}.safetensors", content)
        record = {**result.record, "made_with": made_with}
        self.write(f"cells/{result.key}.json", json.dumps(record, indent=1, allow_nan=False).encode())

    def records(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The records of those cells that have run; one that is not intact, or has lost its vector, has not run."""
        there, found = self.cell_files(), {}
        for key in keys:
            record = _parsed(self.read(f"cells/{key}.json")) if f"{key}.json" in there else None
            if record is not None and (record["error"] is not None or _whole(self.read(f"cells/{key}.safetensors"))):
                found[key] = record
        return found

    def vector(self, key: str) -> SteeringVector:
        """The vector of a finished cell."""
        name = f"cells/{key}.safetensors"
        if self._remote is None:
            return SteeringVector.load(self.path / name)
        content = self.read(name)
        if content is None:
            raise FileNotFoundError(f"{self.name}/{name} does not exist")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{key}.safetensors"
            path.write_bytes(content)
            return SteeringVector.load(path)

    def manifest(self) -> dict[str, Any] | None:
        """The manifest; None where no sweep has been."""
        content = self.read("manifest.json")
        if content is None:
            if self.cell_files():
                raise ValueError(f"{self.name} holds cells but no manifest.json that says what they are made from")
            return None
        try:
            manifest = json.loads(content)
            if manifest["schema"] != SCHEMA:
                raise _OtherSchema(f"{self.name}: manifest of schema {manifest['schema']}, this steerlens reads {SCHEMA}")
            if not isinstance(manifest["fingerprints"], list):
                raise TypeError("fingerprints are no list")
            for cell in manifest["plan"]:
                Cell(**cell)
        except _OtherSchema:
            raise
        except (ValueError, TypeError, KeyError) as error:
            told = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{self.name}/manifest.json is damaged ({told}): put a copy of it back, or take another directory"
            ) from error
        return manifest


class _OtherSchema(ValueError):
    """A manifest of another steerlens, which is not a damaged one."""


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    try:
        record = json.loads(content or b"")
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not {*RECORD, "made_with"} <= record.keys():
        return None
    parts = {"settings": dict, "numbers": dict, "seconds": dict, "rows": list, "made_with": str}
    if not all(isinstance(record[name], kind) for name, kind in parts.items()) or "judge" not in record["seconds"]:
        return None
    return record if all(isinstance(row, dict) and set(ROW) <= row.keys() for row in record["rows"]) else None


def _whole(content: bytes | None) -> bool:
    """Whether a safetensors file is as long as its header says; the checksum is read with the vector."""
    size = int.from_bytes((content or b"")[:8], "little")
    if content is None or not 0 < size <= len(content) - 8:
        return False
    try:
        header = json.loads(content[8 : 8 + size])
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return len(content) == 8 + size + max(ends)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return False


def agree(folder: Folder, fingerprint: Mapping[str, Any], cells: Sequence[Cell], keep: bool) -> None:
    """Compare with what the directory was made from, and note fingerprint and plan in its manifest.

    Raises:
        ValueError: the cells there were made from something else, and they are not to be kept beside new ones.
    """
    manifest = folder.manifest() or {"schema": SCHEMA, "fingerprints": [], "plan": []}
    past = manifest["fingerprints"]
    merged = json.loads(json.dumps(fingerprint))
    if past:
        differing = differences(past[-1], merged)
        if differing and not keep:
            raise ValueError(
                f"{folder.name} holds cells made with other {'; '.join(differing)}. Take another directory, or say "
                'on_mismatch="keep": finished cells stay as they are, and each records what it was made with'
            )
        for name in ("data", "prompts"):
            merged[name] = past[-1][name] | merged[name]
    if not past or past[-1] != merged:
        past.append(merged)
    known = {Cell(**cell).key for cell in manifest["plan"]}
    manifest["plan"] += [cell._asdict() for cell in cells if cell.key not in known]
    folder.write("manifest.json", json.dumps(manifest).encode())


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, in words; concepts that only one of them has do not count."""
    found = []
    for name in new:
        before, now = old.get(name), new[name]
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            of_concepts = name in ("data", "prompts")
            parts = [part for part in now if part in before] if of_concepts else sorted({*before, *now})
            changed = [part for part in parts if before.get(part) != now.get(part)]
            if of_concepts:
                found += [f"{name} of {', '.join(map(repr, changed))}"] if changed else []
            else:
                found += [f"{name} {part} ({_short(before.get(part))}, now {_short(now.get(part))})" for part in changed]
        elif before != now:
            found.append(f"{name} ({_short(before)}, now {_short(now)})")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


# --- fingerprints -----------------------------------------------------------------------------------------------------


def of_job(job: Job) -> dict[str, Any]:
    """What the driver knows: code, software, data, prompts, settings that all cells share."""
    return {
        "code": code_hash(),
        "versions": {**software_versions(), "python": platform.python_version()},
        "config": None if job.config is None else asdict(job.config),
        "sampling": job.sampling._asdict(),
        "data": {name: _digest([data.hash, data.concept]) for name, data in job.datasets.items()},
        "prompts": {name: _digest([_listed(prompt) for prompt in prompts]) for name, prompts in job.prompts.items()},
    }


def of_model(model: Bridge, judge: Judge) -> dict[str, Any]:
    """What only a process with the model and the judge knows."""
    return {"model": identity(model) | {"weights": weights_hash(model)}, "judge": of_judge(judge)}


def made_with(fingerprint: Mapping[str, Any], concept: str) -> str:
    """One short fingerprint of all that a concept's cells are made from."""
    own = {name: fingerprint[name].get(concept) for name in ("data", "prompts")}
    return _digest({**fingerprint, **own})[:12]


@cache
def code_hash() -> str:
    """Fingerprint of the code that decides the numbers, apart from the judge's."""
    return hash_of(DECIDING)


def hash_of(modules: Iterable[str]) -> str:
    """Fingerprint of modules of steerlens; comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for name in modules:
        tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):  # text standing alone is a docstring, of a module, function, class or field
                # ast.AST declares no body, and this node has one
                node.body = [part for part in body if not _is_text(part)]  # pyright: ignore[reportAttributeAccessIssue]
        digest.update(f"{name}:{ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def of_judge(judge: Judge) -> str:
    """`judge_identity`; of a judge of `steerlens.judges` also the code of its module, of its rubrics and of its asking."""
    module = type(judge).__module__.removeprefix(f"{PACKAGE.name}.")
    code = hash_of((module, *ASKING)) if module.startswith("judges.") else ""
    return f"{judge_identity(judge)} {code[:12]}".rstrip()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _listed(prompt: Any) -> Any:
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
