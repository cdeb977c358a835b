"""What lm-evaluation-harness asks of a model, answered by steerlens's own passes."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ...model.batches import EncodedExample, check_context, collate
from ...model.bridge import Bridge, context_length, model_name
from ...model.chat import agreement, decode_response, render, response_stops
from ...model.frozen import frozen
from ...model.numbers import NotFiniteError, not_numbers
from ...model.tokenizer import tokenizer_of
from ...positions import token_index
from ...reproducibility import row_seeds
from ...steering.decoding import decode
from ...steering.generation import with_steering_prompts
from ...steering.hooks import edits_for_all
from ...steering.recording import logits_at
from ...steering.steering_prompt import SteeringPrompt
from ...vector import SteeringVector

if TYPE_CHECKING:
    from lm_eval.api.model import LM

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the length limit, of which the harness takes the first that is given."""
KNOWN_GENERATION = frozenset({"until", "do_sample", "temperature", *LENGTHS})
NEUTRAL_GENERATION: Mapping[str, Any] = {"top_p": 1.0, "top_k": 0, "num_beams": 1, "repetition_penalty": 1.0}
"""Settings of generation that are taken only at values that do nothing."""


class Scored(NamedTuple):
    """A response's likelihood."""

    logprob: float
    """Summed over its tokens, in nats."""
    greedy: bool
    """Whether each of its tokens is the most likely one."""


