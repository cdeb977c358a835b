"""Which way steerlens's own passes take through a model, said in words."""

from .bridge import Bridge, check_layer, check_model, n_layers
from .frozen import exclusive
from .halves import why_whole
from .plain import difference, why_hooked


def explain_speed(model: Bridge, layer: int | None = None) -> str:
    """Which way generation and training take through this model now, and why: two lines.

    Passes are plain where the rule of `steerlens.model.plain` allows: the Hugging Face model itself, with PyTorch hooks on the
    edited blocks. Else they go through TransformerLens's hook points, which is right too, and slower.

    Args:
        layer: that would be trained; the middle one by default.

    Raises:
        ValueError: the layer does not exist.
        UnsupportedModelError: a model that cannot be steered.

    Example:
        >>> import steerlens
        >>> model = steerlens.load_model("terrarium")
        >>> print(steerlens.explain_speed(model, layer=2))
        generation, evaluation: plain passes, equal to those through TransformerLens's hook points to the last bit
        training after block 2: what lies below is computed once; only what predicts a response is unembedded
    """
    check_model(model)
    layer = n_layers(model) // 2 if layer is None else layer
    check_layer(model, layer)
    with exclusive(model):
        reason, apart, whole = why_hooked(model), difference(model), why_whole(model, layer)
    if reason is not None:
        return f"all passes go through TransformerLens's hook points: {reason}"
    equal = "to the last bit" if apart == 0 else f"to rounding (largest relative difference {apart:.0e})"
    pieces = "what lies below is computed once; only what predicts a response is unembedded"
    return (
        f"generation, evaluation: plain passes, equal to those through TransformerLens's hook points {equal}\n"
        f"training after block {layer}: {pieces if whole is None else f'whole plain passes, since {whole}'}"
    )
