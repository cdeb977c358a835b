"""Holding a model while it is used: one thread at a time, in evaluation mode, without gradients for its weights."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .bridge import Bridge

_locks: "weakref.WeakKeyDictionary[Any, threading.RLock]" = weakref.WeakKeyDictionary()
_making_a_lock = threading.Lock()


@contextmanager
def exclusive(model: Bridge) -> Iterator[None]:
    """One thread at a time: steerlens's own passes on a model wait for one another, whose hooks would act on both."""
    with _making_a_lock:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        yield


@contextmanager
def frozen(model: Bridge) -> Iterator[None]:
    """Evaluation mode and no gradients for the model's parameters; everything is put back at the end."""
    inner = model.original_model
    in_training = [module for root in (model, inner) for module in root.modules() if module.training]
    learning = [parameter for parameter in inner.parameters() if parameter.requires_grad]
    try:
        for module in in_training:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in in_training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)
