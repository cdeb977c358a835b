"""What a person would write by hand around a frozen Hugging Face model, to compare with.

naive     a PyTorch hook on the edited block, the whole sequence through all blocks, logits of every token
plain     the same with logits of the response alone
floor     the residual stream at the edited block kept, only the blocks above it run, logits of the response alone
pyvene    the naive step through pyvene
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from shapes import Shape
from torch import Tensor
from transformers import Gemma2ForCausalLM

from steerlens.model.batches import EncodedExample
from steerlens.training import scaling
from steerlens.training.setup import Run

Loss = Callable[[Callable[[], Tensor]], Tensor]
"""The vector to add -> the mean loss over response tokens."""


@dataclass
class Step:
    """A training step of one vector up to its gradient, by hand."""

    loss: Loss
    direction: Tensor
    factor: Tensor

    def __call__(self) -> tuple[float, Tensor]:
        """The loss, and the gradient of direction and factor as one row."""
        loss = self.loss(lambda: self.factor * self.direction)
        gradient = torch.autograd.grad(loss, [self.direction, self.factor])
        return float(loss.detach()), torch.cat([part.flatten() for part in gradient])


def step(loss: Loss, direction: Tensor, factor: float) -> Step:
    return Step(loss, direction.clone().requires_grad_(), torch.tensor(factor, device=direction.device, requires_grad=True))


def ids(shape: Shape, examples: Sequence[EncodedExample], device: str) -> Tensor:
    return torch.tensor([example.prompt + example.response for example in examples], device=device)


def edited_columns(shape: Shape) -> list[int]:
    """p2+s2 of prompts that are all of one length."""
    return [0, 1, shape.prompt - 2, shape.prompt - 1]


def add(hidden: Tensor, vector: Tensor) -> Tensor:
    """The sum in float32, rounded once."""
    return (hidden.float() + vector).to(hidden.dtype)


def add_at(columns: Sequence[int], hidden: Tensor, vector: Tensor) -> Tensor:
    edited = hidden.clone()
    edited[:, columns] = add(hidden[:, columns], vector)
    return edited


@contextmanager
def hook(model: Any, layer: int, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """An edit of a block's output."""

    def act(_module: Any, _inputs: Any, output: Any) -> Any:
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    handle = model.model.layers[layer].register_forward_hook(act)
    try:
        yield
    finally:
        handle.remove()


# --- a training step -----------------------------------------------------------------------------------------------------


def whole_loss(model: Gemma2ForCausalLM, shape: Shape, tokens: Tensor, *, all_logits: bool) -> Loss:
    """The naive loss, or the plain one."""
    keep, first = (0, shape.prompt - 1) if all_logits else (shape.response + 1, 0)

    def loss(vector: Callable[[], Tensor]) -> Tensor:
        with hook(model, shape.layer, lambda hidden: add_at(edited_columns(shape), hidden, vector())):
            logits = model(tokens, use_cache=False, logits_to_keep=keep).logits
        return _mean_loss(logits[:, first:-1], tokens[:, shape.prompt :])

    return loss


def floor_loss(model: Gemma2ForCausalLM, shape: Shape, tokens: Tensor) -> Loss:
    """The least that has to be run."""
    kept: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        kept.append(hidden)
        return hidden

    with torch.no_grad(), hook(model, shape.layer, keep):
        model(tokens, use_cache=False, logits_to_keep=1)
    positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    rotary = model.model.rotary_emb(kept[0], positions)
    lowest = torch.full((tokens.shape[1],) * 2, torch.finfo(shape.dtype).min, dtype=shape.dtype, device=tokens.device)
    mask, cap = lowest.triu(1)[None, None], model.config.final_logit_softcapping
    assert cap is not None

    def loss(vector: Callable[[], Tensor]) -> Tensor:
        hidden: Any = add_at(edited_columns(shape), kept[0], vector())
        for block in model.model.layers[shape.layer + 1 :]:
            hidden = block(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary, use_cache=False)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        states = model.model.norm(hidden)[:, shape.prompt - 1 : -1]
        return _mean_loss(torch.tanh(model.lm_head(states) / cap) * cap, tokens[:, shape.prompt :])

    return loss


