"""The naive oracle: a plain Hugging Face model, one PyTorch forward hook per vector, one row at a time, no cache.

It shares no code with steerlens: edited places, loss, optimiser loop and greedy decoding are written out again from the
specification. Vectors are anything with direction, factor, layer, positions and form.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of its response."""


class Trained(NamedTuple):
    """What the oracle's training loop ends with."""

    direction: Tensor
    factor: float
    losses: list[float]


def edited_places(positions: str, n_prompt: int, n_total: int) -> list[int]:
    """Indices of the edited tokens of a sequence, straight from the specification."""
    if positions == "all":
        return list(range(n_total))
    if positions == "prompt":
        return list(range(n_prompt))
    if positions == "response":
        return list(range(n_prompt, n_total))
    wanted = {part[0]: int(part[1:]) for part in positions.split("+")}
    first = min(wanted.get("p", 0), n_prompt)
    last = min(wanted.get("s", 0), n_prompt - first)
    return [*range(first), *range(n_prompt - last, n_prompt)]


def phi(h: Tensor, v: Tensor, alpha: Any, form: str) -> Tensor:
    """The edit of some tokens, one a row."""
    if form == "add":
        return h + alpha * v
    u = v / v.detach().norm()
    if form == "null":
        return h - alpha * torch.outer((h @ u).clamp(min=0), u)
    return h + alpha * v - torch.outer(h @ u, u)


class Oracle:
    """Steering, loss, training and greedy decoding, the slow and plain way."""

    def __init__(self, hf: Any) -> None:
        self.hf = hf.requires_grad_(False)
        self.blocks = hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers

    @contextmanager
    def hooked(self, edits: Sequence[tuple[int, Callable[[Tensor], Tensor], list[int]]]) -> Iterator[None]:
        """Apply `function` to the listed tokens of the only row, after each named block."""
        with ExitStack() as stack:
            for layer, function, places in edits:

                def hook(_module: Any, _args: Any, output: Any, function: Any = function, places: Any = places) -> Any:
                    hidden = output[0] if isinstance(output, tuple) else output
                    new = hidden.clone()
                    new[0, places] = function(hidden[0, places])
                    return (new, *output[1:]) if isinstance(output, tuple) else new

                stack.callback(self.blocks[layer].register_forward_hook(hook).remove)
            yield

    def logits(self, ids: Sequence[int], n_prompt: int, vectors: Sequence[Any] = ()) -> Tensor:
        """Logits of one whole sequence, its first `n_prompt` tokens being the prompt."""
        edits = []
        for sv in vectors:
            places = edited_places(sv.positions, n_prompt, len(ids))
            edits.append((sv.layer, lambda h, sv=sv: phi(h, sv.direction, sv.factor, sv.form), places))
        with self.hooked(edits):
            return self.hf(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]

    def surprise(self, row: Row, vectors: Sequence[Any] = ()) -> Tensor:
        """Summed -log p of a row's response tokens."""
        prompt, response = row
        logits = self.logits([*prompt, *response], len(prompt), vectors)
        logprobs = logits.float().log_softmax(-1)
        return -sum((logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(response)), torch.zeros(()))

    def loss(self, rows: Sequence[Row], vectors: Sequence[Any] = ()) -> float:
        """Mean over all response tokens."""
        with torch.no_grad():
            total = sum(float(self.surprise(row, vectors)) for row in rows)
        return total / sum(len(response) for _, response in rows)

    def greedy(self, prompt: Sequence[int], n_new: int, stops: set[int], vectors: Sequence[Any] = ()) -> list[int]:
        """The response's tokens, without the one that ended it."""
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(n_new):
                token = int(self.logits(ids, len(prompt), vectors)[-1].argmax())
                if token in stops:
                    break
                ids.append(token)
        return ids[len(prompt) :]

    def train(
        self,
        rows: Sequence[Row],
        start: Any,
        *,
        epochs: int,
        step_rows: int,
        direction_lr: float,
        factor_lr: float,
        clip: float | None = 1.0,
    ) -> Trained:
        """Algorithm 1 without shuffling, from `start`; `factor_lr=0` keeps the factor."""
        v = torch.nn.Parameter(start.direction.clone())
        alpha = torch.nn.Parameter(torch.tensor(float(start.factor)))
        adam_v = torch.optim.Adam([v], lr=direction_lr)
        adam_alpha = torch.optim.Adam([alpha], lr=factor_lr)
        batches = [rows[i : i + step_rows] for i in range(0, len(rows), step_rows)] * epochs
        losses = []
        for t, batch in enumerate(batches):
            v.grad = alpha.grad = None
            n_tokens = sum(len(response) for _, response in batch)
            total = 0.0
            for prompt, response in batch:
                places = edited_places(start.positions, len(prompt), len(prompt) + len(response))
                with self.hooked([(start.layer, lambda h: phi(h, v, alpha, start.form), places)]):
                    share = self.surprise((prompt, response)) / n_tokens
                share.backward()
                total += float(share.detach())
            losses.append(total)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_([v], clip)
            for adam, rate in ((adam_v, direction_lr), (adam_alpha, factor_lr)):
                adam.param_groups[0]["lr"] = rate * (1 - t / len(batches))
                adam.step()
        return Trained(v.detach().clone(), float(alpha.detach()), losses)


def relative(a: Tensor, b: Tensor) -> float:
    """How far a is from b, as a share of b's length."""
    return float((a.double() - b.double()).norm() / b.double().norm())
