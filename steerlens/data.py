"""Training data: instructions with a response that shows the concept and, optionally, one that does not.

Every reader ends in `SteeringData`, which is checked on construction: what is wrong is said with the row it is in.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .reproducibility import sha256
from .result import html_view
from .tables import DataError, read_rows, read_table

if TYPE_CHECKING:
    import pandas as pd

Message = Mapping[str, str]
Prompt = str | Sequence[Message]
"""One user turn, or a conversation of {"role", "content"} messages."""

_COLUMNS = (
    # (prompt, response, neutral): the first set whose first two columns are present is used
    ("prompt", "response", "neutral"),
    ("negative_input", "positive_output", "negative_output"),  # AxBench, contrastive
    ("input", "output", None),  # AxBench
)
_KNOWN = "prompt/response(/neutral), input/output, or negative_input/positive_output(/negative_output)"


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
        examples: `Example`s, dicts, a pandas DataFrame, a Hugging Face `Dataset`, or the path of a `.jsonl`, `.json`,
            `.csv` or `.parquet` file. Columns: prompt/response/neutral, AxBench's input/output, or the contrastive
            negative_input/positive_output/negative_output.
        concept: what the responses show, in words.
        metadata: anything worth keeping, such as AxBench's reference and genre.
        negatives: examples without the concept that belong to no prompt above (AxBench's shared negatives).

    Raises:
        DataError: no rows, missing columns, or an empty, NaN or non-text prompt or response; the message names the row.
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
    ) -> None:
        rows = tuple(_check(example, number) for number, example in enumerate(_read_rows(examples)))
        if not rows:
            raise DataError("the data have no rows")
        object.__setattr__(self, "examples", rows)
        object.__setattr__(self, "concept", concept)
        object.__setattr__(self, "metadata", dict(metadata or {}))
        object.__setattr__(self, "negatives", tuple(negatives))

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
        """One row per example: prompt, response, neutral (None where there is none)."""
        import pandas as pd

        rows = [(example.prompt, example.response, example.neutral) for example in self.examples]
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


def read_axbench(directory: str | Path) -> dict[int, SteeringData]:
    """Read an AxBench training folder (`metadata.jsonl` and `train_data.parquet`; a `generate/` folder in it is found).

    Returns:
        Concept id -> data, in the order of the ids. Each has the concept's words, `metadata` (concept_id, ref, genre)
        and as `negatives` the shared ones of its genre, as the benchmark takes them.

    Raises:
        FileNotFoundError: the folder has no such files.
        DataError: a row cannot be used, or a concept has no rows.
    """
    folder = Path(directory)
    if not (folder / "metadata.jsonl").exists() and (folder / "generate" / "metadata.jsonl").exists():
        folder = folder / "generate"
    table_path = folder / "train_data.parquet"
    for path in (folder / "metadata.jsonl", table_path):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: an AxBench folder holds metadata.jsonl, train_data.parquet")
    table = read_table(table_path)
    missing = {"input", "output", "concept_id", "category"} - set(table.columns)
    if missing:
        raise DataError(f"{table_path.name} lacks the columns {sorted(missing)}")
    negatives = table[table["category"] == "negative"]
    concepts: dict[int, SteeringData] = {}
    for line in read_rows(folder / "metadata.jsonl"):
        number = int(line["concept_id"])
        rows = table[(table["concept_id"] == number) & (table["category"] == "positive")]
        if rows.empty:
            raise DataError(f"concept {number} ({line['concept']!r}) has no positive rows in {table_path.name}")
        genres = line.get("concept_genres_map", {})
        metadata = {"concept_id": number, "ref": line.get("ref"), "genre": next(iter(genres.values()), [None])[0]}
        alike = negatives[negatives["concept_genre"] == metadata["genre"]] if "concept_genre" in table and genres else negatives
        concepts[number] = SteeringData(_rows_of(rows), line["concept"], metadata, _rows_of(alike))
    return dict(sorted(concepts.items()))


def _rows_of(table: "pd.DataFrame") -> list[Example]:
    """Rows of an AxBench table, named in errors by their index in the whole file."""
    rows = zip(table.index, table["input"], table["output"], strict=True)
    return [_check({"prompt": prompt, "response": output}, number) for number, prompt, output in rows]


def _read_rows(source: Any) -> list[Any]:
    """A list of Examples or dicts from any of the accepted forms."""
    if isinstance(source, (str, Path)):
        return _read_file(Path(source))
    if isinstance(source, SteeringData):
        return list(source.examples)
    frame_like = hasattr(source, "columns")
    if (
        isinstance(source, type)
        or not (isinstance(source, Iterable) or hasattr(source, "__getitem__"))
        or (isinstance(source, Mapping) and not frame_like)
    ):
        raise DataError(
            f"the data are {type(source).__name__}; give a list of rows, for example [{{'prompt': ..., 'response': ...}}]"
        )
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # a pandas DataFrame, without importing pandas
        frame: Any = source
        return frame.to_dict(orient="records")
    return list(source)  # a list of rows or a Hugging Face Dataset, which iterates over dicts


def _read_file(path: Path) -> list[Any]:
    rows = read_rows(path)
    if path.suffix.lower() == ".csv":  # an empty cell is how a CSV leaves a neutral response out
        for row in rows:
            row.update({column: None for column in ("neutral", "negative_output") if row.get(column) == ""})
    return rows


def _check(row: Any, number: int) -> Example:
    """Turn a row into an Example, or say what is wrong with it."""
    is_example = isinstance(row, Example)
    prompt, response, neutral = (row.prompt, row.response, row.neutral) if is_example else _from_mapping(row, number)
    check_prompt(prompt, f"row {number}")
    if isinstance(prompt, str) and not prompt.strip():
        raise DataError(f"row {number}: the prompt is empty")
    if not isinstance(response, str):
        raise DataError(f"row {number}: the response is {_describe(response)}, not text")
    if not response.strip():
        raise DataError(f"row {number}: the response is empty")
    if neutral is not None and (not isinstance(neutral, str) or not neutral.strip()):
        raise DataError(f"row {number}: the neutral response is {_describe(neutral)}; leave it out or fill it")
    return row if is_example else Example(prompt, response, neutral)


def _from_mapping(row: Any, number: int) -> tuple[Any, Any, Any]:
    """Prompt, response and neutral response of a row, unchecked."""
    if not isinstance(row, Mapping):
        raise DataError(f"row {number}: expected a dict or an Example, got {_describe(row)}")
    if "prompt" not in row and row.get("concept_id") == -1:
        raise DataError(f"row {number}: a shared negative of AxBench (concept_id -1); read the folder with read_axbench")
    for prompt, response, neutral in _COLUMNS:
        if prompt in row and response in row:
            other = row.get(neutral) if neutral else None
            return _present(row[prompt], number, "prompt"), row[response], None if _is_nan(other) else other
    raise DataError(f"row {number}: columns {sorted(map(str, row))} hold no prompt and response; known: {_KNOWN}")


def _present(value: Any, number: int, name: str) -> Any:
    if value is None or _is_nan(value):
        raise DataError(f"row {number}: the {name} is missing ({_describe(value)})")
    return value


def check_prompt(prompt: Any, where: str) -> None:
    """Raise DataError, beginning with `where`, unless the prompt is text or a conversation that ends with a question."""
    if isinstance(prompt, str):
        return
    is_list = isinstance(prompt, Sequence) or hasattr(prompt, "tolist")
    messages = list(prompt) if is_list else []
    texts = [m.get(key) for m in messages if isinstance(m, Mapping) for key in ("role", "content")]
    if not messages or len(texts) < 2 * len(messages) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: the prompt is {_describe(prompt)}, neither text nor a list of role/content messages")
    if not messages[-1]["content"].strip():
        raise DataError(f"{where}: the last message of the prompt is empty")
    if messages[-1]["role"] == "assistant":
        raise DataError(f"{where}: the conversation ends with the assistant; its last message must be the user's")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _describe(value: Any) -> str:
    if value is None:
        return "missing"
    return "NaN" if _is_nan(value) else f"{type(value).__name__} {value!r:.40}"


def plain_prompt(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as JSON values."""
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