def pyvene() -> Any:
    """The package, or None where it is not installed."""
    try:
        return importlib.import_module("pyvene")
    except ImportError:
        return None


def pyvene_loss(pv: Any, model: Gemma2ForCausalLM, shape: Shape, tokens: Tensor) -> Loss:
    """The naive loss of a model that pyvene may put its hooks on."""
    now: dict[str, Callable[[], Tensor]] = {}

    class Added(pv.SourcelessIntervention, pv.TrainableIntervention, pv.DistributedRepresentationIntervention):
        def forward(self, base: Tensor, source: Any = None, subspaces: Any = None, **_: Any) -> Tensor:
            return add(base, now["vector"]())

    added = Added(embed_dim=shape.width, keep_last_dim=True)
    point = {"layer": shape.layer, "component": "block_output", "low_rank_dimension": 1, "intervention": added}
    whole = pv.IntervenableModel(pv.IntervenableConfig([point]), model)
    places = {"sources->base": (None, [[edited_columns(shape)] * len(tokens)])}

    def loss(vector: Callable[[], Tensor]) -> Tensor:
        now["vector"] = vector
        _, output = whole({"input_ids": tokens}, unit_locations=places, use_cache=False)
        return _mean_loss(output.logits[:, shape.prompt - 1 : -1], tokens[:, shape.prompt :])

    return loss


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


# --- generation ----------------------------------------------------------------------------------------------------------


def hf_generate(model: Gemma2ForCausalLM, tokens: Tensor, new_tokens: int, *, sample: bool = False) -> list[list[int]]:
    """Hugging Face's own generation, of prompts of one length; sampled from the whole distribution."""
    chosen: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {"do_sample": False}
    with torch.no_grad():
        out = model.generate(  # pyright: ignore[reportAttributeAccessIssue] - transformers adds it late
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new_tokens, **chosen
        )
    return out[:, tokens.shape[1] :].tolist()


def hf_steered(model: Gemma2ForCausalLM, shape: Shape, tokens: Tensor, vector: Tensor, everywhere: bool) -> list[list[int]]:
    """Greedy, with a hook that edits every token, or p2+s2."""

    def edit(hidden: Tensor) -> Tensor:
        if everywhere:
            return add(hidden, vector)
        return hidden if hidden.shape[1] == 1 else add_at(edited_columns(shape), hidden, vector)

    with hook(model, shape.layer, edit):
        return hf_generate(model, tokens, shape.new_tokens)


# --- a whole training ----------------------------------------------------------------------------------------------------


def naive_training(model: Any, run: Run) -> tuple[list[float], Tensor]:
    """Losses and vector of joint training (p2+s2), from the start and with the batches of a run that is only read."""
    site, config = run.sites[0], run.shared.config
    direction, factor = (start.detach().clone().requires_grad_() for start in (site.direction, site.factor))
    optimizer = torch.optim.Adam([{"params": [direction]}, {"params": [factor]}])
    losses = []
    for number, batch in enumerate(run.batches()):
        decay = scaling.learning_rate_scale(number, run.n_steps)
        for group, rate in zip(optimizer.param_groups, (config.direction_lr, config.factor_lr), strict=True):
            group["lr"] = rate * decay
        optimizer.zero_grad()
        loss = _padded_loss(model, site.layer, batch, factor * direction)
        loss.backward()
        if config.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_([direction], config.grad_clip)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, (factor * direction).detach()


def _padded_loss(model: Any, layer: int, batch: Sequence[EncodedExample], vector: Tensor) -> Tensor:
    """The naive loss of rows of several lengths."""
    longest = max(example.length for example in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    mask, places, labels = torch.zeros_like(tokens), torch.zeros(len(batch), longest, 1), torch.full_like(tokens, -100)
    for row, example in enumerate(batch):
        start, end = len(example.prompt), example.length
        tokens[row, :end] = torch.tensor(example.prompt + example.response)
        mask[row, :end] = 1
        labels[row, start:end] = tokens[row, start:end]
        places[row, [0, 1, start - 2, start - 1]] = 1
    with hook(model, layer, lambda hidden: hidden + places * vector):
        logits = model(tokens, attention_mask=mask, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
