"""Rows of training data in the forms in which people have them, each as prompt, response and neutral response.

A column that a form does not use is refused unless it is known to say nothing that a model should see (`METADATA`) or is
ignored by name: what is left out silently is trained on as if it had never been written.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .conversations import Row, described, given_prompt, is_empty, is_written, messages, turns_in
from .tables import DataError

_METADATA = (
    "id idx index row_id uid uuid hash prompt_id question_id conversation_id dialogue_id example_id "
    "concept concept_id concept_genre output_concept genre category dataset_category concept_genres_map ref sae_id sae_link "
    "source dataset subset split license url link timestamp date created_at model score_chosen score_rejected __index_level_0__"
)
METADATA = frozenset(_METADATA.split())
"""Columns that tell where a row is from. None that may be part of what is asked: a task, a topic, a language, tags, a label."""
CONCEPTS = ("concept_id", "concept", "output_concept", "sae_id", "sae_link")
"""Columns of METADATA of which one set of data holds one value."""
KNOWN = (
    "prompt/response(/neutral), prompt/completion, input/output, negative_input/positive_output(/negative_output), "
    "instruction/input/output, messages, conversations, prompt/chosen/rejected, prompt/positive/negative, or "
    "question/answer_matching_behavior/answer_not_matching_behavior"
)
_PREAMBLE = (
    r"(Below is an instruction that describes a task[^\n]*Write a response that appropriately completes the request\.\s*)?"
)
"""How Alpaca's template begins."""
Fields = tuple[Any, Any, Any]
"""Prompt, response and neutral response, unchecked."""


@dataclass(frozen=True)
class _Form:
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Row], Fields]


def column_name(written: Any) -> Any:
    """The known name that a column's is another spelling of ("Concept ID" is concept_id), else the name itself."""
    return _SPELLINGS.get(_spelling(written), written) if isinstance(written, str) else written


def named_columns(row: Mapping[Any, Any], ignore: Collection[str] = ()) -> dict[Any, Any]:
    """A row under the known names of its columns, without the ignored ones.

    Of two columns with one name the one that is spelled otherwise keeps its spelling, under which nothing is read.
    """
    cells: dict[Any, Any] = {}
    for written, value in row.items():
        name = column_name(written)
        if str(written) in ignore or name in ignore:
            continue
        cells[written if name != written and (name in row or name in cells) else name] = value
    return cells


