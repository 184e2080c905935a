"""Five questions of each of the 24 visual-document data sets, in the files of their sources."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

from data_adapters.mmeb.catalog import Entry, load_entries
from tests.data_adapters.mmeb.picture import PNG
from tests.data_adapters.mmeb.video_data import Row, repository, write_parquet

ENTRIES = [entry for entry in load_entries() if entry.card.modality == "visdoc"]
GRADED = ("ViDoRe_esg_reports_human_labeled_v2", "ViDoSeek-doc", "MMLongBench-doc")
LANGUAGES = ("english", "french", "german", "spanish", "english")


def is_visrag(entry: Entry) -> bool:
    return entry.card.group == "VisRAG"


def page_ids(entry: Entry) -> list[Any]:
    if is_visrag(entry):
        return [f"{'long-name-' * 6}{n}.1804.jpg" for n in range(4)]
    return [10 * n for n in range(4)]


def page_file(entry: Entry, page: Any) -> str:
    """The name under which the archive holds a page."""
    if not is_visrag(entry):
        return f"{page}.png"
    stem, _, suffix = page.rpartition(".")
    return f"{stem[:50]}_{md5(page.encode()).hexdigest()[:8]}.{suffix}"


def tables(entry: Entry) -> dict[str, list[Row]]:
    """`queries`, `qrels` and `corpus`; the pages are embedded."""
    pages = page_ids(entry)
    queries: list[dict[str, Any]] = []
    for n in range(5):
        name = f"{n}-q" if is_visrag(entry) else n
        queries.append({"query-id": name, "query": f"Who wrote  page {n}?\n"})
        if entry.card.group == "VDRv2":
            queries[-1]["language"] = LANGUAGES[n]
    best = 2 if entry.card.name in GRADED else 1
    qrels = [_judged(row["query-id"], pages[n % 4], best) for n, row in enumerate(queries)]
    qrels += [
        _judged(queries[0]["query-id"], pages[3], 0),
        _judged(queries[1]["query-id"], pages[2], 1),
        _judged(queries[1]["query-id"], pages[2], best),
        _judged(queries[1]["query-id"], pages[2], 1),
    ]
    corpus = [
        {"corpus-id": page, "image": {"bytes": PNG, "path": page_file(entry, page)}, "model": "x"}
        for page in pages
    ]
    return {"queries": queries, "qrels": qrels, "corpus": corpus}


def _judged(query: Any, page: Any, score: int) -> dict[str, Any]:
    return {"query-id": query, "corpus-id": page, "score": score}


def write_tables(folder: Path, entry: Entry, contents: dict[str, list[Row]]) -> None:
    for config, rows in contents.items():
        write_parquet(folder / config / f"{entry.split}-00000-of-00001.parquet", rows)


def write_pages(folder: Path, entry: Entry, pages: Sequence[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        (folder / page_file(entry, page)).write_bytes(PNG)


def write_visdoc_data(root: Path) -> None:
    """Tables as on the hub, without embedded pages, and the pages as files."""
    for entry in ENTRIES:
        contents = tables(entry)
        contents["corpus"] = [{"corpus-id": row["corpus-id"]} for row in contents["corpus"]]
        write_tables(repository(root, entry.repo), entry, contents)
        write_pages(root / entry.options["folders"][0], entry, page_ids(entry))
