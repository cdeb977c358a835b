"""Neutral responses: what the unsteered model answers to the prompts of training data, for preference objectives."""

import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..arguments import checked_call
from ..data import DataError, Prompt, SteeringData, as_data, plain_prompt
from ..model.bridge import Bridge, check_model, model_name
from ..model.identity import identity, weights_hash
from ..model.tokenizer import templated
from ..reproducibility import derived_seed, json_digest
from .generation import generate

SCHEMA = 1
PART = 48
"""Prompts that are answered before the answers are written to the cache."""
_APPENDING = threading.Lock()
_MARK = b'{"steerlens_neutral": '


@checked_call
def with_neutral(
    model: Bridge,
    data: Any,
    *,
    max_new_tokens: int = 128,
    seed: int = 0,
    temperature: int | float = 0.0,
    batch_size: int | None = 16,
    cache: str | Path | None = None,
    replace: bool = False,
    template_args: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> SteeringData:
    """The data with the model's own answers as neutral responses, so that "simpo" and the like can be trained on them.

    Each distinct prompt is answered once, and what is answered depends on that prompt and the settings alone: other rows,
    their order and the batch size change nothing.

    Args:
        data: `SteeringData`, or whatever it is built from.
        max_new_tokens: length limit of an answer.
        seed: each prompt's own seed is made from it and the prompt's text; of no effect at temperature 0.
        temperature: 0 = greedy, the answer that is likeliest token by token.
        batch_size: as in `generate`.
        cache: a file of JSON lines, made if it is not there, in which answers are kept by model (weights included), prompt and
            settings. It grows while answers are made, so that nothing is lost when a run is stopped, and may serve several
            sets, models and processes.
        replace: answer all rows anew; without it rows that have a neutral response keep it.
        template_args: arguments of the chat template, besides those the model was loaded with.
        progress: show a progress bar.

    Returns:
        Data like the given ones, in the same order; of a mapping, a dict of the same names.

    Raises:
        DataError: the data cannot be read, or the model answers a prompt with nothing.
        ValueError: settings out of range, a prompt too long for the context, a cache that is something else.
    """
    check_model(model)
    examples = as_data(data)
    with templated(model, template_args):
        wanted = {_text(example.prompt): example.prompt for example in examples if replace or example.neutral is None}
        sampling = {"max_new_tokens": max_new_tokens, "temperature": float(temperature)}
        answers = _answers(model, wanted, sampling, seed, batch_size, None if cache is None else Path(cache), progress)
    empty = next((wanted[text] for text, answer in answers.items() if not answer.strip()), None)
    if empty is not None:
        remedy = "sample (temperature=1.0, or another seed), or leave the row out"
        raise DataError(f"{model_name(model)} answers {str(empty)!r:.60} with nothing: {remedy}")
    return _filled(examples, answers, replace)


def _filled(data: SteeringData, answers: Mapping[str, str], anew: bool) -> SteeringData:
    rows = [e if e.neutral is not None and not anew else dataclasses.replace(e, neutral=answers[_text(e.prompt)]) for e in data]
    return SteeringData(rows, data.concept, data.metadata, data.negatives)


def _text(prompt: Prompt) -> str:
    return json.dumps(plain_prompt(prompt), ensure_ascii=True)


def _answers(
    model: Bridge,
    wanted: Mapping[str, Prompt],
    sampling: Mapping[str, Any],
    seed: int,
    batch_size: int | None,
    cache: Path | None,
    progress: bool,
) -> dict[str, str]:
    """Text of a prompt -> answer, from the cache or made now."""
    settings = {**sampling, "seed": seed if sampling["temperature"] else None}
    about = identity(model) | {"weights": weights_hash(model)}
    keys = {text: json_digest([SCHEMA, about, settings, text]) for text in wanted}
    known = {} if cache is None else read_answers(cache)
    answers = {text: known[key] for text, key in keys.items() if key in known}
    open_texts = sorted((text for text in wanted if text not in answers), key=lambda text: (len(text), text))
    parts = [open_texts[start : start + PART] for start in range(0, len(open_texts), PART)]
    for part in tqdm(parts, desc="neutral", disable=not progress):
        seeds = [derived_seed(seed, "neutral", text) for text in part]
        texts = generate(model, [wanted[text] for text in part], seed=seeds, batch_size=batch_size, **sampling)
        answers.update(zip(part, texts, strict=True))
        if cache is not None:
            _append(cache, [_line(keys[text], model, settings, wanted[text], answers[text]) for text in part])
    return answers


def _line(key: str, model: Bridge, settings: Mapping[str, Any], prompt: Prompt, answer: str) -> bytes:
    record = {"steerlens_neutral": SCHEMA, "key": key, "model": model_name(model), "settings": dict(settings)}
    return json.dumps(record | {"prompt": plain_prompt(prompt), "neutral": answer}).encode() + b"\n"


def _append(cache: Path, lines: Sequence[bytes]) -> None:
    content = b"".join(lines)
    with _APPENDING:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with cache.open("ab+", buffering=0) as file:
            if file.tell() and file.seek(-1, 2) and file.read(1) != b"\n":
                content = b"\n" + content  # the last line was never finished
            if file.write(content) != len(content):
                raise OSError(f"{cache}: answers could only be written in part")


def read_answers(cache: Path) -> dict[str, str]:
    """Key -> answer of a cache; nothing if there is no file. A line that was never finished is left out.

    Raises:
        ValueError: it is something else than such a cache.
    """
    if not cache.exists():
        return {}
    if not cache.is_file():
        raise ValueError(f"{cache} is not a file; the cache of neutral responses is one")
    known, lines = {}, [line for line in cache.read_bytes().split(b"\n") if line.strip()]
    unfinished = len(lines) == 1 and _MARK.startswith(lines[0])  # a first write that was killed
    if lines and not unfinished and not any(line.startswith(_MARK) for line in lines):
        raise ValueError(f"{cache} is not a cache of neutral responses; give another path")
    for line in lines:
        try:
            record = json.loads(line)
            if record["steerlens_neutral"] == SCHEMA and isinstance(record["neutral"], str):
                known[str(record["key"])] = record["neutral"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return known
