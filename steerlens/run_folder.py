"""The folder of a long run: files that appear whole or not at all, and a manifest that says what they are made from.

    manifest.json     what the run was begun with
    <units>/...       a file for each unit of work that is done, written at once

What a killed process leaves behind has a name that begins with a dot, is read by nobody, and is removed after a while.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from .files import write_atomically

MANIFEST = "manifest.json"
LOCK = ".lock"
STALE = 3600.0
"""Seconds after which a temporary file belongs to nobody."""


class RunFolder:
    """The files of a run, in a local directory or anywhere that fsspec reaches ("s3://...", "memory://...").

    Args:
        out: the folder; it need not exist.
        units: the folder in it that holds what is done, such as "cells".

    Names of files are relative, with slashes: "cells/a.json".
    """

    def __init__(self, out: str | Path, units: str) -> None:
        if not isinstance(out, (str, Path)) or not str(out):
            raise TypeError(f"out is {out!r:.80}; it must be a folder's path")
        self.name, self.units = str(out), units
        self._remote: Any = None
        if "://" in self.name and not self.name.startswith("file://"):
            import fsspec

            self._remote, self._root = fsspec.core.url_to_fs(self.name)
        self._path = Path(self.name.removeprefix("file://"))

    @property
    def remote(self) -> bool:
        """It is not a local directory."""
        return self._remote is not None

    def check_writable(self, what: str) -> None:
        """Say now what would otherwise end a run when its first unit is done; nothing is made.

        Args:
            what: the kind of run, for the message.

        Raises:
            OSError: there is a file in the way, or nothing may be written there.
        """
        if self._remote is not None:
            return
        nearest = next((path for path in (self._path, *self._path.absolute().parents) if path.exists()), self._path)
        if not nearest.is_dir():
            raise NotADirectoryError(f"{self.name} cannot hold {what}: {nearest} is not a directory")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.name} cannot hold {what}: {nearest} may not be written to")

    # --- files --------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        try:
            return (self._path / name).read_bytes() if self._remote is None else self._remote.cat_file(f"{self._root}/{name}")
        except (FileNotFoundError, NotADirectoryError):  # where a file is in the way, writing says so
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole: by renaming locally, in one request elsewhere.

        Raises:
            OSError: it cannot be written; the message names it.
        """
        try:
            if self._remote is None:
                write_atomically(self._path / name, content)
            else:
                self._remote.pipe_file(f"{self._root}/{name}", content)
        except OSError as error:
            message = f"{self.path_of(name)} cannot be written ({error}): give out= a folder with room that may be written to"
            raise OSError(error.errno, message) from error

    def save(self, name: str, save: Callable[[Path], object]) -> None:
        """Write a file as `write` does, with what a function that takes a path writes."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / PurePosixPath(name).name
            save(path)
            self.write(name, path.read_bytes())

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A path at which a file can be read: its own, or that of a copy while the context lasts.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self._remote is None:
            yield self._path / name
            return
        content = self.read(name)
        if content is None:
            raise FileNotFoundError(f"{self.path_of(name)} does not exist")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / PurePosixPath(name).name
            path.write_bytes(content)
            yield path

    def unit_files(self) -> set[str]:
        """Names of the files in the folder of the units, without what was left half-written."""
        if self._remote is None:
            found = [path.name for path in (self._path / self.units).glob("*.*")]
        else:
            folder = f"{self._root}/{self.units}"
            listed = self._remote.ls(folder, detail=False) if self._remote.exists(folder) else []
            found = [str(name).rsplit("/", 1)[-1] for name in listed]
        return {name for name in found if not name.startswith(".")}

    def path_of(self, name: str) -> str:
        """A file as messages name it."""
        return f"{self.name.rstrip('/')}/{name}"

    def tidy(self, *names: str) -> None:
        """Remove what processes killed long ago have left half-written. Elsewhere than locally nothing is ever left.

        Args:
            names: patterns of the files whose temporary ones are meant, such as "cells/*.json".
        """
        if self._remote is not None:
            return
        found = [
            path
            for folder, _, pattern in (name.rpartition("/") for name in (MANIFEST, *names))
            for path in (self._path / folder).glob(f".{pattern}.*")
        ]
        now = self._time() if found else None
        for path in found:
            with suppress(FileNotFoundError):  # its process lives, and has renamed it
                if now is not None and now - path.stat().st_mtime > STALE:
                    path.unlink()

    def _time(self) -> float | None:
        """Now, by the clock that dates the folder's files, which may not be this machine's; None if nothing may be written."""
        try:
            with tempfile.NamedTemporaryFile(dir=self._path, prefix=".clock.") as probe:
                return os.fstat(probe.fileno()).st_mtime
        except OSError:
            return None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """While it lasts, no other process is in here: for what is read, changed and written. Elsewhere than locally nothing
        keeps others out."""
        if self._remote is not None:
            yield
            return
        self._path.mkdir(parents=True, exist_ok=True)
        with (self._path / LOCK).open("ab") as file:
            _lock(file.fileno())
            yield  # closing unlocks, as does the death of the process

    # --- the manifest -------------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        """What `write_manifest` wrote; None where no run has begun.

        Raises:
            ManifestError: it cannot be read; the message says why, and the caller what to do.
            ValueError: there is none, and units are done, of which nobody knows what they are made from.
        """
        content = self.read(MANIFEST)
        if content is None:
            if self.unit_files():
                raise ValueError(
                    f"{self.name} holds {self.units} but no {MANIFEST} that says what they are made from: put a copy of it "
                    "back, or give another folder"
                )
            return None
        try:
            manifest = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{type(error).__name__}: {error}") from error
        if not isinstance(manifest, dict):
            raise ManifestError(f"it holds a {type(manifest).__name__}, not values by name")
        return manifest

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write what the run is begun with, as JSON values in their order.

        Raises:
            OSError: it cannot be written.
        """
        self.write(MANIFEST, json.dumps(manifest, indent=1).encode())


def _lock(file: int) -> None:
    """Wait until no other has locked the file, and lock it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_LOCK, 1)  # pyright: ignore[reportAttributeAccessIssue] - there on Windows only
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: as before there were any
        return


class ManifestError(ValueError):
    """A manifest that cannot be read."""


class Change(NamedTuple):
    """What differs between two runs."""

    name: str
    """"judge"; "model weights" for a part of what both have as a mapping."""
    before: Any
    now: Any


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Where what a run was begun with differs from what it would go on with; what is missing counts as None.

    Args:
        before: as read from a manifest.
        now: of the same names, not yet turned into JSON.
    """
    now = json.loads(json.dumps(now))
    found = []
    for name in dict.fromkeys((*now, *before)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            parts = sorted(part for part in {*old, *new} if old.get(part) != new.get(part))
            found += [Change(f"{name} {part}", old.get(part), new.get(part)) for part in parts]
        elif old != new:
            found.append(Change(name, old, new))
    return found
