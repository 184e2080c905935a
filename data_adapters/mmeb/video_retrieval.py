"""Captions and the clips they describe, all clips in one pool.

Options: `video` and `caption` name the columns; of several captions the first is the query.
`video_is_path` says that the first column holds a path, whose stem is the name of the clip.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from data_adapters.cells import CAPTION, NAME
from data_adapters.mmeb.catalog import Entry
from data_adapters.mmeb.files import MediaFiles
from data_adapters.mmeb.video_items import Gathering, annotation_rows, clip, document, query
from mmembed.tasks import Profile, RetrievalTask

__all__ = ["load"]


def load(entry: Entry, media: MediaFiles, profile: Profile) -> RetrievalTask:
    gathered = Gathering(entry)
    columns = {entry.options["video"]: NAME, entry.options["caption"]: CAPTION}
    for number, row in enumerate(annotation_rows(entry, media, columns)):
        name, caption = (row[column] for column in columns)
        if entry.options.get("video_is_path"):
            name = PurePosixPath(str(name)).stem
        name = str(name)
        video = clip(entry, media, profile, name)
        gathered.add_document(name, None if video is None else document(entry, profile, video))
        text = caption if isinstance(caption, str) else caption[0]
        gathered.add_query(str(number), query(entry, profile, text=text), [name])
    return gathered.task()
