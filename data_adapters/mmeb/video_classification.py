"""Clips whose class is one of a list of labels, read as retrieval of the label.

Options: `labels`, the list in `video_labels.json` that all queries share; without it, a row brings
its own candidates in `neg_text`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from data_adapters.cells import NAME, TEXT, TEXTS
from data_adapters.mmeb.catalog import Entry
from data_adapters.mmeb.files import MediaFiles
from data_adapters.mmeb.video_items import Gathering, annotation_rows, clip, label, query
from mmembed.errors import DataError
from mmembed.tasks import Profile, RetrievalTask

__all__ = ["load"]


def load(entry: Entry, media: MediaFiles, profile: Profile) -> RetrievalTask:
    gathered = Gathering(entry)
    shared = _labels()[entry.options["labels"]] if "labels" in entry.options else ()
    for text in shared:
        gathered.add_document(text, label(text))
    columns = {"video_id": NAME, "pos_text": TEXT}
    if not shared:
        columns["neg_text"] = TEXTS
    for number, row in enumerate(annotation_rows(entry, media, columns)):
        right = row["pos_text"]
        pool = () if shared else (*row["neg_text"], right)
        for text in pool:
            gathered.add_document(text, label(text))
        if shared and right not in shared:
            raise DataError(
                f"{entry.card.name}: row {number} has the label {right!r}, which is none of the "
                f"{len(shared)} labels of this data set in {_LABELS}"
            )
        video = clip(entry, media, profile, str(row["video_id"]))
        asked = None if video is None else query(entry, profile, video)
        gathered.add_query(str(number), asked, [right], pool)
    return gathered.task()


_LABELS = Path(__file__).with_name("video_labels.json")


@cache
def _labels() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(_LABELS.read_text(encoding="utf-8"))
    return found
