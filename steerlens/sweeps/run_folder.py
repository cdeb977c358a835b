"""Where a sweep lives: one directory with a manifest, and two files for each finished cell.

    manifest.json               what the cells are made from (fingerprints) and which cells are planned
    cells/<key>.safetensors     the vector
    cells/<key>.json            everything else; written last, so a cell that has this file is finished

How files are written and a manifest is read stands in `steerlens.run_folder`.
"""

import ast
import json
import platform
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

from ..arguments import is_number, is_whole
from ..data import plain_prompt
from ..files import PACKAGE
from ..judges.base import Judge, judge_identity
from ..model.bridge import Bridge
from ..model.identity import identity, weights_hash
from ..reproducibility import json_digest, sha256, software_versions
from ..run_folder import MANIFEST, ManifestError, RunFolder, changes
from ..scores import SCORES
from ..vector import SteeringVector
from .cell import RECORD, ROW, SCHEMA, Cell, Job, Result

DECIDING = (
    "files", "reproducibility", "tables", "conversations", "row_formats", "keywords", "arguments", "positions",
    "interventions", "intervals", "scores", "result", "data", "vector_file", "vector",
    "model.support", "model.bridge", "model.tokenizer", "model.rendering", "model.responses", "model.chat",
    "model.identity", "model.numbers",
    "model.registry", "model.frozen", "model.plain", "model.halves", "model.memory", "model.forward", "model.batches",
    "steering.steering_prompt", "steering.forward_inputs", "steering.seen_rows", "steering.prompt_tracking", "steering.hooks",
    "steering.decoding", "steering.generation",
    "training.scaling", "training.objectives", "training.lower_half", "training.logprobs", "training.callbacks",
    "training.parameters", "training.settings", "training.setup", "training.loop", "judges.base", "evaluation.scoring",
    "sweeps.cell",
)  # fmt: skip
"""The modules whose code decides what a cell's numbers are, beside the judge's."""
ASKING = ("judges.rubrics", "judges.llm_base")
"""The modules that also decide what a judge of `steerlens.judges` says."""
PER_CONCEPT = ("data", "prompts")
"""Of a fingerprint, what is by concept."""
ATTEMPTS = 5
"""To get a plan into a manifest that others write at the same moment, where no lock reaches."""
CHECKSUM = "vector_checksum"
"""In a record: that of the vector it was made with. Older records have none."""
SHOWN = 60
"""Characters of a differing value that an error shows."""


