"""Pictures of the web with captions: what img2dataset writes, and other webdataset archives.

Three layouts, found by the files:

    00000.tar      samples of key.jpg with key.txt, key.json or both; 00000.parquet may be beside it
    00000.parquet  a row for each address, with `jpg`: the picture
    00000.parquet  a row for each address; the pictures are 00000/key.jpg

The metadata, `key.json` or a row of parquet, have `key`, `status`, `width`, `height`,
`original_width`, `original_height`, `caption` and the columns that were kept besides, such as the
caption of another model. Only rows of status `success` have a picture; others are left out.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_adapters.cells import shortened
from data_adapters.document_ids import document_ids
from data_adapters.images.captioned import caption_of, captioned, check_direction, names_of
from data_adapters.media import safe_path
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.tables.archives import Sample, TarIndex
from mmembed.tables.opening import open_table
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text

__all__ = ["WebPairs", "load"]

_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_PICTURES = ("jpg", "jpeg", "png", "webp")
_SIZES = ("width", "height", "original_width", "original_height")
_BLOCK = 10_000


def load(
    card: DatasetCard,
    folder: Path,
    files: str = "",
    captions: str | Sequence[str] = "caption",
    direction: str = "t2i",
    min_width: int = 0,
    min_height: int = 0,
    max_aspect_ratio: float = math.inf,
) -> ExampleRows:
    """A row for each caption of each picture (`t2i`), or for each picture (`i2t`).

    Args:
        files: glob pattern of archives or tables; all archives, else all tables, if empty.
        captions: names in the metadata. `caption` is also what key.txt holds. Of several, a row
            for each.
        min_width, min_height: in pixels, before img2dataset resized where that is known; smaller
            pictures are left out.
        max_aspect_ratio: of the longer to the shorter side; longer pictures are left out.
    """
    check_direction(direction)
    if min_width < 0 or min_height < 0 or not max_aspect_ratio >= 1:
        raise ConfigError(
            "min_width and min_height must be 0 or more and max_aspect_ratio 1 or more; found "
            f"{min_width}, {min_height}, {max_aspect_ratio}"
        )
    found: list[Path] = []
    for pattern in [files] if files else [*(f"*{suffix}" for suffix in _ARCHIVES), "*.parquet"]:
        found = found or sorted(path for path in folder.glob(pattern) if path.is_file())
    if not found:
        raise DataError(
            f"{card.name}: no {files or '*.tar or *.parquet'} in {folder}. {card.media}"
        )
    packed = all(path.name.endswith(_ARCHIVES) for path in found)
    source: _Source = _Archives(found) if packed else _Tables(found)
    limits = _Limits(min_width, min_height, max_aspect_ratio)
    return WebPairs(card, source, names_of(captions, "captions"), direction, limits)


@dataclass(frozen=True)
class _Limits:
    min_width: int
    min_height: int
    max_aspect_ratio: float

    def __bool__(self) -> bool:
        return self != _Limits(0, 0, math.inf)

    def keep(self, meta: Mapping[str, Any]) -> bool:
        """Raises ValueError: there are no sizes to judge by."""
        if not self:
            return True
        width, height = (
            _length(meta.get(f"original_{side}") or meta.get(side)) for side in ("width", "height")
        )
        ratio = max(width, height) / min(width, height)
        small = width < self.min_width or height < self.min_height
        return not small and ratio <= self.max_aspect_ratio


def _length(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"width or height is {shortened(value)}")
    return value


class _Source(Protocol):
    """Pictures by number."""

    files: tuple[Path, ...]

    def __len__(self) -> int: ...

    def where(self, number: int) -> str: ...

    def metadata(self) -> Iterator[Mapping[str, Any] | InputError]:
        """Of all pictures in turn, at least `status` and the sizes."""
        ...

    def picture(self, number: int) -> Path | bytes: ...

    def caption(self, number: int, name: str) -> Any: ...


class WebPairs:
    """The rows; see `mmembed.datasets.ExampleRows`."""

    def __init__(
        self,
        card: DatasetCard,
        source: _Source,
        captions: tuple[str, ...],
        direction: str,
        limits: _Limits,
    ) -> None:
        self.card, self.name, self.task = card, card.name, card.task
        self.revision, self.license = card.revision, card.license
        self.files = source.files
        self._source, self._captions, self._direction = source, captions, direction
        self._refused: dict[int, InputError] = {}
        self._kept = self._choose(limits) if limits or isinstance(source, _Tables) else None

    def __len__(self) -> int:
        num_pictures = len(self._source) if self._kept is None else len(self._kept)
        return num_pictures * self._rows_each

    def __getitem__(self, index: int) -> ContrastiveExample:
        number, names = self._locate(index)
        if number in self._refused:
            refused = self._refused[number]
            raise InputError(refused.code, refused.detail)
        where = self._source.where(number)
        found = [caption_of(self._source.caption(number, name), name, where) for name in names]
        example = captioned(
            self.task,
            Image(self._source.picture(number)),
            found,
            self._direction,
            image_id=self._image_id(number),
        )
        return replace(example, query_id=f"{self.name}/{index}")

    def where(self, index: int) -> str:
        number, names = self._locate(index)
        said = f", {names[0]}" if len(names) < len(self._captions) else ""
        return self._source.where(number) + said

    def document_ids(self, index: int) -> tuple[str, ...]:
        """As in the row; reads no picture. None where the row cannot be used."""
        number, names = self._locate(index)
        if self._direction == "t2i":
            return (self._image_id(number),)
        try:
            where = self._source.where(number)
            texts = [caption_of(self._source.caption(number, name), name, where) for name in names]
        except InputError:
            return ()
        return document_ids(MultimodalInput((Text(text),)) for text in texts)

    def _image_id(self, number: int) -> str:
        """With the name of the data set: all downloads begin with 00000.tar and 000000000."""
        return f"{self.name}, {self._source.where(number)}"

    @property
    def _rows_each(self) -> int:
        return len(self._captions) if self._direction == "t2i" else 1

    def _locate(self, index: int) -> tuple[int, tuple[str, ...]]:
        """Number of the picture, and the captions of this row."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place, which = divmod(index, self._rows_each)
        number = place if self._kept is None else int(self._kept[place])
        return number, (self._captions[which],) if self._direction == "t2i" else self._captions

    def _choose(self, limits: _Limits) -> np.ndarray:
        kept = array("q")
        for number, meta in enumerate(self._source.metadata()):
            if isinstance(meta, InputError):
                self._refused[number] = meta
            elif meta.get("status", "success") != "success":
                continue
            else:
                try:
                    if not limits.keep(meta):
                        continue
                except ValueError as error:
                    where = self._source.where(number)
                    self._refused[number] = InputError("invalid_type", f"{where}: {error}")
            kept.append(number)
        return np.frombuffer(kept, dtype=np.int64)


