"""Models whose weights are all in their files: what lacks some would be random there, and is refused."""

from typing import Any

from .support import UnsupportedModelError


class WholeClass:
    """A class of Hugging Face models, of which only those are loaded whose weights are all in the files."""

    def __init__(self, model_class: Any, name: str, config: Any) -> None:
        self._class, self._name, self._config = model_class, name, config
        self.from_config = model_class.from_config if hasattr(model_class, "from_config") else model_class

    def from_pretrained(self, path: str, **settings: Any) -> Any:
        """Raise UnsupportedModelError for weights that the files lack, which would be random."""
        from transformers import PreTrainedModel

        if isinstance(self._class, type) and issubclass(self._class, PreTrainedModel):
            settings.pop("code_revision", None)
        load: Any = self._class.from_pretrained
        model, info = load(path, output_loading_info=True, **settings)
        missing = sorted(set(info["missing_keys"]) & {key for key, _ in model.named_parameters()})
        if missing:
            listed = list(getattr(self._config, "architectures", None) or [type(model).__name__])
            text = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
            raise UnsupportedModelError(
                f"{self._name} ({listed[0]}) lacks weights of a {type(model).__name__}, which would be random: {text}: load a "
                "checkpoint of a causal language model, with its head"
            )
        return model
