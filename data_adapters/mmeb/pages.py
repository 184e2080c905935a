"""Questions and the pages of documents that answer them, in the layout of BEIR.

A repository has the configurations `queries`, `corpus` and `qrels`. The pages are files in one of
`options.folders`, `<corpus-id>.png`, or else embedded in the corpus. Other options: `data`, a
folder with another copy of the repository; `shortened_names`, for pages that are named after an
id with a suffix, cut and hashed; `language`, to keep only the queries in one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import md5
from pathlib import Path, PurePosixPath
from typing import Any

from data_adapters.mmeb.catalog import Entry
from data_adapters.mmeb.files import MediaFiles
from data_adapters.mmeb.video_items import Gathering, document, query
from mmembed.errors import EvaluationDataError
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
        raise EvaluationDataError(
            f"{entry.card.name}: qrels name pages that are not in the corpus: {_few(unknown)}"
        )
    language = entry.options.get("language")
    columns = ["query-id", "query", *([] if language is None else ["language"])]
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
    for row in _rows(entry, media, "qrels", ("query-id", "corpus-id", "score")):
        if row["score"] > 0:
            grades = found.setdefault(str(row["query-id"]), {})
            page = str(row["corpus-id"])
            grades[page] = max(float(row["score"]), grades.get(page, 0.0))
    return found


def _pages(entry: Entry, media: MediaFiles) -> dict[str, Path | bytes | None]:
    rows = _rows(entry, media, "corpus", ("corpus-id",))
    names = _distinct(entry, rows, "corpus-id")
    files = {name: _file(entry, media, name) for name in names}
    if all(path is not None for path in files.values()):
        return dict(files)
    folder = entry.options["folders"][0]
    pages: dict[str, Path | bytes | None] = {}
    for name, row in zip(names, _rows(entry, media, "corpus"), strict=True):
        pages[name] = files[name]
        if pages[name] is None and row.get("image"):
            pages[name] = media.embedded(row["image"], folder)
        elif pages[name] is None:
            media.image(f"{folder}/{_file_name(entry, name)}")
    return pages


def _rows(
    entry: Entry, media: MediaFiles, config: str, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    return media.rows(
        entry.repo, config, entry.split, columns=columns, also=(entry.options["data"],)
    )


def _distinct(entry: Entry, rows: list[dict[str, Any]], column: str) -> list[str]:
    names = [str(row[column]) for row in rows]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise EvaluationDataError(f"{entry.card.name}: {column} is listed twice: {_few(twice)}")
    return names


def _file(entry: Entry, media: MediaFiles, name: str) -> Path | None:
    wanted = _file_name(entry, name)
    found = (media.inside(f"{folder}/{wanted}") for folder in entry.options["folders"])
    return next(filter(Path.is_file, found), None)


def _file_name(entry: Entry, name: str) -> str:
    if not entry.options.get("shortened_names"):
        return f"{name}.png"
    path = PurePosixPath(name)
    digest = md5(name.encode("utf-8"), usedforsecurity=False).hexdigest()
    return f"{name.removesuffix(path.suffix)[:50]}_{digest[:8]}{path.suffix}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
