"""Holding a model while it is used: one thread at a time, in evaluation mode, without gradients for its weights."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from .bridge import Bridge

_locks: "weakref.WeakKeyDictionary[Any, threading.RLock]" = weakref.WeakKeyDictionary()
_making_a_lock = threading.Lock()
_held: "weakref.WeakSet[Any]" = weakref.WeakSet()
P = ParamSpec("P")
R = TypeVar("R")


class SteeringError(RuntimeError):
    """It cannot be told which tokens to edit, so nothing is generated that might be wrong."""


def running() -> tuple[int, int | None]:
    """The thread and, in an event loop, the task that is running now."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop
        task = None
    return threading.get_ident(), None if task is None else id(task)


@contextmanager
def exclusive(model: Bridge) -> Iterator[None]:
    """One thread at a time: steerlens's own passes on a model wait for one another, whose hooks would act on both.

    Raises (in another thread or task that runs a pass of its own meanwhile):
        SteeringError: what steerlens has put into the model for its passes would act on that one.
    """
    with _making_a_lock:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        check = owned(lambda *_: None)
        handle = None if model in _held else model.original_model.register_forward_pre_hook(check)
        _held.add(model)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()
                _held.discard(model)


def owned(function: Callable[P, R]) -> Callable[P, R]:
    """The function for the thread and task that runs now; in another it raises SteeringError, so that nothing is mixed up."""
    owner = running()

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if running() != owner:
            raise SteeringError(
                "steerlens is at work on this model in another thread or task: wait for it, or load a model for each"
            )
        return function(*args, **kwargs)

    return call


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
