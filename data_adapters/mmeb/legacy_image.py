"""The older form of the image annotations, `TIGER-Lab/MMEB-eval`: instruction and text merged.

`qry_text` is `<|image_1|>`, a line break, the instruction, a blank, the text and one or two line
breaks; so are the entries of `tgt_text` where candidates have pictures. The instructions that
texts follow are listed in `image.json`, under `merged_query` and `merged_target`; where the list
is empty the whole string is the instruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_adapters.cells import MAYBE_TEXT, MAYBE_TEXTS, check_row
from data_adapters.mmeb.catalog import Entry
from mmembed.errors import DataError

__all__ = ["LEGACY_REPO", "MARKER", "instruct_row", "is_merged", "legacy_entry", "split_merged"]

LEGACY_REPO = "TIGER-Lab/MMEB-eval"
MARKER = "<|image_1|>"


def legacy_entry(entry: Entry) -> Entry:
    """The same data set in the older repository."""
    source = f"{LEGACY_REPO} / {entry.config} / {entry.split}"
    return replace(entry, repo=LEGACY_REPO, card=replace(entry.card, source=source))


def is_merged(entry: Entry) -> bool:
    return entry.repo == LEGACY_REPO


def instruct_row(entry: Entry, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the older form with the columns of the newer.

    Raises:
        DataError: the text does not begin with an instruction of this data set.
    """
    check_row(entry.card.name, number, row, {"qry_text": MAYBE_TEXT, "tgt_text": MAYBE_TEXTS})
    queries = entry.options.get("merged_query", ())
    instruction, text = _split(entry, number, row["qry_text"] or "", queries)
    new = {**row, "qry_inst": instruction.rstrip("\n"), "qry_text": text, "tgt_inst": ""}
    if entry.family in ("cls", "qa", "i2t"):
        return new
    merged = [text or "" for text in row["tgt_text"] or ()]
    targets = entry.options.get("merged_target", ())
    pairs = [_split(entry, number, text, targets) for text in merged]
    instruction = pairs[0][0] if pairs else ""
    if entry.family == "t2i":
        # The newer form of these has no line break at the end; that of the others has.
        instruction = instruction.rstrip("\n")
    return {**new, "tgt_inst": instruction, "tgt_text": [text for _, text in pairs]}


def split_merged(merged: str, instructions: Sequence[str]) -> tuple[str, str] | None:
    """Instruction, with the marker in front as in the newer form, and text.

    Without `instructions` the whole string is the instruction. None: it begins with none of them.
    """
    if not instructions:
        return merged, ""
    plain = merged.replace(MARKER, "").lstrip()
    lead = merged[: len(merged) - len(plain)] if merged.endswith(plain) else ""
    for instruction in instructions:
        if plain.startswith(instruction):
            text = plain[len(instruction) :].removeprefix(" ").rstrip("\n")
            return lead + instruction, text
    return None


def _split(entry: Entry, number: int, merged: str, instructions: Sequence[str]) -> tuple[str, str]:
    found = split_merged(merged, instructions)
    if found is not None:
        return found
    raise DataError(
        f"{entry.card.name} ({LEGACY_REPO}), row {number}: {merged[:100]!r} does not begin with "
        f"{' or '.join(map(repr, instructions))}, so instruction and text cannot be told apart. "
        f"Use the annotations of the newer form ({entry.repo} is the older one)."
    )
