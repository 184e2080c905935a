"""Writes what `mmembed encode` made: the vectors, the id of each row, and what failed.

vectors.npy               (or .safetensors, with the model's fingerprint)
vectors.npy.ids.jsonl     {"row": 0, "id": "cat", "ok": true}
vectors.npy.errors.jsonl  {"id": "dog", "item": 1, "part": "image", "code": ..., "detail": ...}
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import ConfigError, InputError
from mmembed.search.durable import write_atomically

__all__ = ["check_vector_file", "write_vectors"]


def check_vector_file(path: Path) -> None:
    """Refuse a name that `write_vectors` could not write. Raises ConfigError."""
    if path.suffix not in {".npy", ".safetensors"}:
        raise ConfigError(f"{path.name!r} must end in .npy or .safetensors")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder")


def write_vectors(
    path: Path,
    ids: Sequence[str],
    vectors: np.ndarray,
    errors: Mapping[int, InputError],
    *,
    fingerprint: str,
    keep_failed: bool = True,
) -> None:
    """Write three files; each is replaced whole.

    Args:
        ids: name of each of the N items.
        vectors: (N, D) float32, NaN in the rows of failed items.
        errors: by position in `ids`.
        keep_failed: keep the NaN rows, so that row i is item i; else leave them out.
    """
    check_vector_file(path)
    kept = [number for number in range(len(ids)) if keep_failed or number not in errors]
    rows = np.ascontiguousarray(vectors[kept], dtype=np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _payload(path, rows, fingerprint))
    lines = [
        {"row": row, "id": ids[number], "ok": number not in errors}
        for row, number in enumerate(kept)
    ]
    write_atomically(path.with_name(f"{path.name}.ids.jsonl"), _json_lines(lines))
    failures = [
        {"id": ids[number], "item": number, "part": e.part, "code": e.code, "detail": e.detail}
        for number, e in sorted(errors.items())
    ]
    write_atomically(path.with_name(f"{path.name}.errors.jsonl"), _json_lines(failures))


def _payload(path: Path, rows: np.ndarray, fingerprint: str) -> bytes:
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        return save({"embeddings": rows}, metadata={"fingerprint": fingerprint})
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()


def _json_lines(records: Sequence[Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode("ascii")
