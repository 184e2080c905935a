"""Questions and the pages of documents that answer them, in the layout of BEIR.

A repository has the configurations `queries`, `corpus` and `qrels`. The pages are files in one of
`options.folders`, `<corpus-id>.png`, or else embedded in the corpus. Other options: `data`, a
folder with another copy of the repository; `shortened_names`, for pages that are named after an
id with a suffix, cut and hashed; `language`, to keep only the queries in one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import md5
from pathlib import Path
from posixpath import splitext
from typing import Any

from data_adapters.cells import NAME, NUMBER, TEXT, Kind, check_row
from data_adapters.mmeb.catalog import Entry
from data_adapters.mmeb.files import MediaFiles
from data_adapters.mmeb.video_items import Gathering, document, query
from mmembed.errors import DataError
from mmembed.tasks import Profile, RetrievalTask
from mmembed.types import Image

__all__ = ["load"]


def load(entry: Entry, media: MediaFiles, profile: Profile) -> RetrievalTask:
    gathered = Gathering(entry)
    pages = _pages(entry, media)
    for name, source in pages.items():
        item = None if source is None else document(entry, profile, Image(source))
        gathered.add_document(name, item)
    grades = _grades(entry, media)
    unknown = sorted({page for found in grades.values() for page in found} - set(pages))
    if unknown:
        raise DataError(
            f"{entry.card.name}: qrels name pages that are not in the corpus: {_few(unknown)}"
        )
    language = entry.options.get("language")
    columns = {"query-id": NAME, "query": TEXT}
    if language is not None:
        columns["language"] = TEXT
    rows = _rows(entry, media, "queries", columns)
    for name, row in zip(_distinct(entry, rows, "query-id"), rows, strict=True):
        if language is not None and row["language"] != language:
            continue
        asked = query(entry, profile, text=row["query"])
        gathered.add_query(name, asked, grades.get(name, {}))
    return gathered.task()


def _grades(entry: Entry, media: MediaFiles) -> Mapping[str, Mapping[str, float]]:
    """Query -> page -> grade; of several the highest. What is not positive is not relevant."""
    found: dict[str, dict[str, float]] = {}
    columns = {"query-id": NAME, "corpus-id": NAME, "score": NUMBER}
    for row in _rows(entry, media, "qrels", columns):
        if row["score"] > 0:
            grades = found.setdefault(str(row["query-id"]), {})
            page = str(row["corpus-id"])
            grades[page] = max(float(row["score"]), grades.get(page, 0.0))
    return found


def _pages(entry: Entry, media: MediaFiles) -> dict[str, Path | bytes | None]:
    listed = _rows(entry, media, "corpus", {"corpus-id": NAME})
    names = _distinct(entry, listed, "corpus-id")
    files = {name: _file(entry, media, name) for name in names}
    if all(path is not None for path in files.values()):
        return dict(files)
    folder = entry.options["folders"][0]
    pages: dict[str, Path | bytes | None] = {}
    # A few rows at a time: the pages of a large corpus take gigabytes.
    place = (entry.repo, "corpus", entry.split)
    rows = media.each_row(*place, also=(entry.options["data"],))
    for name, row in zip(names, rows, strict=True):
        file_name = _file_name(entry, name)
        pages[name] = files[name] or media.embedded(row.get("image"), folder, file_name)
    return pages


def _rows(
    entry: Entry, media: MediaFiles, config: str, kinds: Mapping[str, Kind]
) -> list[dict[str, Any]]:
    place = (entry.repo, config, entry.split)
    rows = media.rows(*place, columns=tuple(kinds), also=(entry.options["data"],))
    for number, row in enumerate(rows):
        check_row(f"{entry.card.name} ({config})", number, row, kinds)
    return rows


def _distinct(entry: Entry, rows: list[dict[str, Any]], column: str) -> list[str]:
    names = [str(row[column]) for row in rows]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise DataError(f"{entry.card.name}: {column} is listed twice: {_few(twice)}")
    return names


def _file(entry: Entry, media: MediaFiles, name: str) -> Path | None:
    wanted = _file_name(entry, name)
    return media.find(*(f"{folder}/{wanted}" for folder in entry.options["folders"]))


def _file_name(entry: Entry, name: str) -> str:
    if not entry.options.get("shortened_names"):
        return f"{name}.png"
    stem, suffix = splitext(name)
    digest = md5(name.encode("utf-8"), usedforsecurity=False).hexdigest()
    return f"{stem[:50]}_{digest[:8]}{suffix}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
