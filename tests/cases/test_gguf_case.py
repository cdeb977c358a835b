"""Case 19: GGUF files, by themselves or in a folder, and dtypes as text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from smollm2 import smollm2
from tiny import TEMPLATE

import steerlens
from steerlens.model.identity import identity

LAYERS, WIDTH, INNER, HEADS, VOCABULARY = 2, 64, 96, 4, 260


def write_gguf(path: Path) -> Path:
    """A small Llama with random weights and a tokenizer of bytes."""
    gguf = pytest.importorskip("gguf", reason="the package gguf (extra gguf) is not installed")
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<bos>", "<eos>", "<pad>", *bytes_to_unicode().values(), "ab"])
    writer.add_token_types([3] * 3 + [1] * 257)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = np.ones(shape) if len(shape) == 1 else rng.normal(0, 0.25, shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    add("token_embd", VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{layer}.{name}", INNER, WIDTH)
        add(f"blk.{layer}.ffn_down", WIDTH, INNER)
    add("output_norm", WIDTH)
    add("output", VOCABULARY, WIDTH)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def plain(path: Path) -> Any:
    """The same file by Hugging Face alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, attn_implementation="eager").eval()


@pytest.mark.parametrize("way", ["file", "text", "folder"])
def test_case_19_a_gguf_file_or_a_folder_of_them(way: str, path: Path, plain: Any) -> None:
    given: dict[str, Any] = {"file": {"name_or_path": path}, "text": {"name_or_path": str(path)}}.get(way) or {
        "name_or_path": path.parent,
        "gguf_file": path.name,
    }
    model = steerlens.load_model(device="cpu", **given)
    tokens = torch.tensor([[0, 40, 41, 42]])
    with torch.no_grad():
        assert torch.allclose(model.original_model(tokens).logits, plain(tokens).logits, atol=1e-4)
    sv = steerlens.SteeringVector(torch.ones(WIDTH), 1.0, 1, positions="p2+s2")
    assert [edit.layer for edit in steerlens.audit(model, "Hi", sv, max_new_tokens=2).edits] == [1] * 4
    assert model.cfg.n_layers == LAYERS


def test_case_19_a_folder_says_what_it_holds(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config.json; it has tiny.gguf: pass gguf_file="):
        steerlens.load_model(path.parent)
    with pytest.raises(FileNotFoundError, match=r"holds no other.gguf; it has tiny.gguf"):
        steerlens.load_model(path.parent, gguf_file="other.gguf")
    with pytest.raises(ValueError, match="is a model already"):
        steerlens.load_model(path, gguf_file=path.name)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        steerlens.load_model("nowhere/x.gguf")


def test_case_19_the_file_belongs_to_the_name(path: Path, tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).write_bytes(path.read_bytes())
    names = [
        identity(steerlens.load_model(tmp_path, gguf_file=name, device="cpu"))["model_name"]
        for name in ("one.gguf", "two.gguf")
    ]
    assert names == [str(tmp_path / "one.gguf"), str(tmp_path / "two.gguf")]
    assert identity(steerlens.load_model(tmp_path / "one.gguf", device="cpu"))["model_name"] == names[0]


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_case_19_truncated_files(path: Path, tmp_path: Path, kept: float) -> None:
    content = path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * kept)])
    (tmp_path / "text.gguf").write_text("hello")
    for name in ("cut.gguf", "text.gguf"):
        with pytest.raises(ValueError, match=rf"{name}: a damaged or truncated GGUF file, or none"):
            steerlens.load_model(tmp_path / name, device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_case_19_dtypes_as_text(dtype: Any, path: Path) -> None:
    for name in ("terrarium", path):
        model = steerlens.load_model(name, dtype=dtype, device="cpu")
        assert {parameter.dtype for parameter in model.original_model.parameters()} == {torch.bfloat16}
        assert model.cfg.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["int8", "float", "half precision", "", "nn", "long", "bool", "float8_e4m3fn"])
def test_case_19_what_is_no_dtype_to_run_in(dtype: str) -> None:
    if dtype == "float":  # another name of float32
        assert steerlens.load_model("terrarium", dtype=dtype).cfg.dtype == torch.float32
        return
    with pytest.raises(ValueError, match=r'dtype .* is unknown; use "float32", "bfloat16" or "float16"'):
        steerlens.load_model("terrarium", dtype=dtype)


@pytest.mark.slow
def test_case_19_smollm2() -> None:
    model = steerlens.load_model(smollm2(), dtype="bfloat16", device="cpu")
    assert model.cfg.dtype == torch.bfloat16
    assert "Paris" in steerlens.generate(model, "What is the capital of France?", temperature=0, max_new_tokens=12)[0]
