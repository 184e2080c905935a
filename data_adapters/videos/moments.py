"""Sentences about parts of long videos: ActivityNet Captions, DiDeMo, MSR-VTT as published.

Each part is a clip, `Video(start, end)`; parts of one video are siblings, hard negatives of each
other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.expanded import Listed
from data_adapters.text.items import text
from data_adapters.videos.clips import ClipFolder, check_direction, clip_row, file_of, part_of
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import ConfigError, DataError
from mmembed.tables.examples import TableRows
from mmembed.types import ContrastiveExample

__all__ = ["load"]

# DiDeMo cuts its videos into pieces of five seconds and has people choose a first and a last one.
_DIDEMO_SECONDS = 5.0

_Row = tuple[str, dict[str, Any]]


def load(
    card: DatasetCard,
    folder: Path,
    annotations: str = "train.json",
    layout: str = "activitynet",
    media: str = "videos",
    direction: str = "t2v",
    num_frames: int | None = 8,
    frames_per_second: float | None = None,
) -> ExampleRows:
    """A row for each sentence.

    Args:
        annotations: file below `folder`.
        layout: `activitynet`: `{video: {"timestamps": [[start, end], ...], "sentences": [...]}}`;
            `didemo`: `[{"video", "description", "times": [[first, last], ...]}]`, pieces of five
            seconds of which the ones that most people chose are taken; `msrvtt`: `{"videos":
            [{"video_id", "split"}], "sentences": [{"video_id", "caption"}]}`, whole clips.
        media: folder of the videos, or of folders with saved frames, below `folder`.
        direction: `t2v` or `v2t`.
        num_frames: taken of each clip; null = the model's default.
        frames_per_second: that saved frames were taken at.
    """
    check_direction(direction, ("t2v", "v2t"))
    layouts = {"activitynet": _activitynet, "didemo": _didemo, "msrvtt": _msrvtt}
    if layout not in layouts:
        raise ConfigError(f"layout {layout!r} is unknown; known: {', '.join(layouts)}")
    file = file_of(card, folder, annotations)
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON: {error}") from None
    found = list(layouts[layout](content, file, card.split))
    table = Listed(file, [row for _, row in found], [place for place, _ in found])
    clips = ClipFolder(card, folder / media, num_frames, frames_per_second)

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        clip, clip_id = clips.clip(row["video"], where, part_of(row, where))
        return clip_row(card, clip, clip_id, text(row["sentence"], "sentence", where), direction)

    def sibling_key(row: dict[str, Any]) -> str:
        return str(row["video"]) if row.get("start") is not None else ""

    return TableRows(card, table, parse, sibling_key=sibling_key)


def _activitynet(content: Any, file: Path, split: str) -> Iterator[_Row]:
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected an object with a key for each video")
    for video, entry in content.items():
        entry = entry if isinstance(entry, dict) else {}
        times, sentences = entry.get("timestamps"), entry.get("sentences")
        times = times if isinstance(times, list) else []
        for number, sentence in enumerate(sentences if isinstance(sentences, list) else [None]):
            start, end = _pair(times[number] if number < len(times) else None)
            row = {"video": video, "sentence": sentence, "start": start, "end": end}
            yield f"{video}, sentence {number + 1}", row


def _didemo(content: Any, file: Path, split: str) -> Iterator[_Row]:
    if not isinstance(content, list):
        raise DataError(f"{file}: expected a list")
    for number, entry in enumerate(content, 1):
        entry = entry if isinstance(entry, dict) else {}
        chosen = entry.get("times")
        pairs = [_pair(pair) for pair in chosen] if isinstance(chosen, list) else []
        first, last = max(pairs, key=pairs.count, default=(shortened(chosen), ""))
        if isinstance(first, int) and isinstance(last, int):
            first, last = first * _DIDEMO_SECONDS, (last + 1) * _DIDEMO_SECONDS
        row = {"sentence": entry.get("description"), "start": first, "end": last}
        yield f"entry {number}", {"video": entry.get("video"), **row}


def _msrvtt(content: Any, file: Path, split: str) -> Iterator[_Row]:
    found = content if isinstance(content, dict) else {}
    videos, sentences = found.get("videos"), found.get("sentences")
    if not isinstance(videos, list) or not isinstance(sentences, list):
        raise DataError(f"{file}: expected an object with the lists 'videos' and 'sentences'")
    named = {
        video.get("video_id"): video.get("split") for video in videos if isinstance(video, dict)
    }
    for number, entry in enumerate(sentences, 1):
        entry = entry if isinstance(entry, dict) else {}
        video = entry.get("video_id")
        if named.get(video, split) == split:
            yield f"sentence {number}", {"video": video, "sentence": entry.get("caption")}


def _pair(value: Any) -> tuple[Any, Any]:
    """Two entries; anything else so that the row is refused for what it holds."""
    return tuple(value) if isinstance(value, list) and len(value) == 2 else (shortened(value), "")
