"""The folder of a run: files whole or not there, here and on other file systems; a manifest; what differs between two runs."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from steerlens.run_folder import Change, ManifestError, RunFolder, changes


@pytest.fixture(params=["here", "elsewhere"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunFolder]:
    if request.param == "here":
        yield RunFolder(tmp_path / "run", units="cells")
        return
    fsspec = pytest.importorskip("fsspec")
    yield RunFolder("memory://run-folder", units="cells")
    fsspec.filesystem("memory").rm("/run-folder", recursive=True)


def test_what_is_written_is_read_and_listed(folder: RunFolder) -> None:
    assert folder.read("cells/a.json") is None and folder.unit_files() == set()
    folder.check_writable("a run")
    for content in (b"1", b"22"):
        folder.write("cells/a.json", content)
        assert folder.read("cells/a.json") == content
    folder.save("cells/b.bin", lambda path: path.write_bytes(b"333"))
    with folder.local("cells/b.bin") as path:
        assert path.read_bytes() == b"333" and path.name == "b.bin"
    folder.write("cells/.c.json.abc", b"half")
    folder.write("other.json", b"x")
    assert folder.unit_files() == {"a.json", "b.bin"}
    with pytest.raises(FileNotFoundError), folder.local("cells/none.bin") as path:
        path.read_bytes()


def test_the_manifest_is_there_or_missed_or_damaged(folder: RunFolder) -> None:
    folder.tidy("cells/*.json")
    assert folder.manifest() is None
    folder.write("cells/a.json", b"1")
    with pytest.raises(ValueError, match=r"holds cells but no manifest\.json that says what they are made from: put a copy"):
        folder.manifest()
    folder.write_manifest({"b": 1, "a": [2.5, None]})
    found = folder.manifest()
    assert found is not None and list(found.items()) == [("b", 1), ("a", [2.5, None])]
    for content, words in (
        (b"", "JSONDecodeError"),
        (b"{", "JSONDecodeError"),
        (b"[1]", "it holds a list"),
        (b"\xff", "Unicode"),
    ):
        folder.write("manifest.json", content)
        with pytest.raises(ManifestError, match=words):
            folder.manifest()


def test_what_was_left_half_written_long_ago_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, units="cells")
    folder.write("cells/a.json", b"1")
    stale = [tmp_path / name for name in (".manifest.json.abc", "cells/.a.json.abc", "cells/.b.bin.abc")]
    kept = [tmp_path / name for name in (".note.txt.abc", "cells/.c.txt.abc", "cells/a.json", "cells/.d.json.new")]
    for path in (*stale, *kept):
        path.write_text("{")
        os.utime(path, None if path.name == ".d.json.new" else (0, 0))
    folder.tidy("cells/*.json", "cells/*.bin")
    assert not [path for path in stale if path.exists()]
    assert [path for path in kept if path.exists()] == kept


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("file", "file/inner"):
        folder = RunFolder(tmp_path / name, units="cells")
        with pytest.raises(NotADirectoryError, match=rf"{name} cannot hold a run: .*file is not a directory"):
            folder.check_writable("a run")
        assert folder.read("manifest.json") is None
        with pytest.raises(OSError, match=rf"{name}/manifest\.json cannot be written .*give out= a folder with room"):
            folder.write_manifest({})


def test_what_differs_is_told_part_by_part() -> None:
    before = json.loads(json.dumps({"seed": 1, "model": {"name": "a", "layers": 2}, "config": None, "old": 3, "pair": (1, 2)}))
    same = {"pair": (1, 2), "seed": 1, "model": {"layers": 2, "name": "a"}, "config": None, "old": 3, "new": None}
    assert changes(before, same) == []
    now = {"seed": 2, "model": {"name": "b", "dtype": "x", "layers": 2}, "config": {"epochs": 1}, "pair": [1, 2]}
    assert changes(before, now) == [
        Change("seed", 1, 2),
        Change("model dtype", None, "x"),
        Change("model name", "a", "b"),
        Change("config", None, {"epochs": 1}),
        Change("old", 3, None),
    ]
