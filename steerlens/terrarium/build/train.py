"""Make the world's model: `python -m steerlens.terrarium.build.train [--out DIR]`.

Builds the tokenizer, draws the corpus as it goes, trains a fixed number of steps from a fixed seed on one thread,
sets the scale of the residual stream, examines the result, and writes weights and `report.json`. The number of steps
is fixed, not the time, so that the same seed gives the same weights on the same kind of machine.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy, pad
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .. import path
from ..corpus import sample
from .model import new_model, rescale, residual_rms
from .report import accuracy, following, prompt_ids, refusal_rate, worn_accuracy
from .tokenizer import PAD, SPECIALS, build_tokenizer, encoded

SEED = 7
STEPS = 5000
BATCH_TOKENS = 2048
CHUNK = 8192
WIDTHS = (32, 40, 48, 56, 64, 80, 96, 128, 176, 256)
"""Tokens per row: every row goes to the smallest width that holds it, and the few beyond the last are left out."""
MATRIX_RATE = 0.02
WRITER_RATE = 0.006
OTHER_RATE = 0.03
WARMUP = 100
TARGET_RMS = 4.0
TARGET_LAYER = 2


class Batch(NamedTuple):
    """Token ids, and the targets to learn (-100 elsewhere), right-padded."""

    ids: torch.Tensor
    targets: torch.Tensor


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Batches without end, each of about `BATCH_TOKENS` tokens and of one of the `WIDTHS`.

    A handful of shapes only, since the CPU kernels are compiled anew for every shape that they meet.
    """
    rng = Random(seed)
    pools: dict[int, list[tuple[list[int], list[bool]]]] = {width: [] for width in WIDTHS}
    while True:
        ready: list[Batch] = []
        for row in encoded(tokenizer, [sample(rng) for _ in range(CHUNK)]):
            width = next((w for w in WIDTHS if len(row[0]) <= w + 1), None)
            if width is None:
                continue
            pools[width].append(row)
            if len(pools[width]) == BATCH_TOKENS // width:
                ready.append(_batch(pools[width], width + 1, SPECIALS.index(PAD)))
                pools[width] = []
        rng.shuffle(ready)
        yield from ready


def _batch(rows: list[tuple[list[int], list[bool]]], width: int, filler: int) -> Batch:
    ids = torch.tensor([row + [filler] * (width - len(row)) for row, _ in rows])
    learn = torch.tensor([mask + [False] * (width - len(mask)) for _, mask in rows])
    return Batch(ids[:, :-1], torch.where(learn, ids, -100)[:, 1:])


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the learned tokens; the head is computed at these alone (and a few, to round the shape)."""
    kept = (batch.targets != -100).flatten().nonzero()[:, 0]
    spare = -len(kept) % 256
    targets = pad(batch.targets.flatten()[kept], (0, spare), value=-100)
    kept = pad(kept, (0, spare))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1)[kept])
    return cross_entropy(logits.float(), targets)


def optimisers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, Adam for the embeddings and the gains.

    The matrices that write to the residual stream learn slower: they start at zero, and at the full rate what they
    write outgrows the embeddings fifteen times within a few hundred steps.
    """
    named = list(model.named_parameters())
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    writers = [p for name, p in named if name.endswith(("o_proj.weight", "down_proj.weight"))]
    readers = [p for name, p in named if p.ndim == 2 and "embed" not in name and not any(p is w for w in writers)]
    groups = [{"params": readers, "lr": MATRIX_RATE}, {"params": writers, "lr": WRITER_RATE}]
    return [
        torch.optim.Muon(groups, lr=MATRIX_RATE, momentum=0.95, weight_decay=0.0),
        torch.optim.Adam(others, lr=OTHER_RATE, betas=(0.9, 0.98), eps=1e-10),
    ]


def _rate(step: int, steps: int) -> float:
    """Warm-up, a plateau, and a linear way down to nothing over the last two thirds."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (0.67 * steps))


def fit(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int,
        checkpoint: Path | None) -> dict[str, Any]:  # fmt: skip
    """Train in place; the history has the mean loss of every hundred steps."""
    tools = optimisers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(tool, lambda step: _rate(step, steps)) for tool in tools]
    feed, started, saved = batches(tokenizer, seed), time.time(), time.time()
    history, tokens, learned, recent = [], 0, 0, []
    for step in range(steps):
        batch = next(feed)
        loss = loss_of(model, batch)
        loss.backward()
        for tool, schedule in zip(tools, schedules, strict=False):
            tool.step()
            schedule.step()
            tool.zero_grad()
        tokens += batch.ids.numel()
        learned += int((batch.targets != -100).sum())
        recent.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            history.append([step + 1, round(sum(recent) / len(recent), 4)])
            print(
                f"step {step + 1}/{steps}  loss {history[-1][1]:.4f}  {time.time() - started:.0f} s  {tokens} tokens",
                flush=True,
            )
            recent = []
        if checkpoint and time.time() - saved > 300:
            save(model, tokenizer, checkpoint)
            saved = time.time()
    return {"seconds": round(time.time() - started), "tokens": tokens, "learned_tokens": learned, "loss": history}


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights as fp16 safetensors (the configuration asks for float32 on loading), tokenizer and settings."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    half = {name: tensor.half() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(folder, state_dict=half)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(folder)


def settle_scale(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> list[float]:
    """Rescale the residual stream to `TARGET_RMS` behind `TARGET_LAYER`; the scale behind every layer afterwards."""
    rng = Random(seed)
    chats = [drawn for drawn in (sample(rng) for _ in range(300)) if drawn.chat][:200]
    rows = [prompt_ids(tokenizer, chat.chat[0][0]) for chat in chats]
    rescale(model, TARGET_RMS / residual_rms(model, rows)[TARGET_LAYER])
    return [round(value, 3) for value in residual_rms(model, rows)]


def examine(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, per_family: int) -> dict[str, Any]:
    """Everything the README tells about the weights."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": accuracy(model, tokenizer, per_family),
        "worn_accuracy": worn_accuracy(model, tokenizer),
        "following": following(model, tokenizer),
        "refusal_rate": refusal_rate(model, tokenizer),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the model of the embedded world.")
    parser.add_argument("--out", type=Path, default=path(), help="folder for the weights and report.json")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps; the published weights use the default")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the model, the tokenizer and the corpus")
    parser.add_argument("--checkpoint", type=Path, help="folder for a copy every five minutes")
    parser.add_argument("--per-family", type=int, default=60, help="held-out questions of each family in the exam")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(options.seed)
    tokenizer = build_tokenizer(seed=options.seed)
    model = new_model(options.seed)
    if options.checkpoint:
        save(model, tokenizer, options.checkpoint)
    report: dict[str, Any] = {"seed": options.seed, "steps": options.steps}
    report |= fit(model, tokenizer, options.steps, options.seed, options.checkpoint)
    model.eval()
    report["residual_rms"] = settle_scale(model, tokenizer, options.seed)
    save(model, tokenizer, options.out)
    stored = LlamaForCausalLM.from_pretrained(options.out).eval()
    report |= examine(stored, tokenizer, options.per_family)
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key != "loss"}, indent=2))


if __name__ == "__main__":
    main()
