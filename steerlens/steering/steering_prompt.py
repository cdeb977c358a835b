"""Prompt steering: asking for the concept in words, the baseline that a steering vector is measured against."""

from dataclasses import dataclass

from ..data import Prompt, check_text


@dataclass(frozen=True)
class SteeringPrompt:
    """A text put before the instruction (Bao et al. 2026, Sec. 4; AxBench's prompt steering).

    It goes wherever `generate`, `evaluate` and `PerPrompt` take a vector, alone or beside vectors. The judge is shown the
    instruction without it.

    Raises:
        ValueError: the text is empty.
    """

    text: str
    """Such as "Answer the question, and mention the sea in your answer."."""
    concept: str | None = None
    separator: str = "\n\nQuestion: "
    """Between the text and the instruction: a blank line and the word Question, as published."""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError(f"the steering prompt is {self.text!r}; it must be a text")
        check_text(self.text, "the steering prompt")

    def apply(self, prompt: Prompt) -> Prompt:
        """The prompt with the text before its instruction, which is the last message of a conversation."""
        if isinstance(prompt, str):
            return f"{self.text}{self.separator}{prompt}"
        *earlier, last = prompt
        return [*earlier, {**last, "content": f"{self.text}{self.separator}{last['content']}"}]
