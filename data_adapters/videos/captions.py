"""Tables of clips and captions: MSR-VTT and DiDeMo for retrieval, MSVD, VATEX, WebVid.

A row has the name of a clip and a caption, or a list of captions.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.expanded import PART, expanded
from data_adapters.text.items import text
from data_adapters.videos.clips import ClipFolder, check_direction, clip_row, file_of
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import InputError
from mmembed.tables.examples import TableRows
from mmembed.tables.opening import open_table
from mmembed.types import ContrastiveExample

__all__ = ["load"]


def load(
    card: DatasetCard,
    folder: Path,
    annotations: str = "annotations.json",
    media: str = "",
    clip: str = "{video}",
    caption: str = "caption",
    direction: str = "t2v",
    num_frames: int | None = 8,
    captions: str = "all",
) -> ExampleRows:
    """A row for each caption, or for the first one of each clip.

    Args:
        annotations: file below `folder`; `{config}` and `{split}` are the card's.
        media: folder of the clips, or of folders with saved frames, below `folder`.
        clip: name of a clip in there, made of columns: `{page_dir}/{videoid}.mp4`.
        caption: column with a text or a list of texts.
        direction: `t2v` or `v2t`.
        num_frames: taken of each clip; null = the model's default.
        captions: `all`, or only the `first` where a row has several.
    """
    check_direction(direction, ("t2v", "v2t"))
    table = open_table([file_of(card, folder, annotations)])
    if captions == "all":
        table = expanded(
            table,
            lambda row: _num_captions(row, caption),
            noun="caption",
            key=f"captions {caption}",
        )
    clips = ClipFolder(card, folder / media, num_frames)
    columns = [name for _, name, _, _ in string.Formatter().parse(clip) if name]

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        shown, clip_id = clips.clip(_name(row, clip, columns, where), where)
        found = row.get(caption)
        if isinstance(found, list):
            found = found[row.get(PART, 0)] if found else None
        return clip_row(card, shown, clip_id, text(found, caption, where), direction)

    return TableRows(card, table, parse)


def _num_captions(row: Mapping[str, Any], caption: str) -> int:
    found = row.get(caption)
    return max(1, len(found)) if isinstance(found, list) else 1


def _name(row: Mapping[str, Any], clip: str, columns: list[str], where: str) -> str:
    for column in columns:
        if not isinstance(row.get(column), str | int):
            raise InputError(
                "invalid_type",
                f"{where}, {column!r}: found {shortened(row.get(column))}; expected the name of "
                "a clip",
            )
    return clip.format_map(row)
