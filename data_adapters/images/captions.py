"""Captions of pictures in one JSON object: COCO's annotations and Karpathy's splits.

COCO: `images` with `id` and `file_name`, `annotations` with `image_id` and `caption`. Karpathy's
`dataset_coco.json` and `dataset_flickr30k.json`: `images` with `filename`, for COCO also
`filepath`, `split` and `sentences` with `raw`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.images.captioned import caption_of, captioned, check_direction
from data_adapters.media import safe_path
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import DataError, InputError
from mmembed.tables.examples import TableRows
from mmembed.types import ContrastiveExample, Image

__all__ = ["load"]


def load(
    card: DatasetCard,
    folder: Path,
    annotation: str = "",
    images: str = "",
    splits: Sequence[str] = ("train",),
    direction: str = "t2i",
) -> ExampleRows:
    """A row for each caption (`t2i`) or each picture that has any (`i2t`).

    Args:
        annotation: file below `folder`.
        images: folder of the pictures, below `folder`.
        splits: of Karpathy's files: those that are read.
    """
    check_direction(direction)
    file = folder / annotation
    if not file.is_file():
        raise DataError(f"{card.name}: {file} is not there; get it as {card.url} says")
    content = _read(file)
    if "annotations" in content:
        pairs = _of_coco(content)
    else:
        pairs = _of_karpathy(content, (splits,) if isinstance(splits, str) else tuple(splits))
    root = folder / images

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        if row["image"] is None:
            raise InputError("not_found", f"{where}: no picture of this id is listed")
        image = Image(safe_path(root, row["image"], where=where))
        texts = [caption_of(caption, "the caption", where) for caption in row["captions"]]
        return captioned(card.task, image, texts, direction, root=root)

    return TableRows(card, _Listed(file, pairs, by_image=direction == "i2t"), parse)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{file}: expected an object with a list under 'images'")
    return content


# Place of the caption in the file, picture, caption; the last two may be anything.
_Caption = tuple[str, Any, Any]


def _of_coco(content: dict[str, Any]) -> list[_Caption]:
    files = {
        image.get("id"): image.get("file_name")
        for image in content["images"]
        if isinstance(image, dict)
    }
    found = content["annotations"] if isinstance(content["annotations"], list) else []
    rows = [entry if isinstance(entry, dict) else {} for entry in found]
    return [
        (f"annotation {number}", files.get(_key(row.get("image_id"))), row.get("caption"))
        for number, row in enumerate(rows, 1)
    ]


def _key(value: Any) -> Any:
    return value if isinstance(value, int | str) else None


def _of_karpathy(content: dict[str, Any], splits: tuple[str, ...]) -> list[_Caption]:
    found: list[_Caption] = []
    for number, image in enumerate(content["images"], 1):
        if not isinstance(image, dict) or image.get("split") not in splits:
            continue
        parts = [image[key] for key in ("filepath", "filename") if image.get(key)]
        path = "/".join(map(str, parts)) or None
        sentences = image.get("sentences")
        for place, sentence in enumerate(sentences if isinstance(sentences, list) else [], 1):
            raw = sentence.get("raw") if isinstance(sentence, dict) else None
            found.append((f"image {number}, sentence {place}", path, raw))
    if not found:
        named = {image.get("split") for image in content["images"] if isinstance(image, dict)}
        raise DataError(
            f"no captions of the splits {splits}; found {shortened(sorted(map(str, named)))}"
        )
    return found


class _Listed:
    """Captions of one file as a table: each by itself, or those of one picture together."""

    columns = ("image", "captions")

    def __init__(self, file: Path, captions: list[_Caption], *, by_image: bool) -> None:
        self.files = (file,)
        self._captions = captions
        groups: dict[Any, list[int]] = {}
        for number, (_, image, _) in enumerate(captions):
            alone = not by_image or not isinstance(image, str)
            groups.setdefault(number if alone else image, []).append(number)
        self._groups = list(groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = [self._captions[number] for number in self._groups[index]]
        return {"image": found[0][1], "captions": [caption for _, _, caption in found]}

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def where(self, index: int) -> str:
        return f"{self.files[0].name}, {self._captions[self._groups[index][0]][0]}"
