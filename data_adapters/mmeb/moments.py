"""Which clip of a longer video is meant; every query has its own few clips."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from data_adapters.cells import CLIPS, MAYBE_TEXT, TEXT
from data_adapters.mmeb.catalog import Entry
from data_adapters.mmeb.files import MediaFiles, natural_key
from data_adapters.mmeb.video_items import Gathering, annotation_rows, clip, document, query
from mmembed.tasks import Profile, RetrievalTask
from mmembed.types import Image, MultimodalInput

__all__ = ["load_folders", "load_seeker"]

_FOLDER_COLUMNS = {"query": TEXT, "video_path": TEXT}
_SEEKER_COLUMNS = {
    "query": TEXT,
    "input_frames": MAYBE_TEXT,
    "positive_frames": CLIPS,
    "negative_frames": CLIPS,
}


def load_folders(entry: Entry, media: MediaFiles, profile: Profile) -> RetrievalTask:
    """One folder for each video: the frames of the whole in `query/`, and folders of clips.

    Clips are taken in natural order and named `<video>/<clip>`; those that begin with `positive`
    are relevant. Which clips there should be is written nowhere, so a folder that was unpacked in
    part is noticed only when no positive one, or nothing beside it, is there.
    """
    gathered = Gathering(entry)
    for number, row in enumerate(annotation_rows(entry, media, _FOLDER_COLUMNS)):
        name = PurePosixPath(row["video_path"]).stem
        video = clip(entry, media, profile, f"{name}/query")
        folder = media.inside(f"{entry.options['frames'][0]}/{name}")
        if not folder.is_dir():
            continue
        names = [f"{name}/{found}" for found in _clips(folder)]
        relevant = [found for found in names if found.startswith(f"{name}/positive")]
        if not relevant or len(names) < 2:
            what = "the other clips" if relevant else "positive*"
            media.note_missing(f"{entry.options['frames'][0]}/{name}/{what}")
            continue
        for found in names:
            _add_clip(gathered, entry, media, profile, found)
        asked = None if video is None else query(entry, profile, video, row["query"])
        gathered.add_query(str(number), asked, relevant, names)
    return gathered.task()


def load_seeker(entry: Entry, media: MediaFiles, profile: Profile) -> RetrievalTask:
    """Queries of text, text and image, or text and clip; rows name their clips.

    Options: `image_prompt` and `video_prompt`, for the queries that are not text alone.
    """
    gathered = Gathering(entry)
    for number, row in enumerate(annotation_rows(entry, media, _SEEKER_COLUMNS)):
        positives = [_clip_name(listed) for listed in row["positive_frames"]]
        negatives = [_clip_name(listed) for listed in row["negative_frames"]]
        for name in (*positives, *negatives):
            _add_clip(gathered, entry, media, profile, f"video_frames/{name}", name)
        asked = _seeking(entry, media, profile, row)
        gathered.add_query(str(number), asked, positives, (*positives, *negatives))
    return gathered.task()


def _seeking(
    entry: Entry, media: MediaFiles, profile: Profile, row: dict[str, Any]
) -> MultimodalInput | None:
    given, text = row["input_frames"] or "", row["query"]
    if given.endswith(".mp4"):
        prompt = entry.options["video_prompt"]
        video = clip(entry, media, profile, f"video_frames/{_flat(given)}")
        return None if video is None else query(entry, profile, video, text, prompt=prompt)
    if given.endswith(".jpg"):
        prompt = entry.options["image_prompt"]
        path = media.image(f"{entry.options['frames'][0]}/query_{given}")
        return None if path is None else query(entry, profile, Image(path), text, prompt=prompt)
    return query(entry, profile, text=text)


def _add_clip(
    gathered: Gathering,
    entry: Entry,
    media: MediaFiles,
    profile: Profile,
    folder: str,
    name: str = "",
) -> None:
    video = clip(entry, media, profile, folder)
    item = None if video is None else document(entry, profile, video)
    gathered.add_document(name or folder, item)


def _clips(folder: Path) -> list[str]:
    found = [path.name for path in folder.iterdir() if path.is_dir() and path.name != "query"]
    return sorted(found, key=natural_key)


def _clip_name(listed: dict[str, Any]) -> str:
    return _flat(listed["output_path"])


def _flat(path: str) -> str:
    return path.replace("/", "_").split(".mp4")[0]