class Pair(NamedTuple):
    """What a likelihood is taken of, as the harness encodes it, and which of it is the prompt."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    """The scored tokens. The last one is not fed."""
    n_prompt: int
    """Tokens of the prompt that is generated from; they may reach into the continuation."""

    @property
    def fed(self) -> EncodedExample:
        """Prompt and response as the model sees them."""
        ids = self.context + self.continuation[:-1]
        return EncodedExample(ids[: self.n_prompt], ids[self.n_prompt :])


class Runner(NamedTuple):
    """Encodes and runs what the harness asks for, on steerlens's own passes."""

    model: Bridge
    vectors: list[SteeringVector]
    prompts: list[SteeringPrompt]
    chat: bool
    batch_size: int

    def template(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """Messages in the chat template, the steering prompts before the last one of the user."""
        last = max((index for index, m in enumerate(messages) if m["role"] == "user"), default=None)
        changed = [dict(message) for message in messages]
        if last is not None and self.prompts:
            (asked,), _ = with_steering_prompts([changed[last]["content"]], self.prompts)
            changed[last]["content"] = str(asked)
        if changed[0]["role"] == "system" and (len(changed) == 1 or changed[1]["role"] != "user"):
            return self._described(changed, add_generation_prompt)
        return render(self.model, changed, add_generation_prompt=add_generation_prompt)

    def _described(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """Messages whose description no question follows, so that it has no other place than the template's own."""
        asked = [{**messages[0], "role": "user"}, *messages[1:]]
        text = render(self.model, messages, add_generation_prompt=add_generation_prompt)
        if text == render(self.model, asked, add_generation_prompt=add_generation_prompt):
            raise ValueError("the chat template has no place for the task's description: use chat=False, or a task without one")
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids of a context, as the harness's own models have them: a template's text has its BOS already."""
        if not self.chat:
            (asked,), _ = with_steering_prompts([text], self.prompts)
            text = str(asked)
        tokenizer = tokenizer_of(self.model)
        begun = text.startswith(tokenizer.decode(self.prefix))
        return list(tokenizer.encode(text, **({"add_special_tokens": False} if begun else {})))

    def pair(self, context: str, continuation: str) -> Pair:
        """Context and continuation, encoded together and cut where the context's tokens end, as the harness does.

        The harness scores white space at the end of a context with the continuation, also the line break that ends a
        template's generation header. For the edits that stays the prompt's, whose tokens are those that `generate_until` has,
        as far as both have the same ones (a tokenizer may have one token for the line break and what follows).
        """
        if not context:
            ids = tuple(tokenizer_of(self.model)(continuation, add_special_tokens=False)["input_ids"])
            return self._checked(Pair((self.prefix,), ids[1:] if ids[:1] == (self.prefix,) else ids, 1))
        bare, whole = self.encode(context.rstrip()), self.encode(context + continuation)
        ids = [*bare, *whole[len(bare) :]]
        return self._checked(Pair(tuple(bare), tuple(ids[len(bare) :]), agreement(self.encode(context), ids)))

    def windows(self, text: str) -> list[Pair]:
        """A whole text in windows as long as the context, as the harness cuts it; what comes first follows the prefix."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        limit = {"max_seq_len": context_length(self.model), "context_len": 1}
        windows = map(make_disjoint_window, get_rolling_token_windows(self.encode(text), self.prefix, **limit))
        return [Pair(tuple(before), tuple(after), len(before)) for before, after in windows]

    def _checked(self, pair: Pair) -> Pair:
        n_response = len(pair.context) + len(pair.continuation) - pair.n_prompt
        if not pair.context or not pair.continuation or n_response < 1:
            raise ValueError(
                f"{model_name(self.model)}: a {'response' if pair.context else 'context'} of the task has no token"
            )
        return pair

    @property
    def prefix(self) -> int:
        """What stands before a text without a context: BOS, or EOS where there is none."""
        tokenizer = tokenizer_of(self.model)
        return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)

    def check_length(self, n_tokens: int, new: int = 0) -> None:
        beginning = f"a row of {n_tokens} tokens{f' with {new} new ones' if new else ''} exceeds"
        remedy = "use fewer few-shot examples, a smaller max_gen_toks, or another task"
        check_context(self.model, n_tokens + new, beginning, remedy)

    def score(self, rows: Sequence[Pair]) -> Iterator[tuple[int, Scored]]:
        """(index, likelihood) of each row, long contexts first, so that a batch wastes little."""
        for row in rows:
            self.check_length(row.fed.length)
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].context))
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            yield from zip(indices, self._scored([rows[index] for index in indices]), strict=True)

    def _scored(self, rows: Sequence[Pair]) -> list[Scored]:
        batch = collate(self.model, [row.fed for row in rows])
        starts = torch.tensor([len(row.context) - 1 for row in rows], device=batch.tokens.device)
        with torch.no_grad(), frozen(self.model):
            logits = logits_at(self.model, batch, self.vectors, token_index(batch.token_mask) >= starts[:, None])
        if bool(not_numbers(logits).any()):
            raise NotFiniteError(
                f"{model_name(self.model)} gives logits that are not numbers: lower the factor, or load the model in "
                "bfloat16 or float32"
            )
        targets = torch.tensor([token for row in rows for token in row.continuation], device=logits.device)
        chosen = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0].double()
        best = logits.argmax(-1) == targets
        ends = torch.tensor([0, *(len(row.continuation) for row in rows)]).cumsum(0).tolist()
        spans = [slice(first, last) for first, last in pairwise(ends)]
        return [Scored(float(chosen[span].sum()), bool(best[span].all())) for span in spans]

    def generate(self, rows: Sequence[Sequence[int]], seeds: Sequence[int], new: int, temperature: float) -> list[list[int]]:
        """Token ids of the responses of one batch."""
        for row in rows:
            self.check_length(len(row), new)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        edits, stops = edits_for_all(self.vectors), response_stops(self.model, chat=self.chat)
        return decode(self.model, rows, edits, generators, new, temperature, stops=stops)

    def text(self, ids: Sequence[int], stops: Sequence[str]) -> str:
        """A response up to the first stop string, which special tokens may spell, too ("<|im_end|>")."""
        tokenizer = tokenizer_of(self.model)

        def spelt(n_tokens: int, stop: str, special: bool = True) -> bool:
            return stop in str(tokenizer.decode(list(ids[:n_tokens]), skip_special_tokens=not special))

        end = len(ids)
        for stop in stops:
            found = bisect_left(range(len(ids) + 1), True, key=lambda n_tokens, stop=stop: spelt(n_tokens, stop))
            if found < end and not spelt(found, stop, special=False):
                end = found
        return cut(decode_response(self.model, ids[:end], self.chat), stops)


