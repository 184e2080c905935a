"""Conversations about clips: LLaVA-Hound, VideoChat-Flash, VideoChat2.

A list in JSON, or JSON lines, of `{"video": ..., "conversations": [{"from": "human", "value": ...},
{"from": "gpt", "value": ...}, ...]}` or `{"video": ..., "QA": [{"i": ..., "q": ..., "a": ...}]}`,
with `start` and `end` in seconds where a row is about a part of a longer video.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.expanded import PART, expanded
from data_adapters.text.items import text
from data_adapters.videos.clips import (
    ClipFolder,
    check_direction,
    clip_row,
    file_of,
    part_of,
)
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import ConfigError, InputError
from mmembed.tables.examples import TableRows
from mmembed.tables.opening import open_table
from mmembed.types import ContrastiveExample

__all__ = ["load"]

_MARKERS = re.compile(r"<(?:video|image)>\s*")


def load(
    card: DatasetCard,
    folder: Path,
    annotations: str | Sequence[str] = "annotations.jsonl",
    media: str = "",
    direction: str = "t2v",
    num_frames: int | None = 8,
    frames_per_second: float | None = None,
    turns: str = "first",
    whole: str = "",
) -> ExampleRows:
    """A row for each conversation, or for each exchange of it.

    Args:
        annotations: files below `folder`.
        media: folder of the clips, or of folders with saved frames, below `folder`.
        direction: see `data_adapters.videos.clips`; what is said is the answer.
        num_frames: taken of each clip; null = the model's default.
        frames_per_second: that saved frames were taken at, for rows about a part of a clip.
        turns: `first`: of a conversation the first exchange; `all`: each by itself.
        whole: a regular expression whose group 1 is, of the name of a clip, the name of the longer
            video that it was cut from; rows of one such video are siblings.
    """
    check_direction(direction)
    if turns not in ("first", "all"):
        raise ConfigError(f"turns is {turns!r}; known: first, all")
    names = (annotations,) if isinstance(annotations, str) else annotations
    table = open_table([file_of(card, folder, name) for name in names])
    if turns == "all":
        table = expanded(table, _num_exchanges, noun="exchange", key="conversations")
    clips = ClipFolder(card, folder / media, num_frames, frames_per_second)
    pattern = re.compile(whole) if whole else None

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        question, answer = _exchange(row, row.get(PART, 0), where)
        clip, clip_id = clips.clip(row.get("video"), where, part_of(row, where))
        if direction == "qa":
            question = text(question, "question", where)
        return clip_row(card, clip, clip_id, answer, direction, question)

    def sibling_key(row: dict[str, Any]) -> str:
        name = row.get("video")
        if not isinstance(name, str):
            return ""
        if pattern is None:
            return name if row.get("start") is not None else ""
        found = pattern.match(name)
        return found.group(1) if found else ""

    return TableRows(card, table, parse, sibling_key=sibling_key)


def _num_exchanges(row: Mapping[str, Any]) -> int:
    for key, turns in (("QA", 1), ("conversations", 2)):
        if isinstance(row.get(key), list):
            return max(1, len(row[key]) // turns)
    return 1


def _exchange(row: Mapping[str, Any], number: int, where: str) -> tuple[str, str]:
    if "QA" in row:
        entries = row["QA"]
        if not isinstance(entries, list) or number >= len(entries):
            raise InputError("empty", f"{where}: no exchange in 'QA': {shortened(entries)}")
        entry = entries[number] if isinstance(entries[number], dict) else {}
        question = " ".join(str(entry[key]) for key in ("i", "q") if entry.get(key))
        return question, text(entry.get("a"), "a", where)
    turns = row.get("conversations")
    pair = turns[2 * number : 2 * number + 2] if isinstance(turns, list) else []
    speakers = [turn.get("from") if isinstance(turn, dict) else None for turn in pair]
    if speakers != ["human", "gpt"]:
        raise InputError(
            "invalid_type",
            f"{where}: expected 'conversations' with a turn of 'human' and one of 'gpt'; found "
            f"{shortened(turns if turns is None else pair)}",
        )
    question, answer = (text(turn.get("value"), turn["from"], where) for turn in pair)
    return _MARKERS.sub("", question).strip(), answer