class _Archives:
    """Samples of tar files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._index = TarIndex(files)
        self.files = self._index.files
        self.where = self._index.where

    def __len__(self) -> int:
        return len(self._index)

    def metadata(self) -> Iterator[Mapping[str, Any] | InputError]:
        start = 0
        for file in self.files:
            beside = file.with_name(f"{file.name.partition('.')[0]}.parquet")
            rows = {}
            if beside.is_file():
                rows = {str(row.get("key")): row for row in _sizes(beside, ("key", "status"))}
            shard = TarIndex([file])
            for own in range(len(shard)):
                sample = shard[own]
                try:
                    yield rows.get(sample.key.rpartition("/")[2]) or self._json(start + own, sample)
                except InputError as error:
                    yield error
            start += len(shard)

    def picture(self, number: int) -> bytes:
        sample = self._index[number]
        for extension in _PICTURES:
            if extension in sample.members:
                content: bytes = self._index.read(sample.members[extension])
                return content
        raise InputError("empty", f"{self.where(number)}: no picture; {_has(sample)}")

    def caption(self, number: int, name: str) -> Any:
        sample = self._index[number]
        if name != "caption" or "txt" not in sample.members:
            return self._json(number, sample).get(name)
        try:
            return str(self._index.read(sample.members["txt"]), "utf-8")
        except UnicodeDecodeError:
            raise InputError("invalid_text", f"{self.where(number)}: .txt is not UTF-8") from None

    def _json(self, number: int, sample: Sample) -> Mapping[str, Any]:
        if "json" not in sample.members:
            raise InputError("empty", f"{self.where(number)}: no .json; {_has(sample)}")
        try:
            content = json.loads(self._index.read(sample.members["json"]))
        except (ValueError, RecursionError) as error:
            raise InputError("corrupt", f"{self.where(number)}: .json: {error}") from None
        if not isinstance(content, dict):
            raise InputError("corrupt", f"{self.where(number)}: .json is {shortened(content)}")
        return content


def _has(sample: Sample) -> str:
    return f"the sample has {', '.join(f'.{name}' for name in sample.members)}"


class _Tables:
    """Rows of parquet; pictures are in them or in a folder beside them."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._tables = [open_table([file]) for file in files]
        self._starts = np.cumsum([0, *map(len, self._tables)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def where(self, number: int) -> str:
        shard, own = self._locate(number)
        return self._tables[shard].where(own)

    def metadata(self) -> Iterator[Mapping[str, Any] | InputError]:
        for file in self.files:
            yield from _sizes(file, ("status",))

    def picture(self, number: int) -> Path | bytes:
        shard, own = self._locate(number)
        row = self._tables[shard][own]
        if isinstance(row.get("jpg"), bytes) and row["jpg"]:
            content: bytes = row["jpg"]
            return content
        if "jpg" in row:
            raise InputError("empty", f"{self.where(number)}: no picture under 'jpg'")
        file = self.files[shard]
        return safe_path(file.parent, f"{file.stem}/{row.get('key')}.jpg", where=self.where(number))

    def caption(self, number: int, name: str) -> Any:
        shard, own = self._locate(number)
        row = self._tables[shard][own]
        if name not in row:
            found = ", ".join(row)
            raise InputError("invalid_type", f"{self.where(number)}: no {name!r}; found {found}")
        return row[name]

    def _locate(self, number: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return shard, number - int(self._starts[shard])


def _sizes(file: Path, besides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What decides whether a row is kept, many rows at a time."""
    columns = open_table([file]).columns
    wanted = [name for name in (*besides, *_SIZES) if name in columns]
    table = open_table([file], columns=wanted)
    for begin in range(0, len(table), _BLOCK):
        yield from table.take(range(begin, min(begin + _BLOCK, len(table))))
