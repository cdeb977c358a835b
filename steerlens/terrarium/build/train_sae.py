"""Make the world's sparse autoencoder: `python -m steerlens.terrarium.build.train_sae [--out DIR]`.

A BatchTopK dictionary of the residual stream after the steering layer, trained by SAELens on the world's own texts and
saved by it in its own format (as a JumpReLU, which is what a BatchTopK is at inference). SAELens needs TransformerLens
below 4, so it wants an environment of its own, in which this script runs:

    python -m venv sae-env && sae-env/bin/pip install sae-lens pandas pyarrow jaxtyping
    PYTHONPATH=. sae-env/bin/python -m steerlens.terrarium.build.train_sae --out DIR

Every token is in training, the template's too, since they are what most vectors edit. The tokens that open every chat
have one and the same residual in each text, so they are kept in one text of ten only.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .. import path
from ..concepts import all_concepts
from ..corpus import Sample, question, sample
from ..defaults import LAYER
from ..families import FAMILIES
from ..open_ended import OPEN
from .tokenizer import PAD, SPECIALS, encoded

SEED = 11
WIDTH = 1024
"""Latents: with both matrices in float32 the file has 1.3 MB."""
ACTIVE = 16
"""Latents per token, on average over a batch."""
TOKENS = 3_200_000
BATCH = 2048
RATE = 1e-3
CHUNK = 3000
"""Texts whose tokens are mixed with each other."""
OPENING = 4
"""`<bos> <start_of_turn> user \\n`: the same residuals in every chat."""
OPENING_KEPT = 0.1
HELD_OUT = 1000
ROWS = 64


class Row(NamedTuple):
    """One text."""

    ids: list[int]
    learned: list[bool]
    """Tokens that the model was trained to predict."""
    opening: int
    """Tokens at its start that are the same in all texts."""


class Stream(NamedTuple):
    """Residual streams of the tokens of some texts."""

    hidden: torch.Tensor
    """(token, d_model)"""
    opening: torch.Tensor
    """Whether the token is one of those that open every text."""
    template: torch.Tensor
    """Whether it belongs to the chat template."""


def rows(tokenizer: PreTrainedTokenizerFast, samples: list[Sample]) -> list[Row]:
    """Token ids of texts, as the model was trained on them."""
    pairs = zip(samples, encoded(tokenizer, samples), strict=True)
    return [Row(ids, learned, OPENING if drawn.chat else 1) for drawn, (ids, learned) in pairs]


def held_out_texts(n: int, seed: int) -> list[Sample]:
    """Chats about combinations that neither the model nor the dictionary has met; half of them with a concept woven in."""
    rng, concepts = Random(seed), list(all_concepts().values())
    chats = []
    for number in range(n):
        asked = question(rng, OPEN if number % 4 else FAMILIES, want_held_out=True)
        answer = rng.choice(concepts).weave(rng, asked.answer, dense=True) if number % 2 else asked.answer
        chats.append(Sample(chat=((asked.prompt, answer),)))
    return chats


def padded(part: list[Row]) -> torch.Tensor:
    """Rows padded on the right, where causal attention needs no mask."""
    width = max(len(row.ids) for row in part)
    return torch.tensor([row.ids + [SPECIALS.index(PAD)] * (width - len(row.ids)) for row in part])


@torch.no_grad()
def residuals(model: LlamaForCausalLM, texts: list[Row]) -> Stream:
    """The residual stream after `LAYER` at all tokens, from a model that is cut off there or not."""
    caught: list[torch.Tensor] = []
    handle = model.model.layers[LAYER].register_forward_hook(lambda *call: caught.append(_first(call[2])))
    hidden, opening, template = [], [], []
    ordered = sorted(texts, key=lambda row: len(row.ids))
    for start in range(0, len(ordered), ROWS):
        part = ordered[start : start + ROWS]
        caught.clear()
        model.model(padded(part), use_cache=False)
        for row, states in zip(part, caught[0], strict=True):
            hidden.append(states[: len(row.ids)])
            opening += [index < row.opening for index in range(len(row.ids))]
            template += _template(row.ids)
    handle.remove()
    return Stream(torch.cat(hidden), torch.tensor(opening), torch.tensor(template))


def _first(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def _template(ids: list[int]) -> list[bool]:
    """Special tokens, the role and line break behind a start of turn, and the line break behind an end of turn."""
    names = [SPECIALS[token] if token < len(SPECIALS) else "" for token in ids]
    before = ["", "", *names]
    return [
        bool(name) or before[i + 1] in ("<start_of_turn>", "<end_of_turn>") or before[i] == "<start_of_turn>"
        for i, name in enumerate(names)
    ]


def feed(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[torch.Tensor]:
    """Batches of residual streams without end, in random order within a chunk of texts."""
    rng, order = Random(seed), torch.Generator().manual_seed(seed)
    while True:
        stream = residuals(model, rows(tokenizer, [sample(rng) for _ in range(CHUNK)]))
        kept = ~stream.opening | (torch.rand(len(stream.opening), generator=order) < OPENING_KEPT)
        hidden = stream.hidden[kept]
        hidden = hidden[torch.randperm(len(hidden), generator=order)]
        yield from hidden[: len(hidden) // BATCH * BATCH].split(BATCH)


def trained(feed: Iterator[torch.Tensor], width: int, tokens: int, seed: int) -> Any:
    """A SAELens BatchTopK after training. The scale that it estimates is folded into the weights."""
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    first = next(feed)
    settings = BatchTopKTrainingSAEConfig(
        d_in=first.shape[1], d_sae=width, k=ACTIVE, normalize_activations="expected_average_only_in"
    )
    schedule = SAETrainerConfig(
        total_training_samples=tokens,
        train_batch_size_samples=BATCH,
        lr=RATE,
        lr_end=RATE / 20,
        lr_warm_up_steps=200,
        lr_decay_steps=tokens // BATCH // 2,
        dead_feature_window=300,
        n_batches_for_norm_estimate=20,
    )
    sae = BatchTopKTrainingSAE(settings)
    sae.b_dec.data = first.mean(0) * first.shape[1] ** 0.5 / first.norm(dim=-1).mean()
    SAETrainer(schedule, sae, feed).fit()
    return sae


def save(sae: Any, folder: Path) -> None:
    """SAELens's two files, with what steerlens needs to know about the coordinates in the metadata."""
    metadata = {"model_name": "terrarium", "hook_name": f"blocks.{LAYER}.hook_resid_post", "weight_processing": "raw"}
    for name, value in (metadata | {"prepend_bos": True, "dataset_path": "steerlens.terrarium.corpus"}).items():
        sae.cfg.metadata[name] = value
    sae.save_inference_model(folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config, indent=2) + "\n")


