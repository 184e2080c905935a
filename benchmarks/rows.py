"""The suite data: pairs of texts of a file, each once, shuffled, in batches.

A call opens the file, plans an epoch and reads all of it, to plain examples. We and
sentence-transformers (its NoDuplicatesBatchSampler) put no document twice into a batch; datasets
under a torch DataLoader only shuffles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.items import make_texts
from benchmarks.measurement import Case, Side, Start
from benchmarks.settings import Settings

__all__ = ["PEERS", "row_cases", "row_side"]

BATCH = 256
PEERS = ("datasets", "sentence-transformers")
# (file) -> rows read and characters in them, of one epoch
Epoch = Callable[[str], tuple[int, int]]


def _ours(file: str) -> tuple[int, int]:
    from mmembed.data.mixture import Mixture, MixtureEntry
    from mmembed.data.row_files import RowFile
    from mmembed.data.sampler import BatchSampler

    adapter = RowFile(file)
    mixture = Mixture([MixtureEntry(adapter, "pairs", "pairs", adapter.task)])
    rows = characters = 0
    for batch in BatchSampler(mixture, BATCH).epoch_batches(0):
        for row in mixture.rows(batch.rows):
            example = row.example  # type: ignore[union-attr]
            rows += 1
            characters += len(example.query.parts[0].text)  # type: ignore[union-attr]
            characters += len(example.positives[0].parts[0].text)  # type: ignore[union-attr]
    return rows, characters


def _datasets(file: str) -> tuple[int, int]:
    from torch.utils.data import DataLoader

    return _counted(DataLoader(_opened(file), BATCH, shuffle=True, collate_fn=list))


def _sentence_transformers(file: str) -> tuple[int, int]:
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler
    from torch.utils.data import DataLoader

    dataset = _opened(file)
    sampler = NoDuplicatesBatchSampler(dataset, BATCH, drop_last=False)
    return _counted(DataLoader(dataset, batch_sampler=sampler, collate_fn=list))


def _opened(file: str) -> Any:
    """Converted once, as ours is scanned: the first call, which is not timed, fills its cache."""
    from datasets import Dataset  # type: ignore[import-untyped]

    cache = str(Path(file).parent / "datasets")
    if file.endswith(".arrow"):
        return Dataset.from_file(file)
    return Dataset.from_json(file, cache_dir=cache)


def _counted(batches: Any) -> tuple[int, int]:
    rows = characters = 0
    for batch in batches:
        for row in batch:
            rows += 1
            characters += len(row["query"]) + len(row["positives"])
    return rows, characters


_EPOCHS: dict[str, Epoch] = {
    "mmembed": _ours,
    "datasets": _datasets,
    "sentence-transformers": _sentence_transformers,
}


def row_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    """The pairs as JSON lines and as Arrow, the same for all sides."""
    for count in settings.sizes or (1_000_000,):
        for suffix in (".jsonl", ".arrow"):
            file = scratch / f"pairs-{count}{suffix}"
            _write_pairs(file, count)
            sides = {
                name: Start("benchmarks.rows:row_side", {"name": name, "file": str(file)})
                for name in ("mmembed", *settings.peers)
            }
            kind = "JSON lines" if suffix == ".jsonl" else "Arrow"
            about = {"bytes": file.stat().st_size, "batch": BATCH}
            yield Case(f"{count:,} pairs, {kind}", sides, count, "pairs", fresh=True, about=about)


def row_side(*, name: str, file: str) -> Side:
    epoch = _EPOCHS[name]

    def facts(found: tuple[int, int]) -> dict[str, Any]:
        return {"rows": found[0], "characters": found[1]}

    return Side(lambda: epoch(file), lambda: epoch(str(_small(Path(file)))), facts)


def _write_pairs(file: Path, count: int) -> None:
    """Queries of about 8 words, documents of about 60; no document comes twice."""
    texts = make_texts(10_000)
    random = np.random.default_rng(0)
    picked = random.integers(len(texts), size=(count, 2)).tolist()
    rows = (
        {
            "query": f"{number} {' '.join(texts[a].split()[:8])}",
            "positives": f"{texts[b]} {number}",
        }
        for number, (a, b) in enumerate(picked)
    )
    _write(file, rows)
    _write(_small(file), ({"query": f"q {n}", "positives": f"d {n}"} for n in range(BATCH)))


def _small(file: Path) -> Path:
    return file.with_name(f"small-{file.name}")


def _write(file: Path, rows: Iterator[dict[str, str]]) -> None:
    if file.suffix == ".jsonl":
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
        return
    import pyarrow as pa

    schema = pa.schema({"query": pa.string(), "positives": pa.string()})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        while block := [row for _, row in zip(range(1000), rows, strict=False)]:
            stream.write_batch(pa.RecordBatch.from_pylist(block, schema=schema))
