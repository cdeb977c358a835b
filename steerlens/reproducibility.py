"""Seeds, digests and versions: what makes a run the same run again."""

import hashlib
import inspect
import operator
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from types import CodeType
from typing import Any, SupportsIndex

import torch


def class_name(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


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
        return repr([plain_text(one) for one in value])
    if isinstance(value, dict):
        return repr([(plain_text(key), plain_text(one)) for key, one in value.items()])
    if is_dataclass(value) and not isinstance(value, type):
        held = ", ".join(f"{field.name}={plain_text(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__qualname__}({held})"
    return repr(value) if value is None or isinstance(value, (str, bytes, int, float, complex)) else class_name(type(value))


def prompt_seeds(seed: SupportsIndex | Iterable[SupportsIndex], n: int) -> list[int]:
    """The seed of each of `n` prompts, from one for the batch or one per prompt, of any integer type."""
    try:
        seeds = [operator.index(one) for one in seed] if isinstance(seed, Iterable) else row_seeds(operator.index(seed), n)
    except TypeError as error:
        raise ValueError(f"the seed is {seed!r}; it must be a whole number, or one per prompt") from error
    if len(seeds) != n:
        raise ValueError(f"{len(seeds)} seeds for {n} prompts: give one seed, or one per prompt")
    return seeds


def row_seeds(seed: int, n: int) -> list[int]:
    """The seed of each row of a batch; row i's depends on `seed` and i alone."""
    digests = (hashlib.sha256(f"{seed}:{row}".encode()).digest() for row in range(n))
    return [int.from_bytes(digest[:7], "big") for digest in digests]


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """A generator of its own for each purpose, so that methods which draw more do not shift the others."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def software_versions() -> dict[str, str]:
    found = {}
    for package in ("steerlens", "torch", "transformer-lens", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that was not installed
            found[package] = "unknown"
    return found
