"""Models and tokens of the benchmarks of speed and memory: the Gemma 2 architecture with random weights, in several sizes."""

import tempfile
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

import steerlens
from steerlens.model.batches import EncodedExample


class Shape(NamedTuple):
    """A model and how much it is given to do."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    """Of queries; there are half as many of keys and values."""
    head_dim: int
    layer: int
    """The block whose output is edited."""
    dtype: torch.dtype
    rows: int
    """Of a training step."""
    prompt: int
    """Tokens."""
    response: int
    """Tokens of what is trained on."""
    prompts: int
    """To generate from, and vectors to evaluate."""
    new_tokens: int
    evaluated_tokens: int
    """Of each response that is judged."""


SHAPES = {
    "tiny": Shape(300, 32, 64, 4, 2, 16, 1, torch.float32, 3, 6, 5, 3, 4, 3),
    "cpu": Shape(32_000, 512, 2048, 13, 8, 64, 5, torch.float32, 12, 20, 100, 16, 128, 32),
    "gemma2b": Shape(256_000, 2304, 9216, 26, 8, 256, 10, torch.bfloat16, 12, 20, 128, 16, 128, 16),
}


def config(shape: Shape) -> Gemma2Config:
    return Gemma2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads // 2,
        head_dim=shape.head_dim,
        query_pre_attn_scalar=shape.head_dim,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def plain_model(shape: Shape, device: str, attention: str | None = "eager") -> Gemma2ForCausalLM:
    """The same frozen weights each time; `attention=None` leaves the choice to Hugging Face."""
    torch.manual_seed(0)
    chosen = {} if attention is None else {"attn_implementation": attention}
    with torch.device(device):
        model = Gemma2ForCausalLM._from_config(config(shape), dtype=shape.dtype, **chosen)
    model.generation_config.eos_token_id = None
    return model.eval().requires_grad_(False)


def bridge_model(shape: Shape, device: str) -> Any:
    """Those weights as steerlens loads them, with a tokenizer of words w3, w4, ..., one token each."""
    words = ["<pad>", "<bos>", "<eos>", *(f"w{number}" for number in range(3, shape.vocabulary))]
    inner = Tokenizer(models.WordLevel({name: number for number, name in enumerate(words)}, unk_token="<eos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    with tempfile.TemporaryDirectory() as folder:
        fast.save_pretrained(folder)
        loaded = AutoTokenizer.from_pretrained(folder)
        bridge = steerlens.load_model(
            "random-gemma-2", hf_model=plain_model(shape, device), tokenizer=loaded, dtype=shape.dtype, device=device
        )
    bridge.original_model.requires_grad_(False)
    return bridge


def examples(shape: Shape, n: int | None = None) -> list[EncodedExample]:
    """Random rows, all of one length; `n=None` = those of a training step."""
    draw = torch.Generator().manual_seed(1)
    size = (shape.rows if n is None else n, shape.prompt + shape.response)
    drawn = torch.randint(3, shape.vocabulary, size, generator=draw)
    drawn[:, 0] = 1
    return [EncodedExample(tuple(row[: shape.prompt]), tuple(row[shape.prompt :])) for row in drawn.tolist()]


def directions(shape: Shape, n: int) -> torch.Tensor:
    """Random directions (n, width) of a size that changes what is said."""
    return torch.randn(n, shape.width, generator=torch.Generator().manual_seed(3))
