"""The 36 image tasks: rows of `ziyjiang/MMEB_Test_Instruct` as retrieval from local pools.

A row holds `qry_inst`, `qry_text`, `qry_img_path`, `tgt_inst` and the lists `tgt_text` and
`tgt_img_path`: the first candidate is the right one. Instructions come from the data; the marker
`<|image_1|>` in them says where one model wanted its picture, and is removed.

| family | query           | candidate         | identity of a candidate          |
|--------|-----------------|-------------------|----------------------------------|
| cls    | image, or both  | text (a label)    | text                             |
| qa     | image and text  | text (an answer)  | text                             |
| i2t    | image           | text              | text                             |
| t2i    | text            | image, or both    | path, or path:caption            |
| i2i    | image, or both  | image, or both    | path:caption                     |
| vg     | image and text  | image, or both    | path:caption                     |

A caption in an identity has no quotes around it. With `profile.reference_defects`, candidates of
t2i are told apart by their path alone, so that the first caption of a picture wins.

Query ids are made of the content of the row, so they do not depend on the order of the rows, and
say nothing about which candidate is right.

A profile with `instruction_in_text` writes instruction and text into one string the way the
reference does; `profile.options` then says how:

    trailing_newline         end with a line break: queries, candidates with a caption, and t2i's
    leading_newline_families families whose query instructions begin with a line break
    extra_newline_tasks      tasks whose queries end with one more
    media_separator          what stands between a picture and the text; the template then has
                             nothing there. Like every blank before a line break it disappears.

Other profiles get the instruction by itself, with the blank of the older annotations at its end
where a text follows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_adapters.cells import (
    MAYBE_PATH,
    MAYBE_PATHS,
    MAYBE_TEXT,
    MAYBE_TEXTS,
    check_row,
)
from data_adapters.mmeb.catalog import Entry
from data_adapters.mmeb.files import MediaFiles
from data_adapters.mmeb.legacy_image import instruct_row, is_merged
from mmembed.errors import DataError
from mmembed.tasks import Profile, RetrievalTask
from mmembed.types import Image, MultimodalInput, Part, Text

__all__ = ["ANNOTATION_COPIES", "IMAGE_FAMILIES", "Row", "image_task", "load"]

MARKER = "<|image_1|>"
# Where a copy of the annotations lies in some downloads, next to organisation/name.
ANNOTATION_COPIES = ("image-query",)
# Where `mmeb_v1.tar.gz` was unpacked, with or without its top folder, and V1's `images.zip`.
IMAGE_FOLDERS = ("image-tasks", "image-tasks/MMEB", "MMEB", "images", "eval_images")
TEXT_CANDIDATES = ("cls", "qa", "i2t")
_COLUMNS = {
    "qry_inst": MAYBE_TEXT,
    "qry_text": MAYBE_TEXT,
    "qry_img_path": MAYBE_PATH,
    "tgt_inst": MAYBE_TEXT,
    "tgt_text": MAYBE_TEXTS,
    "tgt_img_path": MAYBE_PATHS,
}


@dataclass(frozen=True)
class Row:
    """One query with its pool, as the data say it; paths are empty where there is no picture."""

    query_instruction: str
    query_text: str
    query_image: str
    target_instruction: str
    target_texts: tuple[str, ...]
    target_images: tuple[str, ...]


def load(entry: Entry, media: MediaFiles, profile: Profile) -> RetrievalTask:
    """Read one of the 36 data sets, in the newer or the older form of its annotations."""
    merged = is_merged(entry)
    copies = () if merged else ANNOTATION_COPIES
    rows = media.rows(entry.repo, entry.config, entry.split, also=copies)
    if merged:
        rows = [instruct_row(entry, number, row) for number, row in enumerate(rows)]
    return image_task(entry, (_row(entry, *row) for row in enumerate(rows)), media, profile)


IMAGE_FAMILIES: dict[str, Callable[[Entry, MediaFiles, Profile], RetrievalTask]] = {
    family: load for family in ("cls", "qa", "i2t", "t2i", "i2i", "vg")
}


def image_task(
    entry: Entry, rows: Iterable[Row], media: MediaFiles, profile: Profile
) -> RetrievalTask:
    """Rows as a task. Queries and candidates whose picture is missing are left out.

    Raises:
        DataError: a row has no candidates, or not as many as the card says.
    """
    words = _Words(entry, profile)
    queries: dict[str, MultimodalInput] = {}
    corpus: dict[str, MultimodalInput] = {}
    relevant: dict[str, dict[str, float]] = {}
    pools: dict[str, list[str]] = {}
    absent: set[str] = set()
    for number, row in enumerate(rows):
        keys = words.identities(row)
        _check_pool(entry, number, len(keys))
        for key, text, image in zip(keys, row.target_texts, row.target_images, strict=True):
            if key not in corpus and key not in absent:
                document = words.document(row, text, image, media)
                if document is None:
                    absent.add(key)
                else:
                    corpus[key] = document
        query = words.query(row, media)
        if query is None or keys[0] in absent:
            continue
        query_id = _query_id(row, keys[0], queries)
        queries[query_id] = query
        relevant[query_id] = {keys[0]: 1.0}
        pools[query_id] = [key for key in dict.fromkeys(keys) if key not in absent]
    return RetrievalTask(entry.card.name, queries, corpus, relevant, pools=pools)


def _row(entry: Entry, number: int, row: Mapping[str, Any]) -> Row:
    asked = ("qry_img_path",) if entry.family != "t2i" else ()
    shown = ("tgt_inst", "tgt_img_path") if entry.family not in TEXT_CANDIDATES else ()
    used = ("qry_inst", "qry_text", "tgt_text", *asked, *shown)
    check_row(entry.card.name, number, row, {name: _COLUMNS[name] for name in used})
    query_image = row["qry_img_path"] or "" if asked else ""
    texts = tuple(text or "" for text in row["tgt_text"] or ())
    images = tuple(path or "" for path in row["tgt_img_path"] or ()) if shown else ()
    if entry.family in TEXT_CANDIDATES:
        images = ("",) * len(texts)
    else:
        texts = texts or ("",) * len(images)
    if len(texts) != len(images):
        raise DataError(
            f"{entry.card.name}, row {number}: {len(texts)} texts and {len(images)} images of "
            "candidates; expected as many of one as of the other"
        )
    lacking = "qry_img_path" if asked and not query_image else ""
    if shown and not all(images):
        lacking = "tgt_img_path"
    if lacking:
        raise DataError(
            f"{entry.card.name}, row {number}, column {lacking!r}: a picture is not named; every "
            f"{'query' if lacking[0] == 'q' else 'candidate'} of this data set has one"
        )
    return Row(
        row["qry_inst"] or "",
        row["qry_text"] or "",
        query_image,
        row["tgt_inst"] or "" if shown else "",
        texts,
        images,
    )


def _check_pool(entry: Entry, number: int, found: int) -> None:
    """The length of the list in the data, before equal candidates become one."""
    expected = entry.card.num_documents
    if not found or (expected is not None and found != expected):
        raise DataError(
            f"{entry.card.name}, row {number}: {found} candidates, expected {expected or 'some'}. "
            "Is it another revision of the data? A sample is read with check_counts=False."
        )


def _query_id(row: Row, positive: str, taken: Mapping[str, Any]) -> str:
    content = json.dumps([row.query_image, row.query_text, positive])
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    same = 1
    while (chosen := name if same == 1 else f"{name}-{same}") in taken:
        same += 1
    return chosen


class _Words:
    """How one profile words the items of one data set."""

    def __init__(self, entry: Entry, profile: Profile) -> None:
        self.family = entry.family
        self.in_text = profile.instruction_in_text
        self.separator = profile.separator
        self.document_instructions = profile.document_instructions
        self.path_only = entry.family == "t2i" and profile.reference_defects
        options = profile.options
        self.media_separator = str(options.get("media_separator", ""))
        self.line_end = "\n" if options.get("trailing_newline") else ""
        leads = entry.family in options.get("leading_newline_families", ())
        self.line_start = "\n" if leads else None
        extra = entry.card.name in options.get("extra_newline_tasks", ())
        self.extra_end = "\n" if extra else ""

    def identities(self, row: Row) -> list[str]:
        if self.family in TEXT_CANDIDATES:
            return list(row.target_texts)
        pairs = zip(row.target_images, row.target_texts, strict=True)
        if self.family != "t2i":
            return [f"{path}:{_unquoted(text)}" for path, text in pairs]
        with_captions = not self.path_only
        return [
            f"{path}:{_unquoted(text)}" if with_captions and text.strip() else path
            for path, text in pairs
        ]

    def query(self, row: Row, media: MediaFiles) -> MultimodalInput | None:
        picture = _picture(row.query_image, media)
        if picture is None:
            return None
        if not self.in_text:
            return self._item(picture, row.query_instruction, row.query_text)
        instruction = row.query_instruction.replace(MARKER, "")
        if self.family == "t2i":
            # The reference leaves blanks before the line breaks of these queries alone.
            text = self._joined(instruction.lstrip(), row.query_text)
        else:
            if self.line_start is not None:
                instruction = self.line_start + instruction.strip()
            text = self._joined(instruction, row.query_text)
            text = self._squeezed(text, bool(picture))
        return _plain(picture, text + self.line_end + self.extra_end)

    def document(
        self, row: Row, text: str, image: str, media: MediaFiles
    ) -> MultimodalInput | None:
        picture = _picture(image, media)
        if picture is None:
            return None
        if not picture or not self.document_instructions:
            return _plain(picture, text)
        if not self.in_text:
            return self._item(picture, row.target_instruction, text)
        instruction = row.target_instruction.replace(MARKER, "")
        # Without a caption the reference ends only the candidates of t2i with a line break.
        ends = bool(text.strip()) or self.family == "t2i"
        written = self._squeezed(self._joined(instruction, text), with_media=True)
        return _plain(picture, written + self.line_end * ends)

    def _item(self, picture: tuple[Part, ...], instruction: str, text: str) -> MultimodalInput:
        instruction = instruction.replace(MARKER, "").lstrip().rstrip("\r\n")
        if text and instruction and not instruction[-1].isspace():
            instruction += " "
        return _plain(picture, text, instruction or None)

    def _joined(self, instruction: str, text: str) -> str:
        return instruction + self.separator + text if text else instruction

    def _squeezed(self, text: str, with_media: bool) -> str:
        return (self.media_separator * with_media + text).replace(" \n", "\n")


def _picture(path: str, media: MediaFiles) -> tuple[Part, ...] | None:
    """The picture as parts, () for no picture, None for a missing one."""
    if not path:
        return ()
    file: Path | None = media.image(*(f"{folder}/{path}" for folder in IMAGE_FOLDERS), path)
    return None if file is None else (Image(file),)


def _plain(picture: tuple[Part, ...], text: str, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput((*picture, Text(text)) if text or not picture else picture, instruction)


def _unquoted(caption: str) -> str:
    return caption.strip('"')
