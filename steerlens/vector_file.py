"""The file of a steering vector: tensors, everything about them as JSON, and a checksum of both, in one safetensors file.

Nothing is unpickled, and nothing is read before kind, size and header are those of a vector.
"""

import hashlib
import json
import stat
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

SCHEMA = 1
_TEXT = (str, type(None))
FIELDS = {"factor": (float,), "layer": (int,), "positions": (str,), "form": (str,), "concept": _TEXT, "model_name": _TEXT}
"""What the header says of a vector, with its types."""
DTYPES = {"direction": torch.float32, "read": torch.float32, "bias": torch.float32, "history": torch.float64}
LONGEST_HEADER, LARGEST = 100 * 2**20, 2**30
"""Bytes that are read of a file: of its header, and in all."""


class VectorFileError(ValueError):
    """The file is not an intact steerlens vector: damaged, truncated, of another kind, or of a later schema."""


def _refuse(*_args: Any, **_kwargs: Any) -> Any:
    raise TypeError("the provenance of a vector is not written to: make a new vector with sv.replace(...)")


class ReadOnly(dict[str, Any]):
    """A dict that is not written to; copies and pickles like one."""

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _refuse  # pyright: ignore - narrower than dict's on purpose

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadOnly, (dict(self),)

    def __deepcopy__(self, memo: Any) -> "ReadOnly":
        return ReadOnly(deepcopy(dict(self), memo))


class ReadOnlyList(list[Any]):
    """A list that is not written to; copies and pickles like one."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = append = extend = insert = pop = remove = clear = sort = reverse = _refuse  # pyright: ignore - narrower than list's on purpose

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadOnlyList, (list(self),)

    def __deepcopy__(self, memo: Any) -> "ReadOnlyList":
        return ReadOnlyList(deepcopy(list(self), memo))


def kept_values(value: Any, where: str) -> Any:
    """A read-only copy of JSON values, tuples as lists; ValueError for what JSON does not keep as it is."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{where} has the key {name!r:.60}; keys must be text")
        return ReadOnly({name: kept_values(each, f"{where}[{name!r:.40}]") for name, each in value.items()})
    if isinstance(value, list | tuple):
        return ReadOnlyList([kept_values(each, f"{where}[{index}]") for index, each in enumerate(value)])
    return deepcopy(value)


def content_of(path: Path) -> bytes:
    """The content of a vector's file, which is not read unless its kind, size and header are those of one."""
    about = path.stat()
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(f"{path} is a folder; a vector is one file")
    if not stat.S_ISREG(about.st_mode):
        raise VectorFileError("not a regular file")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size <= min(about.st_size - 8, LONGEST_HEADER):
            raise VectorFileError("not an intact steerlens vector (a header of impossible length)")
        header = json.loads(file.read(size))
        if "steerlens" not in header.get("__metadata__", {}):
            raise VectorFileError("a safetensors file without a steerlens header")
        length = 8 + size + max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
        if about.st_size != length:
            raise VectorFileError(f"not an intact steerlens vector ({about.st_size} bytes, {length} by its header)")
        if about.st_size > LARGEST:
            raise VectorFileError(f"{about.st_size} bytes; a vector has at most {LARGEST}")
        file.seek(0)
        return file.read(length)


def check_history(history: pd.DataFrame) -> None:
    """Raise ValueError for a history that a file would not give back as it is."""
    names = list(history.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"the history has the columns {names!r:.80}; they must be texts, each once")
    if not history.index.equals(pd.RangeIndex(len(history))):
        raise ValueError("the history has an index, which no file keeps: use reset_index()")
    for name in names:
        column = history[name]
        if not isinstance(column.dtype, np.dtype) or column.dtype.kind not in "fiub" or column.dtype.itemsize > 8:
            raise ValueError(f"the history must hold numbers only: {name!r} is of dtype {column.dtype}")
        if column.dtype.kind in "iu" and bool((column.astype(np.float64).abs() > 2**53).any()):
            raise ValueError(f"the history's {name!r} holds whole numbers over 2**53, which no file keeps")


def packed(
    fields: Mapping[str, Any], provenance: Mapping[str, Any], history: pd.DataFrame | None, tensors: Mapping[str, Tensor]
) -> bytes:
    """A vector as the content of its file.

    Args:
        fields: those of `FIELDS`.
        history: its training, numbers only.
        tensors: direction, and read and bias where the form has them.
    """
    kept = dict(tensors)
    header: dict[str, Any] = {**fields, "schema": SCHEMA, "provenance": dict(provenance), "history": None}
    if history is not None:
        header["history"] = list(history.columns)
        header["history_dtypes"] = [str(dtype) for dtype in history.dtypes]
        kept["history"] = torch.from_numpy(np.ascontiguousarray(history.to_numpy(np.float64)))
    payload = json.dumps(header)
    return safetensors.torch.save(kept, {"steerlens": payload, "sha256": _checksum(payload, kept)})


def unpacked(content: bytes) -> dict[str, Any]:
    """What a vector is made of again, by the names of its fields.

    Raises:
        VectorFileError: the content is damaged, of another kind, or of a later schema.
    """
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    if "steerlens" not in metadata:
        raise VectorFileError("a safetensors file without a steerlens header")
    payload = metadata["steerlens"]
    tensors = safetensors.torch.load(content)
    if _checksum(payload, tensors) != metadata.get("sha256"):
        raise VectorFileError("the checksum does not match: the file was damaged after it was saved")
    if any(tensor.dtype != DTYPES.get(name) for name, tensor in tensors.items()):
        raise VectorFileError(f"unexpected tensors: {sorted(tensors)}")
    header = json.loads(payload)
    if header["schema"] not in range(1, SCHEMA + 1):
        raise VectorFileError(f"schema {header['schema']}, this steerlens reads up to {SCHEMA}: upgrade steerlens")
    for name, kinds in FIELDS.items():
        if type(header[name]) not in kinds:
            raise VectorFileError(f"the header's {name} is {header[name]!r}, not {' or '.join(k.__name__ for k in kinds)}")
    history = None
    if header["history"] is not None:
        history = pd.DataFrame(tensors["history"].numpy(), columns=header["history"])
        dtypes = header.get("history_dtypes")
        if dtypes is None:  # files of before they were kept
            history = history.astype({name: int for name in ("step", "epoch") if name in history})
        else:
            history = history.astype(dict(zip(header["history"], map(_number_dtype, dtypes), strict=True)))
    fields = {name: header[name] for name in FIELDS} | {name: tensors.get(name) for name in ("direction", "read", "bias")}
    return fields | {"provenance": header["provenance"], "history": history}


def _number_dtype(name: Any) -> np.dtype[Any]:
    dtype = np.dtype(str(name))
    if dtype.kind not in "fiub":
        raise VectorFileError(f"a column of the history is of dtype {name!r:.40}, which holds no numbers")
    return dtype


def _checksum(payload: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(payload.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
