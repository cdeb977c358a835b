"""What steering could leave behind in a model."""

from typing import Any

import torch

TOKENS = torch.arange(10, 30).reshape(2, 10)


class State:
    """Everything that steering could leave behind."""

    def __init__(self, model: Any) -> None:
        inner = model.original_model
        with torch.no_grad():
            self.logits = model(TOKENS).clone()
            self.inner_logits = inner(input_ids=TOKENS).logits.clone()
        self.hook_points = {
            name: (len(point.fwd_hooks), len(point.bwd_hooks), len(point._forward_hooks), len(point._backward_hooks))
            for name, point in model.hook_dict.items()
        }
        modules = [*model.modules(), *inner.modules()]
        self.torch_hooks = [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in modules
        ]
        self.training = [m.training for m in modules]
        self.requires_grad = [p.requires_grad for p in inner.parameters()]
        self.grads = [p.grad is None for p in inner.parameters()]

    def check_same(self, model: Any) -> None:
        now = State(model)
        assert torch.equal(now.logits, self.logits) and torch.equal(now.inner_logits, self.inner_logits)
        for name in ("hook_points", "torch_hooks", "training", "requires_grad", "grads"):
            assert getattr(now, name) == getattr(self, name), name
        assert not any(sum(counts) for counts in now.hook_points.values())
