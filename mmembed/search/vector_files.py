"""Encodes the items of files and writes what came out: vectors, the id of each row, what failed.

vectors.npy               (or .safetensors, with the model's fingerprint)
vectors.npy.ids.jsonl     {"row": 0, "id": "cat", "ok": true}
vectors.npy.errors.jsonl  {"id": "dog", "item": 1, "part": "image", "code": ..., "detail": ...}

vectors.parquet           columns id and vector, null where an item failed; no .ids.jsonl

`mmembed encode` writes one such set of files, or one for each shard of a job (`jobs.py`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmembed.encoder.embedder import Embedder
from mmembed.encoder.head import Precision
from mmembed.errors import ConfigError, InputError, MissingDependencyError
from mmembed.inputs.item_files import FileItem
from mmembed.store.durable import write_atomically
from mmembed.types import MultimodalInput, Role

__all__ = [
    "VECTOR_SUFFIXES",
    "EncodedItems",
    "check_vector_file",
    "encode_items",
    "file_payloads",
    "import_pyarrow",
    "write_vectors",
]

VECTOR_SUFFIXES = (".npy", ".safetensors", ".parquet")


@dataclass(frozen=True)
class EncodedItems:
    """N items and their vectors.

    Attributes:
        ids: name of each of the N items.
        kept: which item each row of `vectors` is.
        vectors: (len(kept), D), NaN in the rows of failed items.
        errors: by position in `ids`.
    """

    ids: Sequence[str]
    kept: Sequence[int]
    vectors: np.ndarray
    errors: Mapping[int, InputError]


def encode_items(
    embedder: Embedder,
    entries: Sequence[FileItem],
    *,
    role: Role = "document",
    instruction: str | None = None,
    truncate_dim: int | None = None,
    precision: Precision = "float32",
    on_error: Literal["raise", "null", "skip"] = "raise",
    batch_tokens: int | None = None,
    show_progress_bar: bool | None = None,
) -> EncodedItems:
    """The vectors of items, some of which may be none; options as in `Embedder.encode`.

    Raises:
        InputError: under `on_error="raise"`, with its position in `entries`.
    """
    errors = {n: e.item for n, e in enumerate(entries) if isinstance(e.item, InputError)}
    if errors and on_error == "raise":
        first = min(errors)
        raise errors[first].at(first)
    good = [n for n, e in enumerate(entries) if isinstance(e.item, MultimodalInput)]
    rows, report = embedder.encode(
        [entries[number].item for number in good],
        role=role,
        instruction=instruction,
        truncate_dim=truncate_dim,
        precision=precision,
        on_error=on_error,
        batch_tokens=batch_tokens,
        return_report=True,
        show_progress_bar=show_progress_bar,
    )
    for error in report.errors:
        place = error.index[0] if isinstance(error.index, tuple) else error.index
        errors[good[place]] = error
    ids = [entry.id for entry in entries]
    if on_error != "null":
        return EncodedItems(ids, [n for n in good if n not in errors], rows, errors)
    vectors = np.full((len(entries), rows.shape[1]), np.nan, dtype=rows.dtype)
    vectors[good] = rows
    return EncodedItems(ids, range(len(entries)), vectors, errors)


def check_vector_file(path: Path) -> None:
    """Refuse a name that `write_vectors` could not write. Raises ConfigError."""
    if path.suffix not in VECTOR_SUFFIXES:
        raise ConfigError(
            f"{path.name!r} must end in .npy, .safetensors or .parquet, or in / for a folder of "
            "shards"
        )
    if path.is_dir():
        raise ConfigError(f"{path} is a folder")
    if path.suffix == ".parquet":
        import_pyarrow()


def write_vectors(path: Path, encoded: EncodedItems, *, fingerprint: str) -> None:
    """Write the files; each is replaced whole."""
    check_vector_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, payload in file_payloads(path.name, encoded, fingerprint=fingerprint).items():
        write_atomically(path.with_name(name), payload)


def file_payloads(
    name: str, encoded: EncodedItems, *, fingerprint: str, first_item: int = 0
) -> dict[str, bytes]:
    """The files of `encoded`, by name.

    Args:
        first_item: number of the first item among those of all shards.
    """
    rows = np.ascontiguousarray(encoded.vectors)
    names = [encoded.ids[number] for number in encoded.kept]
    good = [number not in encoded.errors for number in encoded.kept]
    files = {}
    if name.endswith(".parquet"):
        files[name] = _parquet(names, rows, good, fingerprint)
    else:
        files[name] = _array(name, rows, fingerprint)
        files[f"{name}.ids.jsonl"] = _json_lines(
            {"row": row, "id": label, "ok": ok}
            for row, (label, ok) in enumerate(zip(names, good, strict=True))
        )
    files[f"{name}.errors.jsonl"] = _json_lines(
        {
            "id": encoded.ids[number],
            "item": first_item + number,
            "part": error.part,
            "code": error.code,
            "detail": error.detail,
        }
        for number, error in sorted(encoded.errors.items())
    )
    return files


def _array(name: str, rows: np.ndarray, fingerprint: str) -> bytes:
    if name.endswith(".safetensors"):
        from safetensors.numpy import save

        return save({"embeddings": rows}, metadata={"fingerprint": fingerprint})
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()


def _parquet(names: Sequence[str], rows: np.ndarray, good: list[bool], fingerprint: str) -> bytes:
    pyarrow = import_pyarrow()
    import pyarrow.parquet as parquet

    values = pyarrow.array(rows.reshape(-1))
    missing = pyarrow.array(~np.array(good, dtype=bool))
    vectors = pyarrow.FixedSizeListArray.from_arrays(values, rows.shape[1], mask=missing)
    # names of files may hold bytes that are no text, and Arrow takes text only
    texts = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    table = pyarrow.table({"id": pyarrow.array(texts, pyarrow.string()), "vector": vectors})
    buffer = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({"fingerprint": fingerprint}), buffer)
    return buffer.getvalue()


def import_pyarrow() -> Any:
    """pyarrow, or MissingDependencyError."""
    try:
        import pyarrow
    except ImportError:
        raise MissingDependencyError("pyarrow", "search") from None
    return pyarrow


def _json_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode("ascii")
