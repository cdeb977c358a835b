"""A chat model in this process as a judge."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..model.bridge import Bridge, check_model, context_length, model_name
from ..model.chat import encode_prompt
from ..model.identity import identity
from ..model.loading import load_model
from ..model.tokenizer import tokenizer_of
from ..reproducibility import derived_seed
from ..scores import Scores
from ..steering.generation import generate
from .base import Question, Verdict
from .cache import Reply, Settings, writable_cache
from .llm_base import Asking, Keep, Usage, shortened
from .rubrics import RUBRIC, Rubric


class LocalJudge:
    """A chat model in this process as a judge: the same questions, reading and cache as `LLMJudge`, without a service.

    Small models judge poorly: compare with another judge on some rows before believing one.

    Args:
        model: a bridge, or a name or folder for `steerlens.load_model`.
        rubric: the questions.
        temperature: of its replies; 0 = greedy.
        max_tokens: length limit of a reply.
        batch_size: questions per forward pass.
        cache: as `LLMJudge`. Of the model it knows name, revision, dtype and chat template, but not the weights: do not
            share a file between models of one name.
        seed: of sampling; each question's own depends on it and on the question alone.
        progress: show a progress bar.

    Raises:
        ValueError: settings that cannot be used, or a cache that cannot be kept at its path.
    """

    def __init__(
        self,
        model: Bridge | str,
        *,
        rubric: Rubric = RUBRIC,
        temperature: int | float = 0.0,
        max_tokens: int = 256,
        batch_size: int = 8,
        cache: str | Path | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        kept = None if cache is None else writable_cache(cache)
        settings = Settings("in process", "", temperature, max_tokens, rubric=rubric.digest)  # checked before a model is loaded
        self._model = load_model(model) if isinstance(model, str) else model
        check_model(self._model)
        self._batch_size, self._seed, self._progress = batch_size, seed, progress
        extra = json.dumps(identity(self._model) | ({"seed": seed} if temperature else {}), sort_keys=True)
        settings = replace(settings, model=model_name(self._model), extra=extra)
        self._asking = Asking(rubric, settings, kept, Usage())

    @property
    def settings(self) -> Settings:
        """Who replies and how: what replies are cached under, and the rubric's digest."""
        return self._asking.settings

    @property
    def identity(self) -> str:
        """What decides its ratings: class, model (without the weights), temperature, max_tokens, seed and rubric."""
        return self._asking.identity(self)

    @property
    def usage(self) -> Usage:
        """What was asked and what failed so far; tokens are not counted."""
        return self._asking.usage

    def score(self, concept: str, prompt: str, response: str) -> Scores:
        """The scores of one response; why one is missing is told by `score_many`."""
        return self.score_many([Question(concept, prompt, response)])[0].scores

    def score_many(self, items: Sequence[Question]) -> list[Verdict]:
        """A verdict per question, in order. A question too long for the model's context is unscored."""
        return self._asking.judge(items, self._answer)

    def _answer(self, messages: Sequence[str], keep: Keep) -> None:
        room = context_length(self._model) - (self.settings.max_tokens or 0)
        fitting = []
        for number, message in enumerate(messages):
            text = self._harmless(message)
            length = len(encode_prompt(self._model, text))
            if length > room:
                self.usage.add("too long")
                keep(number, Reply(None, f"the question has {length} tokens, and the judge has room for {room}"))
            else:
                fitting.append((length, number, text))
        fitting.sort()  # rows of like length are padded least
        for start in tqdm(range(0, len(fitting), self._batch_size), desc="judge", disable=not self._progress):
            part = fitting[start : start + self._batch_size]
            for (_, number, _), reply in zip(part, self._generate([text for _, _, text in part]), strict=True):
                keep(number, reply)

    def _generate(self, texts: Sequence[str]) -> list[Reply]:
        """Replies to one batch."""
        self.usage.add(requests=len(texts))
        try:
            written = generate(
                self._model,
                list(texts),
                max_new_tokens=self.settings.max_tokens or 1,
                temperature=self.settings.temperature or 0.0,
                seed=[derived_seed(self._seed, text) for text in texts],
                batch_size=self._batch_size,
            )
        except Exception as error:  # out of memory, for example: it costs this batch
            self.usage.add(type(error).__name__)
            return [Reply(None, shortened(f"{type(error).__name__}: {error}"))] * len(texts)
        return [Reply(reply) for reply in written]

    def _harmless(self, message: str) -> str:
        """Marks of the chat format inside a text would end the judge's turn: they are broken up."""
        for token in tokenizer_of(self._model).added_tokens_decoder.values():
            if token.special and len(token.content) > 1:
                message = message.replace(token.content, f"{token.content[0]} {token.content[1:]}")
        return message
