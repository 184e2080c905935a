"""A user's own table of pictures and captions, as CSV, TSV, JSON lines, JSON, parquet or arrow.

Also the `metadata.csv` or `metadata.jsonl` with `file_name` and `text` of an image folder of the
library `datasets`. A picture is a path, bytes, or `{"bytes", "path"}`, as that library writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_adapters.images.captioned import caption_of, captioned, check_direction
from data_adapters.media import media_source
from mmembed.errors import ConfigError, InputError
from mmembed.tables.local_rows import LocalRows
from mmembed.types import ContrastiveExample, Image, Task

__all__ = ["ImageText"]

_IMAGES = ("image", "image_path", "file_name")
_CAPTIONS = ("caption", "text", "captions")


class ImageText(LocalRows):
    """A row for each row of the table.

    Args:
        image, caption: names of columns; found among the usual ones if None. A cell may hold a list
            of captions: `t2i` takes the first, `i2t` all.
        direction: `t2i`: the caption asks for the picture; `i2t`: the picture asks for it.

    Raises:
        ConfigError: no such column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        image: str | None = None,
        caption: str | None = None,
        direction: str = "t2i",
        task: Task | None = None,
        media_root: str | Path | None = None,
        name: str | None = None,
        split: str = "train",
    ) -> None:
        super().__init__(path, task=task, media_root=media_root, name=name, split=split)
        self._direction = check_direction(direction)
        self._image = self._column("image", image, _IMAGES)
        self._caption = self._column("caption", caption, _CAPTIONS)

    @classmethod
    def matches(cls, columns: Sequence[str], row: Mapping[str, Any]) -> bool:
        return any(name in columns for name in _IMAGES) and any(
            name in columns for name in _CAPTIONS
        )

    def parse(self, row: dict[str, Any]) -> ContrastiveExample:
        for column in (self._image, self._caption):
            if column not in row:
                raise InputError("invalid_type", f"no column {column!r}; found {', '.join(row)}")
        picture = media_source(row[self._image], self.media_root, where=self._image)
        cell = row[self._caption]
        cells = cell if isinstance(cell, list) else [cell]
        texts = [caption_of(text, "the text", self._caption) for text in cells]
        if not texts:
            raise InputError("empty", f"{self._caption}: the list is empty")
        chosen = texts if self._direction == "i2t" else texts[:1]
        root = self.media_root
        return captioned(self.task, Image(picture), chosen, self._direction, root=root)

    def _column(self, option: str, name: str | None, usual: Sequence[str]) -> str:
        columns = self.table.columns
        wanted = usual if name is None else (name,)
        for column in wanted:
            if column in columns:
                return column
        raise ConfigError(
            f"{self.files[0]} has no column {' or '.join(wanted)}; it has {', '.join(columns)}. "
            f"Say which it is: {option}=COLUMN"
        )
