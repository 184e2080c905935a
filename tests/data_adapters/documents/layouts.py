"""Five rows of each layout of pages, as the sources write them, for any card of a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_adapters.catalog import find_entry
from mmembed.datasets import DatasetCard
from tests.media_files import encode_image, pdf, photo


def pages(card: DatasetCard, folder: Path) -> None:
    """Shards of ColPali's training set, VisRAG, or vdr-multilingual."""
    options = find_entry(card.name).options
    if options.get("negatives"):
        rows = [
            {"id": f"p{n}", "query": words, "image": cell(n), "negatives": others, "language": "en"}
            for n, (words, others) in enumerate(
                [
                    ("where?", ["p3", "p4", "p1"]),
                    ("when?", ["p0"]),
                    ("who?", ["p4", "p3"]),
                    (None, None),
                    (None, None),
                ]
            )
        ]
        write_parquet(folder / card.config / "train-00000-of-00001.parquet", rows)
    elif options.get("source"):
        names = ["Textbooks", "ICML Papers", "Textbooks", "PlotQA", "PlotQA"]
        rows = [
            {"query": f"query {n}", "image": cell(n), "source": name}
            for n, name in enumerate(names)
        ]
        write_shards(folder / "data", rows)
    else:
        rows = [
            {
                "image": cell(min(n, 3)),
                "image_filename": f"images/page_{min(n, 3)}.jpg",
                "query": f"query {n}",
                "answer": f"answer {n}",
                "source": "pdf",
                "options": None,
                "page": str(n),
                "model": "sonnet",
                "prompt": "",
                "answer_type": None,
            }
            for n in range(5)
        ]
        write_shards(folder / "data", rows)


def chats(card: DatasetCard, folder: Path) -> None:
    """Docmatix, with pictures or with PDF files."""
    rows = []
    for number in range(5):
        asked = [
            {"user": f"Q{number}.{turn}", "assistant": f"A{number}.{turn}", "source": "PDFA"}
            for turn in range(1 + number % 2)
        ]
        if card.config == "pdf":
            rows.append({"pdf": pdf(2), "texts": asked})
        else:
            rows.append({"images": [cell(number), cell(number + 10)], "texts": asked})
    for shard in range(2):
        name = f"train-{shard:05}-of-00002-8ce5201aa40b014{shard}.parquet"
        part = "pdf" if card.config == "pdf" else "data"
        write_parquet(folder / part / name, rows[3 * shard : 3 * shard + 3])


def cell(number: int) -> dict[str, Any]:
    """A picture as the hub's library stores it."""
    return {"bytes": encode_image(photo(32, 40, number), "PNG"), "path": f"{number}.png"}


def write_shards(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    for shard in range(2):
        name = f"train-{shard:05}-of-00002.parquet"
        write_parquet(folder / name, rows[3 * shard : 3 * shard + 3])


def write_parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), file)


LAYOUTS: dict[str, Callable[[DatasetCard, Path], None]] = {
    "documents.pages": pages,
    "documents.chats": chats,
}