class Wanted(NamedTuple):
    """Settings of one generation."""

    new: int
    temperature: float
    stops: tuple[str, ...]


def wanted(settings: Mapping[str, Any], max_gen_toks: int) -> Wanted:
    """What a task asks of a generation.

    Raises:
        ValueError: settings that would change the result and are not known here.
    """
    for name, value in settings.items():
        if name not in KNOWN_GENERATION and value is not None and value != NEUTRAL_GENERATION.get(name, None):
            raise ValueError(f"the task asks for generation with {name}={value!r}, which is not supported")
    until = settings.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    given, samples = settings.get("temperature"), settings.get("do_sample")
    temperature = float((1.0 if samples else 0.0) if given is None else given)
    new = next((settings[name] for name in LENGTHS if settings.get(name) is not None), max_gen_toks)
    return Wanted(int(new), 0.0 if samples is False else temperature, tuple(stop for stop in stops if stop))


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop string."""
    return text[: min((start for stop in stops if (start := text.find(stop)) >= 0), default=len(text))]


def _rolling(runner: Runner, text: str) -> float:
    """Log-likelihood of a whole text, in windows as long as the context.

    Raises:
        ValueError: what steers edits some tokens of a prompt.
    """
    if runner.prompts or any(vector.positions != "all" for vector in runner.vectors):
        raise ValueError(
            "this task takes the perplexity of whole texts, which have no prompt: steer it with positions='all', or not"
        )
    return sum((scored.logprob for _, scored in runner.score(runner.windows(text))), 0.0)


def _generated(runner: Runner, contexts: Sequence[str], asked: Sequence[Wanted], seed: int, progress: bool) -> list[str]:
    """A text for each context, those of like settings together, long prompts first."""
    from tqdm import tqdm

    rows, seeds = [runner.encode(context) for context in contexts], row_seeds(seed, len(contexts))
    groups: dict[tuple[int, float], list[int]] = {}
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index])):
        groups.setdefault(asked[index][:2], []).append(index)
    texts = [""] * len(rows)
    for (new, temperature), indices in groups.items():
        starts = range(0, len(indices), runner.batch_size)
        for start in tqdm(starts, desc="generate_until", disable=not progress):
            part = indices[start : start + runner.batch_size]
            made = runner.generate([rows[i] for i in part], [seeds[i] for i in part], new, temperature)
            for index, ids in zip(part, made, strict=True):
                texts[index] = runner.text(ids, asked[index].stops)
    return texts


def adapter(runner: Runner, max_gen_toks: int, seed: int, progress: bool) -> "LM":
    """The harness's `LM` around a runner; its class can be written only where lm-eval is there."""
    from lm_eval.api.model import LM
    from tqdm import tqdm

    class SteeredModel(LM):
        """A steered model as lm-evaluation-harness sees it."""

        @property
        def tokenizer_name(self) -> str:
            return model_name(runner.model)

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return runner.template(chat_history, add_generation_prompt)

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            rows = [runner.pair(*request.args) for request in requests]
            scored = dict(tqdm(runner.score(rows), total=len(rows), desc="loglikelihood", disable=not progress))
            return [(scored[index].logprob, scored[index].greedy) for index in range(len(rows))]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [_rolling(runner, request.args[0]) for request in requests]

        def generate_until(self, requests: list[Any]) -> list[str]:
            asked = [wanted(request.args[1], max_gen_toks) for request in requests]
            return _generated(runner, [request.args[0] for request in requests], asked, seed, progress)

    return SteeredModel()
