"""Seeds, digests and versions: what makes a run the same run again."""

import hashlib
import inspect
import json
import operator
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, SupportsIndex

if TYPE_CHECKING:
    import torch  # only generators need it, and readers of data none


# --- digests ----------------------------------------------------------------------------------------------------------


def sha256(text: str) -> str:
    """64 hexadecimal digits, of any text (lone surrogates included)."""
    return _hash(text).hex()


def digest(text: str) -> str:
    """The first twelve digits of `sha256`: enough to tell texts apart, short enough to show."""
    return sha256(text)[:12]


def file_sha256(path: str | Path) -> str:
    """`sha256` of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: str | Path) -> str:
    """`digest` of a file's bytes."""
    return file_sha256(path)[:12]


def json_digest(value: Any) -> str:
    """`sha256` of JSON values, whatever the order of the names in their mappings."""
    return sha256(json.dumps(value, sort_keys=True))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


# --- code and values as text ------------------------------------------------------------------------------------------


def class_name(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def function_text(function: Callable[..., Any], text: Callable[[Any], str]) -> str:
    """A function's code with the texts of its defaults and of what it holds, the same in every process."""
    inner = inspect.unwrap(function)
    code = getattr(inner, "__code__", None)
    if code is None:
        return class_name(type(inner))
    held = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    given = [getattr(inner, "__defaults__", None), getattr(inner, "__kwdefaults__", None), *held]
    return repr((_code(code), [text(value) for value in given]))


def _code(code: CodeType) -> str:
    return repr((code.co_code, code.co_names, [plain_text(constant) for constant in code.co_consts]))


def plain_text(value: Any) -> str:
    """A value without the address that the repr of many has, and sets in order."""
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, (set, frozenset)):
        return repr(sorted(map(plain_text, value)))
    if isinstance(value, (list, tuple)):
        return repr([plain_text(item) for item in value])
    if isinstance(value, dict):
        return repr([(plain_text(key), plain_text(item)) for key, item in value.items()])
    if is_dataclass(value) and not isinstance(value, type):
        held = ", ".join(f"{field.name}={plain_text(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__qualname__}({held})"
    return repr(value) if value is None or isinstance(value, (str, bytes, int, float, complex)) else class_name(type(value))


# --- seeds ------------------------------------------------------------------------------------------------------------


def derived_seed(*parts: object) -> int:
    """A seed of its own for whatever the parts name, in their order: 56 bits of their sha256."""
    return int.from_bytes(_hash(":".join(map(str, parts)))[:7], "big")


def prompt_seeds(seed: SupportsIndex | Iterable[SupportsIndex], n: int) -> list[int]:
    """The seed of each of `n` prompts, from one for the batch or one per prompt, of any integer type."""
    if isinstance(seed, (set, frozenset)):
        raise ValueError("the seeds are a set, which has no order: give a list")
    try:
        seeds = list(map(operator.index, seed)) if isinstance(seed, Iterable) else row_seeds(operator.index(seed), n)
    except TypeError as error:
        raise ValueError(f"the seed is {seed!r}; it must be a whole number, or one per prompt") from error
    if len(seeds) != n:
        raise ValueError(f"{len(seeds)} seeds for {n} prompts: give one seed, or one per prompt")
    return seeds


def row_seeds(seed: int, n: int) -> list[int]:
    """The seed of each row of a batch; row i's depends on `seed` and i alone."""
    return [derived_seed(seed, row) for row in range(n)]


def generator_for(seed: int, purpose: str) -> "torch.Generator":
    """A generator of its own for each purpose, so that methods which draw more do not shift the others."""
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, purpose))


# --- versions ---------------------------------------------------------------------------------------------------------


def software_versions() -> dict[str, str]:
    """Versions of what decides the numbers, by package."""
    found = {}
    for package in ("steerlens", "torch", "transformer-lens", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that was not installed
            found[package] = "unknown"
    return found