class Folder:
    """The files of a sweep, in a local directory or anywhere that fsspec reaches ("s3://...", "memory://...")."""

    def __init__(self, out: str | Path) -> None:
        self.files = RunFolder(out, units="cells")

    @property
    def name(self) -> str:
        """The directory, as it was given."""
        return self.files.name

    def check_writable(self) -> None:
        """Say now what would otherwise end a sweep when its first cell is done; nothing is made.

        Raises:
            OSError: there is a file in the way, or nothing may be written there.
        """
        self.files.check_writable("a sweep")

    def tidy(self) -> None:
        """Remove temporary files of processes killed long ago."""
        self.files.tidy("cells/*.json", "cells/*.safetensors")

    def store(self, result: Result, made_with: str) -> None:
        """Write a cell; its record comes last and makes it finished."""
        if result.vector is not None:
            self.files.save(f"cells/{result.key}.safetensors", result.vector.save)
        record = {**result.record, "made_with": made_with}
        if result.vector is not None:
            record[CHECKSUM] = _vector_checksum(self.files.read(f"cells/{result.key}.safetensors"))
        self.files.write(f"cells/{result.key}.json", json.dumps(record, indent=1, allow_nan=False).encode())

    def records(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The records of those cells that have run; one that is not intact, is of another cell, or has lost its vector or
        holds that of another cell, has not run."""
        there, found = self.files.unit_files(), {}
        for key in keys:
            record = _parsed(self.files.read(f"cells/{key}.json")) if f"{key}.json" in there else None
            if record is None or not _belongs(record, key):
                continue
            if record["error"] is None:
                content = self.files.read(f"cells/{key}.safetensors")
                checksum = record.get(CHECKSUM)
                if not _whole(content) or checksum not in (None, _vector_checksum(content)):
                    continue
            found[key] = record
        return found

    def vector(self, key: str) -> SteeringVector:
        """The vector of a finished cell.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.files.local(f"cells/{key}.safetensors") as path:
            return SteeringVector.load(path)

    def manifest(self) -> dict[str, Any] | None:
        """The manifest; None where no sweep has been.

        Raises:
            ValueError: it is damaged, of another schema, or missing where there are cells.
        """
        try:
            manifest = self.files.manifest()
            if manifest is not None:
                _check_manifest(manifest, self.name)
        except ManifestError as error:
            raise ValueError(
                f"{self.files.path_of(MANIFEST)} is damaged ({error}): put a copy of it back, or take another directory"
            ) from error
        return manifest


def _check_manifest(manifest: Mapping[str, Any], name: str) -> None:
    """Raise ManifestError unless there are fingerprints and planned cells, and ValueError if they are of another steerlens."""
    try:
        if manifest["schema"] != SCHEMA:
            raise ValueError(
                f"{name}/{MANIFEST} has the schema {manifest['schema']!r:.40}, this steerlens reads {SCHEMA}: read it with the "
                "steerlens that wrote it, or take another directory"
            )
        if not isinstance(manifest["fingerprints"], list):
            raise TypeError("fingerprints are no list")
        for fingerprint in manifest["fingerprints"]:
            if not all(isinstance(fingerprint[part], dict) for part in PER_CONCEPT):
                raise TypeError("a fingerprint without data and prompts by concept")
        for planned in manifest["plan"]:
            cell = Cell(**planned)
            if not isinstance(cell.concept, str) or not is_whole(cell.seed) or not isinstance(cell.settings, dict):
                raise TypeError(f"{planned!s:.80} is no cell")
    except (TypeError, KeyError) as error:
        raise ManifestError(f"{type(error).__name__}: {error}") from error


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    try:
        record = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not {*RECORD, "made_with"} <= record.keys():
        return None
    parts = {"settings": dict, "numbers": dict, "seconds": dict, "rows": list, "made_with": str}
    if not all(isinstance(record[name], kind) for name, kind in parts.items()) or "judge" not in record["seconds"]:
        return None
    amounts = [*record["seconds"].values(), *record["numbers"].values()]
    if not isinstance(record["error"], (str, NoneType)) or not all(map(is_number, amounts)):
        return None
    return record if all(map(_is_row, record["rows"])) else None


def _is_row(row: Any) -> bool:
    """Whether something is the record of a response: texts, a seed, and ratings of 0 to 2 or None."""
    if not isinstance(row, dict) or not set(ROW) <= row.keys():
        return False
    if not all(isinstance(row[name], str) for name in ("prompt", "response")) or not is_whole(row["seed"]):
        return False
    rated = all(row[score] is None or (is_number(row[score]) and 0 <= row[score] <= 2) for score in SCORES)
    return rated and isinstance(row["error"], (str, NoneType)) and isinstance(row.get("replies"), (str, NoneType))


def _belongs(record: Mapping[str, Any], key: str) -> bool:
    """Whether a record is that of the cell whose name its file has."""
    try:
        return record["key"] == key == Cell(record["concept"], record["seed"], record["settings"]).key
    except (TypeError, ValueError, AttributeError):
        return False


def _vector_checksum(content: bytes | None) -> str | None:
    """The checksum in the header of a vector's file; None if there is none."""
    try:
        size = int.from_bytes((content or b"")[:8], "little")
        return json.loads((content or b"")[8 : 8 + size])["__metadata__"]["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _whole(content: bytes | None) -> bool:
    """Whether a safetensors file is as long as its header says; the checksum is read with the vector."""
    size = int.from_bytes((content or b"")[:8], "little")
    if content is None or not 0 < size <= len(content) - 8:
        return False
    try:
        header = json.loads(content[8 : 8 + size])
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return len(content) == 8 + size + max(ends)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return False


def agree(folder: Folder, fingerprint: Mapping[str, Any], cells: Sequence[Cell], keep: bool) -> None:
    """Compare with what the directory was made from, and note fingerprint and plan in its manifest.

    Processes that do so at the same moment wait for each other; where no lock reaches, each looks whether its plan is there.

    Raises:
        ValueError: the cells there were made from something else, and they are not to be kept beside new ones.
    """
    for attempt in range(ATTEMPTS):
        with folder.files.exclusive():
            manifest = folder.manifest() or {"schema": SCHEMA, "fingerprints": [], "plan": []}
            merged = _merged(folder, manifest, fingerprint, cells, keep)
            if merged == manifest and attempt:
                return
            folder.files.write_manifest(merged)
        if not folder.files.remote:
            return
        time.sleep(random.uniform(0, 0.2))


def _merged(
    folder: Folder, manifest: Mapping[str, Any], fingerprint: Mapping[str, Any], cells: Sequence[Cell], keep: bool
) -> dict[str, Any]:
    """The manifest with fingerprint and plan in it."""
    past = list(manifest["fingerprints"])
    merged = json.loads(json.dumps(fingerprint))
    if past:
        differing = differences(past[-1], merged)
        if differing and not keep:
            raise ValueError(
                f"{folder.name} holds cells made with other {'; '.join(differing)}. Take another directory, or say "
                'on_mismatch="keep": finished cells stay as they are, and each records what it was made with'
            )
        for name in PER_CONCEPT:
            merged[name] = past[-1][name] | merged[name]
    if not past or past[-1] != merged:
        past.append(merged)
    known = {Cell(**cell).key for cell in manifest["plan"]}
    plan = [*manifest["plan"], *(cell._asdict() for cell in cells if cell.key not in known)]
    return {**manifest, "fingerprints": past, "plan": plan}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, in words; concepts that only one of them has do not count."""
    found = []
    for name, now in new.items():
        if name in PER_CONCEPT:
            other = [concept for concept in now if concept in old[name] and old[name][concept] != now[concept]]
            found += [f"{name} of {', '.join(map(repr, other))}"] if other else []
        else:
            found += [
                f"{change.name} ({_short(change.before)}, now {_short(change.now)})"
                for change in changes({name: old.get(name)}, {name: now})
            ]
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
        "data": {name: json_digest([data.hash, data.concept]) for name, data in job.datasets.items()},
        "prompts": {name: json_digest([plain_prompt(prompt) for prompt in prompts]) for name, prompts in job.prompts.items()},
    }


def of_model(model: Bridge, judge: Judge) -> dict[str, Any]:
    """What only a process with the model and the judge knows."""
    return {"model": identity(model) | {"weights": weights_hash(model)}, "judge": of_judge(judge)}


def made_with(fingerprint: Mapping[str, Any], concept: str) -> str:
    """One short fingerprint of all that a concept's cells are made from."""
    own = {name: fingerprint[name].get(concept) for name in PER_CONCEPT}
    return json_digest({**fingerprint, **own})[:12]


@cache
def code_hash() -> str:
    """Fingerprint of the code that decides the numbers, apart from the judge's."""
    return hash_of(DECIDING)


def hash_of(modules: Iterable[str]) -> str:
    """Fingerprint of modules of steerlens; comments, docstrings and layout do not count."""
    return sha256("".join(f"{name}:{_bare_code(name)}\n" for name in modules))


def _bare_code(name: str) -> str:
    """A module's syntax tree without its docstrings."""
    tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # text standing alone is a docstring, of a module, function, class or field
            # ast.AST declares no body, and this node has one
            node.body = [part for part in body if not _is_text(part)]  # pyright: ignore[reportAttributeAccessIssue]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def of_judge(judge: Judge) -> str:
    """`judge_identity`; of a judge of `steerlens.judges` also the code of its module, of its rubrics and of its asking."""
    module = type(judge).__module__.removeprefix(f"{PACKAGE.name}.")
    code = hash_of((module, *ASKING)) if module.startswith("judges.") else ""
    return f"{judge_identity(judge)} {code[:12]}".rstrip()
