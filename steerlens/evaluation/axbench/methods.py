"""Ways of getting what steers for a concept from its data: the names that a benchmark is asked for."""

from collections.abc import Callable
from types import NoneType
from typing import Any, NamedTuple

from ...data import DataError, SteeringData
from ...extraction import extract
from ...model.bridge import Bridge, check_layer
from ...reproducibility import digest, function_text, plain_text
from ...steering.steering_prompt import SteeringPrompt
from ...training.loop import train
from ...training.scaling import TrainConfig
from ...vector import SteeringVector
from .run_folder import Steering, fingerprint

Method = Callable[[Bridge, SteeringData], Steering]
"""(model, data of one concept) -> a vector, a steering prompt, or None for the plain model."""


class Recipe(NamedTuple):
    """How `train` is called."""

    positions: str = "p2+s2"
    objective: str = "lang"
    form: str = "add"
    rank: int = 1


TRAINED = {
    "prosv": Recipe(),
    "fssv": Recipe("all"),
    "prosv-simpo": Recipe(objective="simpo"),
    "fssv-simpo": Recipe("all", "simpo"),
    "prosv-reps": Recipe(objective="reps"),
    "fssv-reps": Recipe("all", "reps"),
    "loreft": Recipe(form="loreft", rank=4),
}
"""Trained with the factor, jointly."""
EXTRACTED = {"diffmean": "difference", "pca": "pca", "probe": "probe"}
"""Read off activations, full-sequence, at the factor that `extract` gives: choose one with `select_factor` for a fair score."""
PLAIN = ("prompt", "unsteered")
NAMES = (*TRAINED, *EXTRACTED, *PLAIN)


def request(concept: str) -> str:
    """The steering prompt of the method "prompt"."""
    return f"Please answer the question below, and work this into your answer wherever you can: {concept}."


def method_function(model: Bridge, method: str | Method, layer: int | None, config: TrainConfig | None, seed: int) -> Method:
    """The function of a named method, or the function itself.

    Raises:
        ValueError: an unknown name; a method that needs a layer without one; a config for a method that trains nothing.
    """
    if not isinstance(method, str):
        return method
    if method not in NAMES:
        raise ValueError(f"method {method!r} is unknown; use {', '.join(NAMES)}, or a function (model, data) -> vector")
    if config is not None and method not in TRAINED:
        raise ValueError(f"the method {method!r} trains nothing: leave config out")
    if method in PLAIN:
        return _ask if method == "prompt" else _nothing
    if layer is None:
        raise ValueError(f"the method {method!r} needs a layer: layer=..., the block whose output is edited")
    block: int = layer
    check_layer(model, block)
    if method in EXTRACTED:
        return lambda bridge, data: extract(bridge, data, layer=block, method=EXTRACTED[method])
    recipe = TRAINED[method]._asdict()
    return lambda bridge, data: train(bridge, data, layer=block, config=config, seed=seed, progress=False, **recipe)


def method_identity(method: str | Method) -> str:
    """How a method is recognised when a run goes on: its name, and of a function a digest of its code with the constants,
    defaults and held variables that are plain values, steering vectors or prompts. What else it reaches is not seen."""
    if isinstance(method, str):
        return method
    name = f"{method.__module__}.{getattr(method, '__qualname__', type(method).__name__)}"
    return f"{name} {digest(function_text(method, _held))}"


def _held(value: Any) -> str:
    """What tells a held value from others, empty for what may change while the method runs."""
    if isinstance(value, (SteeringVector, SteeringPrompt)):
        return fingerprint(value)
    return plain_text(value) if isinstance(value, (int, float, str, tuple, NoneType)) else ""


def check_data(method: str | Method, data: SteeringData) -> None:
    """Raise DataError if a named method cannot learn from the data, so that no concept is trained before it is known."""
    recipe = TRAINED.get(method) if isinstance(method, str) else None
    neutral = [example.neutral is not None for example in data]
    if recipe is not None and recipe.objective != "lang" and not all(neutral):
        raise DataError(
            f"{data.concept}: row {neutral.index(False)} has no neutral response, which the method {method!r} needs: "
            "use contrastive data (columns negative_input, positive_output, negative_output)"
        )
    if method in EXTRACTED and not any(neutral) and not data.negatives:
        raise DataError(f"{data.concept}: there is nothing to compare the responses with, as the method {method!r} does")


def _ask(model: Bridge, data: SteeringData) -> Steering:
    return SteeringPrompt(request(str(data.concept)), data.concept)


def _nothing(model: Bridge, data: SteeringData) -> Steering:
    return None
