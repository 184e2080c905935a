"""Sources and results of encode jobs, for the tests of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.search.job_folder import read_vectors


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(count: int) -> list[dict[str, str]]:
    """Rows of different length."""
    return [
        {"id": f"row{n}", "text": f"{n} " + "the grinning face of a cat " * (1 + n % 5)}
        for n in range(count)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """What a job is made of; the lines of the manifest in the order of the shards."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("shards", "errors")
        for path in sorted((folder / name).iterdir())
    }
    found["errors.jsonl"] = (folder / "errors.jsonl").read_bytes()
    lines = (folder / "manifest.jsonl").read_bytes().splitlines()
    lines.sort(key=lambda line: int(json.loads(line)["shard"]))
    found["manifest.jsonl"] = b"\n".join(lines)
    return found


def all_rows(folder: Path) -> tuple[list[str], np.ndarray]:
    """Ids and vectors of all shards, concatenated."""
    shards = list(read_vectors(folder))
    ids = [name for shard in shards for name in shard.ids]
    return ids, np.concatenate([shard.vectors for shard in shards])
