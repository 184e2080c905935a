"""Arrays of vectors as pickles, the file format of the public scorers. The only pickles we touch.

Reading builds numbers, strings, lists, tuples and dictionaries, and arrays through classes of our
own: no function of another library sees what the file says, and any other name in it ends the
reading before it is looked up.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmembed.errors import DataError
from mmembed.store.durable import write_atomically

__all__ = ["read_array", "read_named_rows", "write_array", "write_named_rows"]

_PROTOCOL = 4  # the highest that a reader of any supported Python and numpy knows
_FLOATS = {"f2", "f4", "f8"}
_READABLE = _FLOATS | {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}


def write_array(path: Path, rows: np.ndarray) -> None:
    """(N, D) rows as one float32 array, atomically."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    write_atomically(path, pickle.dumps(rows, protocol=_PROTOCOL))


def write_named_rows(path: Path, rows: Mapping[str, np.ndarray]) -> None:
    """Name -> row as a dictionary of float32 arrays in the same order, atomically."""
    named = {name: np.array(row, dtype=np.float32) for name, row in rows.items()}
    write_atomically(path, pickle.dumps(named, protocol=_PROTOCOL))


def read_array(path: Path) -> np.ndarray:
    """(N, D) float32 of a file that holds one array of floating-point numbers.

    Raises:
        DataError: anything else in it, or damaged.
    """
    rows = _read(path)
    if not isinstance(rows, _Array) or len(rows.shape) != 2:
        raise DataError(f"{path} holds {_kind(rows)}; expected an array of shape (N, D)")
    return _floats(rows, path)


def read_named_rows(path: Path) -> dict[str, np.ndarray]:
    """Name -> (D,) float32 of a file that holds a dictionary of rows, in its order.

    Raises:
        DataError: anything else in it, rows of different lengths, or damaged.
    """
    rows = _read(path)
    if not isinstance(rows, dict) or not rows:
        raise DataError(f"{path} holds {_kind(rows)}; expected a dictionary of rows")
    for name, row in rows.items():
        if not isinstance(name, str) or not isinstance(row, _Array) or len(row.shape) != 1:
            raise DataError(
                f"{path}: {_kind(row)} under the name {name!r}; expected a row under a string"
            )
    found = {name: _floats(row, path) for name, row in rows.items()}
    if len({len(row) for row in found.values()}) > 1:
        raise DataError(f"{path}: the rows differ in length")
    return found


def _read(path: Path) -> Any:
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing", missing=[str(path)]) from None
    try:
        return _Unpickler(io.BytesIO(payload)).load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path} is no readable pickle: {error!r}") from None


def _floats(array: _Array, path: Path) -> np.ndarray:
    if array.dtype.code not in _FLOATS:
        raise DataError(f"{path} holds {array.dtype.code} numbers; expected float32")
    return array.values().astype(np.float32)


def _kind(found: Any) -> str:
    return f"an array of shape {found.shape}" if isinstance(found, _Array) else type(found).__name__


class _Dtype:
    """What a pickle says about `numpy.dtype`: kind, size and byte order of plain numbers."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code.lstrip("<>|=")
        self.order = "<"
        if self.code not in _READABLE:
            raise DataError(f"holds an array of {code!r}; expected numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def parse(self, payload: bytes | bytearray) -> np.ndarray:
        return np.frombuffer(payload, dtype=np.dtype(self.order + self.code))


class _Array:
    """What a pickle says about `numpy.ndarray`. Filled by one of the ways numpy writes it."""

    def __init__(self) -> None:
        self.payload: bytes | bytearray = b""
        self.dtype = _Dtype("f4")
        self.shape: tuple[int, ...] = ()
        self.order = "C"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, dtype, is_fortran, payload = state
        self.fill(payload, dtype, shape, "F" if is_fortran else "C")

    def fill(self, payload: Any, dtype: Any, shape: Any, order: str) -> _Array:
        if not isinstance(payload, bytes | bytearray) or not isinstance(dtype, _Dtype):
            raise DataError("holds an array of objects; expected numbers")
        self.payload, self.dtype, self.order = payload, dtype, order
        self.shape = tuple(int(size) for size in shape)
        if min(self.shape, default=0) < 0 or len(payload) != self._size():
            raise DataError(f"an array of {self.shape} has {len(payload)} bytes")
        return self

    def values(self) -> np.ndarray:
        flat = self.dtype.parse(self.payload)
        return flat.reshape(self.shape, order="F" if self.order == "F" else "C")

    def _size(self) -> int:
        return math.prod(self.shape) * int(self.dtype.code[1:])


def _new_array(kind: Any, shape: Any, typecode: Any) -> _Array:
    """`_reconstruct`: an empty array, filled by `__setstate__`."""
    if kind is not _Array:
        raise DataError(f"holds an array of the kind {kind!r}")
    return _Array()


def _array_of_buffer(payload: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    """`_frombuffer`: what protocol 5 writes."""
    return _Array().fill(payload, dtype, shape, order)


def _scalar(dtype: Any, payload: Any) -> Any:
    return _Array().fill(payload, dtype, (), "C").values().item()


def _latin_bytes(text: Any, encoding: Any) -> bytes:
    """`codecs.encode`: how protocols before 3 write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise DataError(f"asks for the encoding {encoding!r}")
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin_bytes,
} | {
    (f"numpy.{core}.{module}", name): ours
    for core in ("core", "_core")  # numpy 1, numpy 2
    for module, name, ours in (
        ("multiarray", "_reconstruct", _new_array),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _array_of_buffer),
    )
}


_STEPS: dict[int, Any] = dict(pickle._Unpickler.dispatch)


def _set_state(unpickler: Any) -> None:
    """Of what we made only: a file could change our functions otherwise."""
    if not isinstance(unpickler.stack[-2], _Array | _Dtype):
        raise DataError("sets the state of what is no array")
    _STEPS[pickle.BUILD[0]](unpickler)


# The one in Python: the one in C makes room for as many objects as a damaged file asks for.
class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = {**_STEPS, pickle.BUILD[0]: _set_state}

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise DataError(f"asks for {module}.{name}; only numbers, strings and arrays are read")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("refers to objects outside the file")
