"""Tables of `qry`, `pos_*` and `neg_*` in which instruction and text are one string.

`TIGER-Lab/MMEB-train`: a folder for each subset with the splits `original` and
`diverse_instruction` as parquet. `qry` is the marker `<|image_1|>`, a line break, the instruction,
a blank, the text and one or two line breaks; `pos_text` likewise where the positive is a picture,
else a label, an answer or a caption. An empty string means that there is none; the marker stands
also where there is no picture. Paths begin with `images/`, where the archives of `images_zip/` are
unpacked. `neg_text` and `neg_image_path` are one hard negative.

The `mmE5` sets have the same columns in `<subset>/<subset>.parquet`; their negatives are lists,
written as text.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from data_adapters.cells import MAYBE_PATH, MAYBE_TEXT, check_cells, shortened
from data_adapters.document_ids import document_ids
from data_adapters.media import safe_path
from data_adapters.mmeb.catalog import load_entries
from data_adapters.mmeb.legacy_image import MARKER, split_merged
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.tables.examples import TableRows
from mmembed.tables.layouts import find_table
from mmembed.tables.opening import open_table
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Part, Text

__all__ = ["load"]

ORIGINAL = "original"
_CELLS = {
    "qry": MAYBE_TEXT,
    "qry_image_path": MAYBE_PATH,
    "pos_text": MAYBE_TEXT,
    "pos_image_path": MAYBE_PATH,
}


def load(
    card: DatasetCard,
    folder: Path,
    split: str = "",
    files: str = "",
    instruction: str = "item",
    same_as: str = "",
    negatives: str = "one",
    images: str = "",
) -> ExampleRows:
    """Rows of one subset.

    Args:
        split: `original`, or `diverse_instruction`, which words the instructions in many ways; that
            of the card if empty.
        files: glob pattern of the tables, where they are not named after the split.
        instruction: `item`: what the text begins with becomes the instruction of the item, as the
            evaluation has it (a blank at its end where a text follows). `text`: it stays in the
            text, as published; only the marker goes.
        same_as: data set of the evaluation whose instructions the texts begin with.
        negatives: `one`, or `list`.
        images: folder that the paths of pictures count from, if it is not `folder`.
    """
    if instruction not in ("item", "text"):
        raise ConfigError(f"instruction {instruction!r} is unknown; known: item, text")
    if negatives not in ("one", "list"):
        raise ConfigError(f"negatives {negatives!r} is unknown; known: one, list")
    if instruction == "item" and not same_as:
        raise ConfigError(
            f"{card.name}: nothing says where instructions end in this data set; use "
            "instruction=text"
        )
    split = split or card.split
    table = _table(card, folder, split, files)
    known = _instructions(same_as) if same_as else None
    if instruction == "item" and split != ORIGINAL and not files:
        table = _WithOriginal(table, _table(card, folder, ORIGINAL, ""))
    parse = _Parse(
        card, folder / images, known, in_text=instruction == "text", lists=negatives == "list"
    )
    return TableRows(card, table, parse, document_ids=parse.document_ids)


def _table(card: DatasetCard, folder: Path, split: str, pattern: str) -> RowTable:
    found = sorted(folder.glob(pattern)) if pattern else find_table(folder, card.config, split)
    if not found:
        wanted = pattern or f"{card.config}/{split}-*.parquet"
        raise DataError(f"{card.name}: no {wanted} in {folder}; mmembed data fetch {card.name}")
    return open_table(found)


@dataclass(frozen=True)
class _Known:
    """Instructions that a text follows; none: the whole string is one."""

    query: Sequence[str]
    target: Sequence[str]


def _instructions(name: str) -> _Known:
    entry = next((entry for entry in load_entries() if entry.card.name == name), None)
    if entry is None:
        raise ConfigError(f"same_as: the evaluation has no data set {name!r}")
    return _Known(entry.options.get("merged_query", ()), entry.options.get("merged_target", ()))


class _WithOriginal:
    """Rows that have, under `original`, the row with the same number that was worded anew."""

    def __init__(self, table: RowTable, original: RowTable) -> None:
        if len(table) != len(original):
            raise DataError(
                f"{table.files[0]} has {len(table)} rows and {original.files[0]} {len(original)}; "
                "they must be of one revision. With instruction=text only one of them is read."
            )
        self._table, self._original = table, original
        self.files = (*table.files, *original.files)
        self.columns = table.columns
        self.where = table.where

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._table[index], ORIGINAL: self._original[index]}

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        pairs = zip(self._table.take(indices), self._original.take(indices), strict=True)
        return [{**row, ORIGINAL: original} for row, original in pairs]


class _Parse:
    def __init__(
        self, card: DatasetCard, root: Path, known: _Known | None, *, in_text: bool, lists: bool
    ) -> None:
        self._card, self._root, self._lists = card, root, lists
        self._known = None if in_text else known
        self._captions = known.target if known else None

    def __call__(self, row: dict[str, Any], where: str) -> ContrastiveExample:
        check_cells(row, _CELLS, where)
        before = row.get(ORIGINAL) or row
        query = self._item("qry", row["qry"], row["qry_image_path"], before, where)
        positive = self._positive(row, where)
        if query is None:
            raise InputError("empty", f"{where}: the query has neither text nor picture")
        own = document_ids((positive,), self._root)
        hard = self._negatives(row, before, where)
        hard = [item for item in hard if document_ids((item,), self._root) != own]
        is_class = self._card.task == "classification"
        return ContrastiveExample(
            query,
            (positive,),
            tuple(hard),
            task=self._card.task,
            positive_ids=own,
            label=_words(positive) if is_class else None,
            negative_labels=tuple(map(_words, hard)) if is_class else (),
        )

    def document_ids(self, row: dict[str, Any]) -> tuple[str, ...]:
        check_cells(row, _CELLS, "the row")
        return document_ids((self._positive(row, "the row"),), self._root)

    def _positive(self, row: Mapping[str, Any], where: str) -> MultimodalInput:
        before = row.get(ORIGINAL) or row
        item = self._item("pos_text", row["pos_text"], row["pos_image_path"], before, where)
        if item is None:
            raise InputError("empty", f"{where}: the positive has neither text nor picture")
        return item

    def _negatives(
        self, row: Mapping[str, Any], before: Mapping[str, Any], where: str
    ) -> list[MultimodalInput]:
        texts = self._entries(row, "neg_text", where)
        paths = self._entries(row, "neg_image_path", where)
        found = []
        for text, path in zip_longest(texts, paths, fillvalue=""):
            if path and not text and row["pos_image_path"]:
                text = self._wording(row["pos_text"] or "")
            found.append(self._item("neg_text", text, path, before, where))
        return [item for item in found if item is not None]

    def _wording(self, positive: str) -> str:
        """What a picture that comes without words is given: a bare one would stand out."""
        found = None if self._captions is None else split_merged(positive, self._captions)
        return found[0] if found else ""

    def _entries(self, row: Mapping[str, Any], column: str, where: str) -> list[str]:
        value = row.get(column)
        if self._lists and isinstance(value, str) and value.startswith("["):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise InputError(
                    "corrupt", f"{where}, column {column!r}: no list: {shortened(value)}"
                ) from None
        entries = value if self._lists and isinstance(value, list) else [value]
        kind = MAYBE_PATH if column == "neg_image_path" else MAYBE_TEXT
        for entry in entries:
            check_cells({column: entry}, {column: kind}, where)
        return [entry or "" for entry in entries]

    def _item(
        self,
        side: str,
        merged: str | None,
        path: str | None,
        before: Mapping[str, Any],
        where: str,
    ) -> MultimodalInput | None:
        picture: tuple[Part, ...] = ()
        if path:
            picture = (Image(safe_path(self._root, path, where=where)),)
        instruction, text = self._split(side, merged or "", bool(path), before, where)
        parts = (*picture, Text(text)) if text.strip() else picture
        return MultimodalInput(parts, instruction or None) if parts else None

    def _split(
        self, side: str, merged: str, shows: bool, before: Mapping[str, Any], where: str
    ) -> tuple[str, str]:
        """Instruction, with a blank at its end where a text follows, and text."""
        if self._known is None:
            return "", merged.replace(MARKER if shows else f"{MARKER}\n", "")
        if side != "qry" and not shows:
            return "", merged.strip()
        known = self._known.query if side == "qry" else self._known.target
        if not merged.strip():
            return "", ""
        found = split_merged(merged, known) or _reworded(merged, before.get(side), known)
        if found is None:
            raise InputError(
                "invalid_text",
                f"{where}, column {side!r}: {shortened(merged)} does not begin with "
                f"{' or '.join(map(repr, known))}, so instruction and text cannot be told apart; "
                "with instruction=text they need not",
            )
        instruction, text = found[0].replace(MARKER, "").strip(), found[1]
        return (f"{instruction} " if text and instruction else instruction), text


def _reworded(merged: str, original: Any, known: Sequence[str]) -> tuple[str, str] | None:
    """What stands before the text of the original row is the instruction."""
    found = split_merged(original, known) if isinstance(original, str) else None
    plain = merged.rstrip("\n")
    if found is None or not found[1] or not plain.endswith(found[1]):
        return None
    return plain.removesuffix(found[1]), found[1]


def _words(item: MultimodalInput) -> str:
    return " ".join(part.text for part in item.parts if isinstance(part, Text))