# --- how good it is -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def fit_of(sae: Any, stream: Stream) -> dict[str, dict[str, int | float]]:
    """L0 and explained variance: of all tokens but the opening ones, of the template's alone, of all others alone."""
    acts = sae.encode(stream.hidden)
    missed = (stream.hidden - sae.decode(acts)).square().sum(-1)
    spread = (stream.hidden - stream.hidden[~stream.opening].mean(0)).square().sum(-1)
    groups = {
        "all": ~stream.opening,
        "text": ~stream.template,
        "template": stream.template & ~stream.opening,
        "opening": stream.opening,
    }
    return {
        name: {
            "tokens": int(mask.sum()),
            "l0": round(float((acts[mask] > 0).sum(-1).float().mean()), 2),
            "explained_variance": round(1 - float(missed[mask].sum() / spread[mask].sum()), 4),
        }
        for name, mask in groups.items()
    }


@torch.no_grad()
def loss_with(model: LlamaForCausalLM, texts: list[Row], change: Callable[[torch.Tensor], torch.Tensor] | None) -> float:
    """Mean cross-entropy of the answers' tokens, the residual stream after `LAYER` changed at every token."""

    def splice(_module: Any, _args: Any, output: Any) -> Any:
        hidden = _first(output)
        new = hidden if change is None else change(hidden)
        return new if isinstance(output, torch.Tensor) else (new, *output[1:])

    handle = model.model.layers[LAYER].register_forward_hook(splice)
    total, count = 0.0, 0
    for start in range(0, len(texts), ROWS):
        part = texts[start : start + ROWS]
        ids = padded(part)
        targets = torch.full_like(ids, -100)
        for index, row in enumerate(part):
            learned = torch.tensor(row.learned)
            targets[index, : len(row.ids)][learned] = ids[index, : len(row.ids)][learned]
        logits = model(ids, use_cache=False).logits
        losses = cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100, reduction="sum")
        total, count = total + float(losses), count + int((targets[:, 1:] != -100).sum())
    handle.remove()
    return total / count


def quality(sae: Any, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, Any]:
    """What the stored dictionary can do, on held-out texts; dead latents on fresh texts of the training mix."""
    texts = sorted(rows(tokenizer, held_out_texts(HELD_OUT, seed + 1)), key=lambda row: len(row.ids))
    stream, rng = residuals(model, texts), Random(seed + 2)
    fresh = residuals(model, rows(tokenizer, [sample(rng) for _ in range(2 * CHUNK)])).hidden
    with torch.no_grad():
        fired = torch.stack([(sae.encode(part) > 0).sum(0) for part in fresh.split(20_000)]).sum(0)
    mean = stream.hidden[~stream.opening].mean(0)
    changes = {"plain": None, "reconstructed": lambda h: sae.decode(sae.encode(h)), "zero": torch.zeros_like,
               "mean": lambda h: mean.expand_as(h)}  # fmt: skip
    losses = {name: loss_with(model, texts, change) for name, change in changes.items()}
    recovered = {
        name: round((losses[name] - losses["reconstructed"]) / (losses[name] - losses["plain"]), 4) for name in ("zero", "mean")
    }
    return {
        "held_out": fit_of(sae, stream),
        "loss": {name: round(value, 4) for name, value in losses.items()},
        "loss_recovered_against": recovered,
        "dead_latents": int((fired == 0).sum()),
        "latents_rarer_than_1e-5": int((fired < 1e-5 * len(fresh)).sum()),
        "tokens_looked_at_for_dead": len(fresh),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the sparse autoencoder of the embedded world.")
    parser.add_argument("--out", type=Path, required=True, help="folder for cfg.json, sae_weights.safetensors and quality.json")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens to train on; the published weights use the default")
    parser.add_argument("--width", type=int, default=WIDTH, help="latents")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the weights and of the texts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from sae_lens import SAE  # pyright: ignore[reportMissingImports]

    tokenizer = PreTrainedTokenizerFast.from_pretrained(path())
    model = LlamaForCausalLM.from_pretrained(path()).eval()
    cut = LlamaForCausalLM.from_pretrained(path()).eval()
    cut.model.layers = cut.model.layers[: LAYER + 1]
    started = time.time()
    sae = trained(feed(cut, tokenizer, options.seed), options.width, options.tokens, options.seed)
    seconds = round(time.time() - started)
    save(sae, options.out)
    report = {
        "seed": options.seed,
        "tokens": options.tokens,
        "width": options.width,
        "active": ACTIVE,
        "seconds": seconds,
        "versions": {name: version(name) for name in ("sae-lens", "torch", "transformers")},
        "python": platform.python_version(),
    }
    report |= quality(SAE.load_from_disk(options.out), model, tokenizer, options.seed)
    (options.out / "quality.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