def _spelling(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def fields_of(row: Row) -> Fields:
    """Prompt, response and neutral response of a row.

    Raises:
        DataError: no known form, a column that is not used, another category than AxBench's "positive", one of its shared
            negatives, or turns that do not end with the assistant's.
    """
    cells = row.cells
    _only_positive(row)
    for form in _FORMS:
        if all(name in cells for name in form.needed):
            used = {*form.needed, *form.optional}
            _nothing_left_out(row, used, form)
            return form.read(row)
    columns = sorted(map(str, cells))
    if {"positive", "negative"} <= set(cells) or {"chosen", "rejected"} <= set(cells):
        raise row.wrong(
            f"columns {columns} hold whole texts and no prompt; add a column 'prompt' and leave it out of the texts"
        )
    raise row.wrong(f"columns {columns} hold no prompt and response; known: {KNOWN}")


def one_concept(rows: Collection[Any], source: str, ignore: Collection[str]) -> None:
    """Raise DataError if the rows name several concepts."""
    named = [named_columns(row, ignore) for row in rows if isinstance(row, Mapping)]
    for column in CONCEPTS:
        values = {str(row[column]): None for row in named if not is_empty(row.get(column))}
        if len(values) > 1:
            some = ", ".join(map(repr, list(values)[:3])) + (", ..." if len(values) > 3 else "")
            raise DataError(
                f"{source}the column {column!r} names {len(values)} concepts ({some}), and one vector is trained for one: "
                f"give the rows of one, or read AxBench's folder with read_axbench; ignore=[{column!r}] takes them as one"
            )


def _only_positive(row: Row) -> None:
    number = row.cells.get("concept_id")
    if not is_empty(number) and str(number) in ("-1", "-1.0"):
        raise row.wrong("a shared negative of AxBench (concept_id -1); read the folder with read_axbench")
    category = row.cells.get("category")
    if is_empty(category) or (isinstance(category, str) and category.strip().lower() == "positive"):
        return
    raise row.wrong(
        f"its category is {category!r}, and what is no 'positive' example is not trained on: keep the positive rows, or read "
        "AxBench's folder with read_axbench; if the column means something else: ignore=['category']"
    )


def _nothing_left_out(row: Row, used: Collection[str], form: _Form) -> None:
    left = [str(name) for name, value in row.cells.items() if name not in used and name not in METADATA and not is_empty(value)]
    if left:
        names = ", ".join(map(repr, left))
        raise row.wrong(
            f"{'the column' if len(left) == 1 else 'the columns'} {names} would be left out (read: {', '.join(form.needed)}); "
            f"rename or drop {'it' if len(left) == 1 else 'them'}, or allow that with SteeringData(..., ignore={left!r})"
        )


# --- single turns -------------------------------------------------------------------------------------------------------


def _plain(prompt: str, response: str, neutral: str | None = None) -> Callable[[Row], Fields]:
    def read(row: Row) -> Fields:
        other = None if neutral is None else row.cells.get(neutral)
        asked = _with_system(row, _asked(row, prompt))
        return asked, row.cells[response], None if _missing(other) else other

    return read


def _completion(row: Row) -> Fields:
    prompt = _asked(row, "prompt")
    return _with_system(row, prompt), _answer(row, "completion", prompt), None


def _alpaca(row: Row) -> Fields:
    """The template of Alpaca puts the input under the instruction, and leaves out an empty one."""
    instruction = _asked(row, "instruction")
    if _blank(instruction):
        raise row.wrong("the instruction is empty")
    context = next((row.cells[name] for name in ("input", "context") if not is_empty(row.cells.get(name))), None)
    if context is not None and not (isinstance(instruction, str) and isinstance(context, str)):
        raise row.wrong(f"instruction and input are {described(instruction)} and {described(context)}; both must be text")
    joined = instruction if _blank(context) else f"{instruction}\n\n{context}"
    if not _blank(text := row.cells.get("text")) and not _is_joined(text, instruction, context, row.cells["output"]):
        raise row.wrong(
            "the column 'text' is not instruction, input and output in Alpaca's template and would be left out; drop it, or "
            "allow that with SteeringData(..., ignore=['text'])"
        )
    return _with_system(row, joined), row.cells["output" if "output" in row.cells else "response"], None


def _is_joined(text: Any, instruction: Any, context: Any, output: Any) -> bool:
    """Whether a text is what Alpaca's template makes of the three, and says nothing else."""
    if not isinstance(text, str) or not isinstance(output, str):
        return False
    given = "" if _blank(context) else rf"### Input:\s*{re.escape(context.strip())}\s*"
    whole = (
        rf"{_PREAMBLE}### Instruction:\s*{re.escape(instruction.strip())}\s*{given}### Response:\s*{re.escape(output.strip())}"
    )
    return re.fullmatch(whole, text.strip()) is not None


def _asked(row: Row, name: str) -> Any:
    value = row.cells[name]
    if _missing(value):
        raise row.wrong(
            f"the {'prompt' if name in ('prompt', 'input', 'negative_input') else name} is missing ({described(value)})"
        )
    return given_prompt(row, name)


def _blank(value: Any) -> bool:
    return is_empty(value) or (isinstance(value, str) and not value.strip())


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _with_system(row: Row, prompt: Any) -> Any:
    """The prompt, under the row's system message if it has one."""
    texts = {name: row.cells[name] for name in ("system", "system_prompt") if not _blank(row.cells.get(name))}
    if not texts:
        return prompt
    for name, text in texts.items():
        if not isinstance(text, str):
            raise row.wrong(f"the column {name!r} is {described(text)}, not text")
    if len(texts) > 1:
        raise row.wrong("it has a 'system' and a 'system_prompt'; keep one")
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if any(isinstance(turn, Mapping) and turn.get("role") == "system" for turn in turns):
        raise row.wrong(f"the column {next(iter(texts))!r} stands beside a conversation that has a system message; keep one")
    return [{"role": "system", "content": next(iter(texts.values()))}, *turns]


# --- conversations ------------------------------------------------------------------------------------------------------


def _conversation(name: str) -> Callable[[Row], Fields]:
    def read(row: Row) -> Fields:
        before, response = _last_turn(row, name)
        if not before:
            raise row.wrong(f"{name!r} holds an answer and nothing before it that was asked")
        prompt = row.cells.get("prompt")
        first = next((turn["content"] for turn in before if turn["role"] == "user"), None)
        if not is_empty(prompt) and not (isinstance(prompt, str) and first is not None and prompt.strip() == first.strip()):
            raise row.wrong(f"the column 'prompt' is not the first question in {name!r}; keep one, or ignore=['prompt']")
        return _with_system(row, _short(before)), response, None

    return read


def _preference(better: str, worse: str) -> Callable[[Row], Fields]:
    def read(row: Row) -> Fields:
        prompt = None if is_empty(row.cells.get("prompt")) else given_prompt(row, "prompt")
        texts = [row.cells[name] for name in (better, worse)]
        if is_empty(prompt):
            if any(isinstance(text, str) and turns_in(text) is None for text in texts):
                raise row.wrong(
                    f"{better!r} and {worse!r} are whole texts without a prompt; add a column 'prompt' and leave it out of "
                    "the texts"
                )
            (before, response), (other, neutral) = _last_turn(row, better), _last_turn(row, worse)
            if before != other:
                raise row.wrong(f"the turns before the last differ between {better!r} and {worse!r}; they must answer the same")
            if not before:
                raise row.wrong(f"{better!r} holds an answer and nothing before it that was asked; add a column 'prompt'")
            return _with_system(row, _short(before)), response, neutral
        answers = [_answer(row, name, prompt) for name in (better, worse)]
        if isinstance(prompt, str) and all(
            isinstance(a, str) and len(a) > len(prompt) and a.startswith(prompt) for a in answers
        ):
            raise row.wrong(f"{better!r} and {worse!r} repeat the prompt; leave it out of the two texts")
        return _with_system(row, prompt), answers[0], None if _missing(answers[1]) else answers[1]

    return read


def _answer(row: Row, name: str, prompt: Any) -> Any:
    """The text of an answer that is text or turns, of which those before the last must be the prompt."""
    value = row.cells[name]
    if _missing(value) or (isinstance(value, str) and not (is_written(value) and turns_in(value))):
        return value
    before, answer = _last_turn(row, name)
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if before and before != asked:
        raise row.wrong(f"the turns of {name!r} before its last are not the column 'prompt'; keep one of the two")
    return answer


def _last_turn(row: Row, name: str) -> tuple[list[dict[str, str]], str]:
    turns = messages(row, name)
    if turns[-1]["role"] != "assistant":
        raise row.wrong(
            f"{name!r} ends with the {turns[-1]['role']}; its last turn must be the assistant's, which is the response"
        )
    return turns[:-1], turns[-1]["content"]


def _short(turns: list[dict[str, str]]) -> str | list[dict[str, str]]:
    """One user turn as its text."""
    return turns[0]["content"] if len(turns) == 1 and turns[0]["role"] == "user" else turns


_SYSTEM = ("system", "system_prompt")
_FORMS = (  # the first whose needed columns are all there
    _Form(("prompt", "response"), ("neutral", *_SYSTEM), _plain("prompt", "response", "neutral")),
    _Form(("prompt", "chosen", "rejected"), _SYSTEM, _preference("chosen", "rejected")),
    _Form(("prompt", "positive", "negative"), _SYSTEM, _preference("positive", "negative")),
    _Form(("prompt", "completion"), _SYSTEM, _completion),
    _Form(
        ("negative_input", "positive_output"),
        ("negative_output", *_SYSTEM),
        _plain("negative_input", "positive_output", "negative_output"),
    ),
    _Form(
        ("question", "answer_matching_behavior", "answer_not_matching_behavior"),
        _SYSTEM,
        _plain("question", "answer_matching_behavior", "answer_not_matching_behavior"),
    ),
    _Form(("messages",), ("prompt", *_SYSTEM), _conversation("messages")),
    _Form(("conversations",), ("prompt", *_SYSTEM), _conversation("conversations")),
    _Form(("conversation",), ("prompt", *_SYSTEM), _conversation("conversation")),
    _Form(("chosen", "rejected"), _SYSTEM, _preference("chosen", "rejected")),
    _Form(("instruction", "output"), ("input", "text", *_SYSTEM), _alpaca),
    _Form(("instruction", "response"), ("context", *_SYSTEM), _alpaca),
    _Form(("input", "output"), _SYSTEM, _plain("input", "output")),
)
_READ = {name for form in _FORMS for name in (*form.needed, *form.optional)}
_SPELLINGS = {_spelling(name): name for name in sorted(METADATA | _READ)}
