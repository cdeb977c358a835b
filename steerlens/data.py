"""Training data: instructions with a response that shows the concept and, optionally, one that does not.

Every reader ends in `SteeringData`, which is checked on construction: what is wrong is said with the row it is in.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .arguments import checked_call
from .conversations import ROLES, Row, as_cell, described, messages
from .reproducibility import sha256
from .result import html_view
from .row_formats import column_name, fields_of, named_columns, one_concept
from .tables import DataError, index_as_columns, read_rows, read_table

if TYPE_CHECKING:
    import pandas as pd

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]
"""One user turn, or a conversation of {"role", "content"} messages, which may have further parts if the template shows them."""


@dataclass(frozen=True)
class Example:
    """One training example."""

    prompt: Prompt
    response: str
    """The response that shows the concept (y_c in the paper)."""
    neutral: str | None = None
    """A response to the same prompt without the concept (y in the paper); preference objectives need it."""


@dataclass(frozen=True, init=False, repr=False)
class SteeringData:
    """Examples of one concept.

    Args:
        examples: `Example`s, dicts, a dict of columns, a pandas or polars DataFrame, a Hugging Face `Dataset`, or the path of
            a csv, json, json lines or parquet file. A row is read in the first of these forms whose columns it has:

            - prompt, response and perhaps neutral;
            - prompt, chosen, rejected (TRL), or prompt, positive, negative: the response and the neutral response, as texts
              or as lists of messages. chosen and rejected that are whole conversations need no prompt;
            - prompt, completion;
            - AxBench's input, output, or its contrastive negative_input, positive_output, negative_output;
            - CAA's question, answer_matching_behavior, answer_not_matching_behavior;
            - messages (role/content), conversations (ShareGPT's from/value): the last turn, which must be the assistant's,
              is the response and the turns before it are the prompt;
            - Alpaca's instruction, input, output, or Dolly's instruction, context, response: instruction, a blank line and
              the input are the prompt; an empty input is left out.

            A `system` (or `system_prompt`) beside any of them is the conversation's first message. Columns known to be
            metadata are not read: id, idx, index, concept, concept_id, genre, category, source, dataset, split, license, url,
            date, model and their like, and AxBench's (concept_genre, output_concept, dataset_category, ref, sae_id, sae_link).
            Any further column that is not empty is refused, also one that may be part of what is asked (task, topic, language,
            tags, label). Case, blanks and underscores in names do not count; the named index of a table is a column.

            A prompt is text or a list of messages, in a csv as JSON. Messages have a role and a content and nothing else.
        concept: what the responses show, in words.
        metadata: anything worth keeping, such as AxBench's reference and genre.
        negatives: examples without the concept that belong to no prompt above (AxBench's shared negatives).
        ignore: columns (and keys of messages) that are left out knowingly, as if they were not there.

    Raises:
        DataError: no rows, missing columns, a column that would be left out, a `category` other than "positive" or several
            concepts in one set (concept_id, concept, output_concept, sae_id, sae_link), an empty, NaN or non-text
            prompt or response, a role or part of a message that is not read; the error names file, row and column.
        TypeError: a concept that is no text, metadata that are no mapping, negatives that are no examples, or an `ignore`
            that is no list of names.
    """

    examples: tuple[Example, ...]
    concept: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    negatives: tuple[Example, ...] = ()

    def __init__(
        self,
        examples: Any,
        concept: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        negatives: Iterable[Example] = (),
        ignore: Collection[str] = (),
    ) -> None:
        _check_arguments(concept, metadata, ignore)
        source = f"{Path(examples).name}, " if isinstance(examples, (str, Path)) else ""
        found = _read_rows(examples)
        if not found:
            raise DataError(f"{source}the data have no rows")
        rows = tuple(_check(example, f"{source}row {number}", ignore) for number, example in enumerate(found))
        one_concept(found, source, ignore)
        negatives = tuple(negatives)
        if odd := next((negative for negative in negatives if not isinstance(negative, Example)), None):
            raise TypeError(f"negatives hold a {type(odd).__name__}; they must be Examples: SteeringData(rows).examples")
        object.__setattr__(self, "examples", rows)
        object.__setattr__(self, "concept", concept)
        object.__setattr__(self, "metadata", dict(metadata or {}))
        object.__setattr__(self, "negatives", negatives)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __getitem__(self, index: int | slice) -> "Example | SteeringData":
        if isinstance(index, slice):
            return SteeringData(self.examples[index], self.concept, self.metadata, self.negatives)
        return self.examples[index]

    def summary(self) -> str:
        """A sentence: how many examples of what, and how long their responses are."""
        subject = "" if self.concept is None else f" of {self.concept!r}"
        neutral = sum(example.neutral is not None for example in self.examples)
        words = median(len(example.response.split()) for example in self.examples)
        text = f"{len(self)} examples{subject}, {neutral} with a neutral response; responses of {words:g} words (median)"
        return f"{text}; {len(self.negatives)} shared negatives." if self.negatives else f"{text}."

    def to_frame(self) -> "pd.DataFrame":
        """One row per example: prompt (a conversation as JSON), response, neutral (None where there is none)."""
        import pandas as pd

        rows = [(as_cell(example.prompt), example.response, example.neutral) for example in self.examples]
        return pd.DataFrame(rows, columns=["prompt", "response", "neutral"])

    def __repr__(self) -> str:
        return f"<SteeringData: {self.summary()}>"

    def _repr_html_(self) -> str:
        return html_view("SteeringData", self.summary(), self.to_frame())

    @property
    def hash(self) -> str:
        """Fingerprint of the examples in their order (sha256, hex)."""
        rows = [[plain_prompt(e.prompt), e.response, e.neutral] for e in self.examples]
        return sha256(json.dumps(rows, ensure_ascii=True))


def as_data(data: Any) -> SteeringData:
    """The data themselves, or whatever `SteeringData` can be built from."""
    return data if isinstance(data, SteeringData) else SteeringData(data)


@checked_call
def read_axbench(
    directory: str | Path, *, neutral: "str | Path | pd.DataFrame | Callable[[SteeringData], SteeringData] | None" = None
) -> dict[int, SteeringData]:
    """Read an AxBench training folder (`metadata.jsonl` and `train_data.parquet`; a `generate/` folder in it is found).

    Args:
        neutral: the neutral responses that the benchmark's training data lack, so that preference objectives can be trained: a
            function of the data of a concept, such as `lambda data: with_neutral(model, data, cache="neutral.jsonl")`; or a
            table (csv, json, json lines, parquet, or a DataFrame) with the columns prompt and neutral, and perhaps response,
            which tells rows of one prompt apart.

    Returns:
        Concept id -> data, in the order of the ids. Each has the concept's words, `metadata` (concept_id, ref, genre)
        and as `negatives` the shared ones of its genre, as the benchmark takes them.

    Raises:
        FileNotFoundError: the folder has no such files.
        DataError: a row cannot be used, a concept has no rows, or the table of neutral responses has none for a row, or two.
    """
    fill = _filler(neutral)
    folder = Path(directory)
    if not (folder / "metadata.jsonl").exists() and (folder / "generate" / "metadata.jsonl").exists():
        folder = folder / "generate"
    table_path = folder / "train_data.parquet"
    for path in (folder / "metadata.jsonl", table_path):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: an AxBench folder holds metadata.jsonl, train_data.parquet")
    table = read_table(table_path).rename(columns=column_name)
    if not table.columns.is_unique:
        raise DataError(f"{table_path.name}: two columns have one name: {sorted(map(str, table.columns))}")
    missing = {"input", "output", "concept_id", "category"} - set(table.columns)
    if missing:
        raise DataError(f"{table_path.name} lacks the columns {sorted(missing)}")
    concepts: dict[int, SteeringData] = {}
    for index, row in enumerate(read_rows(folder / "metadata.jsonl")):
        line = named_columns(row) if isinstance(row, Mapping) else row
        number, concept, genre = _concept(line, f"metadata.jsonl, row {index}")
        if number in concepts:
            raise DataError(f"metadata.jsonl, row {index}: the concept_id {number} occurs twice")
        rows = table[(table["concept_id"] == number) & (table["category"] == "positive")]
        if rows.empty:
            raise DataError(
                f"metadata.jsonl, row {index}: concept {number} ({concept!r}) has no positive rows in {table_path.name}"
            )
        negatives = table[table["category"] == "negative"]
        if "concept_genre" in table and line.get("concept_genres_map"):
            negatives = negatives[negatives["concept_genre"] == genre]
        metadata = {"concept_id": number, "ref": line.get("ref"), "genre": genre}
        concepts[number] = fill(SteeringData(_rows_of(rows), concept, metadata, _rows_of(negatives)))
    return dict(sorted(concepts.items()))


def _filler(neutral: Any) -> Callable[[SteeringData], SteeringData]:
    """What gives data their neutral responses."""
    if neutral is None:
        return lambda data: data
    if callable(neutral):
        function: Any = neutral
        return function
    if not isinstance(neutral, (str, Path)) and not hasattr(neutral, "columns"):
        raise TypeError(f"neutral is {described(neutral)}; it must be a table, its path, or a function of data")
    table = read_table(neutral) if isinstance(neutral, (str, Path)) else neutral
    source = f"{Path(neutral).name}: " if isinstance(neutral, (str, Path)) else ""
    if missing := {"prompt", "neutral"} - set(table.columns):
        raise DataError(f"{source}the table of neutral responses lacks the columns {sorted(missing)}")
    keys = ["prompt", "response"] if "response" in table else ["prompt"]
    distinct = table[[*keys, "neutral"]].drop_duplicates()
    if len(twice := distinct[distinct.duplicated(keys)]):
        raise DataError(f"{source}there are two neutral responses to {twice['prompt'].iloc[0]!r:.60}")
    known = dict(zip(zip(*(distinct[key] for key in keys), strict=True), distinct["neutral"], strict=True))

    def fill(data: SteeringData) -> SteeringData:
        rows = []
        for example in data:
            key = (example.prompt, example.response)[: len(keys)]
            if key not in known:
                raise DataError(f"{source}there is no neutral response to {example.prompt!r:.60}")
            rows.append(Example(example.prompt, example.response, known[key]))
        return SteeringData(rows, data.concept, data.metadata, data.negatives)

    return fill


def _concept(line: Any, where: str) -> tuple[int, str, str | None]:
    """Number, words and genre of a line of AxBench's metadata."""
    if not isinstance(line, Mapping):
        raise DataError(f"{where}: expected a dict with concept_id and concept, got {described(line)}")
    number, concept, genres = line.get("concept_id"), line.get("concept"), line.get("concept_genres_map") or {}
    if isinstance(number, bool) or not isinstance(number, int):
        raise DataError(f"{where}: the concept_id is {described(number)}, not a whole number")
    if not isinstance(concept, str):
        raise DataError(f"{where}: the concept is {described(concept)}, not text")
    check_text(concept, f"{where}: the concept")
    found = list(genres.values()) if isinstance(genres, Mapping) else [None]
    first = [names[0] for names in found if isinstance(names, list) and names and isinstance(names[0], str)]
    if len(first) < len(found):
        raise DataError(f"{where}: concept_genres_map is {described(genres)}, not lists of genres by concept")
    return number, concept, first[0] if first else None


def _rows_of(table: "pd.DataFrame") -> list[Example]:
    """Rows of an AxBench table, named in errors by their index in the whole file."""
    rows = zip(table.index, table["input"], table["output"], strict=True)
    return [
        _check({"prompt": prompt, "response": output}, f"train_data.parquet, row {number}") for number, prompt, output in rows
    ]


def _check_arguments(concept: Any, metadata: Any, ignore: Any) -> None:
    if concept is not None and not isinstance(concept, str):
        raise TypeError(f"concept is {described(concept)}; it must be text that says what the responses show, or None")
    check_text(concept or "", "the concept")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata are {described(metadata)}; they must be a dict")
    if isinstance(ignore, str) or not isinstance(ignore, Collection) or not all(isinstance(name, str) for name in ignore):
        raise TypeError(f"ignore is {described(ignore)}; it must be a list of column names, such as ['label']")


def check_text(text: str, what: str) -> None:
    """Raise DataError, beginning with `what`, for a text that holds half a character, which no tokenizer and no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} holds {text[error.start]!r} at {error.start}, half a character (a lone surrogate), which cannot be "
            "written as UTF-8: take it out, or read the file that it is from in its own encoding"
        ) from error


def _no_rows(source: Any) -> DataError:
    return DataError(
        f"the data are {type(source).__name__}; give a list of rows, for example [{{'prompt': ..., 'response': ...}}]"
    )


def _read_rows(source: Any) -> list[Any]:
    """A list of Examples or dicts from any of the accepted forms."""
    if isinstance(source, (str, Path)):
        return _read_file(Path(source))
    if isinstance(source, SteeringData):
        return list(source.examples)
    if isinstance(source, type):
        raise _no_rows(source)
    if hasattr(source, "to_dicts"):  # a polars DataFrame, without importing polars
        return source.to_dicts()
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # a pandas DataFrame, without importing pandas
        frame: Any = source
        if not frame.columns.is_unique:
            raise DataError(f"two columns of the table have one name: {list(map(str, frame.columns))}")
        return index_as_columns(frame).to_dict(orient="records")
    if hasattr(source, "to_pylist"):  # a pyarrow Table
        return source.to_pylist()
    if isinstance(source, Mapping):
        return _transposed(source)
    if not (isinstance(source, Iterable) or hasattr(source, "__getitem__")):
        raise _no_rows(source)
    return list(source)  # a list of rows or a Hugging Face Dataset, which iterates over dicts


def _transposed(columns: Mapping[Any, Any]) -> list[Any]:
    """The rows of a dict of columns."""
    if columns and all(hasattr(part, "column_names") for part in columns.values()):
        raise DataError(f"the data are a dict of data sets ({', '.join(map(str, columns))}); give one of them: data['train']")
    lists = {name: part.tolist() if hasattr(part, "tolist") else part for name, part in columns.items()}
    lengths = {str(name): len(part) for name, part in lists.items() if isinstance(part, (list, tuple))}
    if len(lengths) < len(lists) or len(set(lengths.values())) > 1:
        raise DataError(
            f"the data are {type(columns).__name__}; give a list of rows, for example [{{'prompt': ..., 'response': ...}}], or "
            f"a dict of equally long lists (of the lists here: {lengths or 'none'})"
        )
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def _read_file(path: Path) -> list[Any]:
    rows = read_rows(path)
    if path.suffix.lower() == ".csv":  # an empty cell is how a CSV leaves a neutral response out
        for row in rows:
            row.update({name: None for name in row if column_name(name) in ("neutral", "negative_output") and row[name] == ""})
    return rows


def _check(row: Any, where: str, ignore: Collection[str] = ()) -> Example:
    """Turn a row into an Example, or say what is wrong with it."""
    is_example = isinstance(row, Example)
    prompt, response, neutral = (row.prompt, row.response, row.neutral) if is_example else _from_mapping(row, where, ignore)
    check_prompt(prompt, where)
    if isinstance(prompt, str) and not prompt.strip():
        raise DataError(f"{where}: the prompt is empty")
    if not isinstance(response, str):
        raise DataError(f"{where}: the response is {described(response)}, not text")
    if not response.strip():
        raise DataError(f"{where}: the response is empty")
    if neutral is not None and (not isinstance(neutral, str) or not neutral.strip()):
        raise DataError(f"{where}: the neutral response is {described(neutral)}; leave it out or fill it")
    for name, text in (("response", response), ("neutral response", neutral)):
        check_text(text or "", f"{where}: the {name}")
    if is_example:
        return _without_empty_parts(row, where, ignore)
    conversation: Any = prompt  # from parquet it comes as an array
    return Example(conversation.tolist() if hasattr(prompt, "tolist") else prompt, response, neutral)


def _without_empty_parts(example: Example, where: str, ignore: Collection[str]) -> Example:
    """An example whose messages say nothing but who speaks and what."""
    if isinstance(example.prompt, str):
        return example
    turns = messages(Row({"prompt": example.prompt}, where, ignore), "prompt", ROLES, may_be_empty=True)
    return example if turns == plain_prompt(example.prompt) else replace(example, prompt=turns)


def _from_mapping(row: Any, where: str, ignore: Collection[str]) -> tuple[Any, Any, Any]:
    """Prompt, response and neutral response of a row, unchecked."""
    if hasattr(row, "positive") and hasattr(row, "negative"):  # repeng's DatasetEntry
        row = {"positive": row.positive, "negative": row.negative}
    if not isinstance(row, Mapping):
        pair = isinstance(row, (list, tuple)) and len(row) == 2
        remedy = (
            ": whether a pair is prompt and response or positive and negative cannot be told; write {'prompt': ..., "
            "'response': ...} or {'prompt': ..., 'positive': ..., 'negative': ...}"
        )
        raise DataError(f"{where}: expected a dict or an Example, got {described(row)}{remedy if pair else ''}")
    return fields_of(Row(named_columns(row, ignore), where, ignore))


def check_prompt(prompt: Any, where: str) -> None:
    """Raise DataError, beginning with `where`, unless the prompt is text or a conversation that ends with a question."""
    if isinstance(prompt, str):
        check_text(prompt, f"{where}: the prompt")
        return
    is_list = isinstance(prompt, Sequence) or hasattr(prompt, "tolist")
    turns = list(prompt) if is_list else []
    texts = [m.get(key) for m in turns if isinstance(m, Mapping) for key in ("role", "content")]
    if not turns or len(texts) < 2 * len(turns) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: the prompt is {described(prompt)}, neither text nor a list of role/content messages")
    for index, message in enumerate(turns):
        if message["role"] not in ROLES:
            raise DataError(
                f"{where}: message {index} of the prompt is by {message['role']!r:.40}; roles are {', '.join(ROLES)}"
            )
        check_text(message["content"], f"{where}: message {index} of the prompt")
    if not turns[-1]["content"].strip():
        raise DataError(f"{where}: the last message of the prompt is empty")
    if turns[-1]["role"] == "assistant":
        raise DataError(f"{where}: the conversation ends with the assistant; its last message must be the user's")


def plain_prompt(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as JSON values."""
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
