"""What the benchmark consists of: one entry for each data set, read from the three JSON tables.

`image.json`, `video.json` and `visdoc.json` are lists under `entries`; `defaults` of a file hold
what its entries share. `split` is the split of the repository and `domain` is `IND` or `OOD`; the
other keys are those of `Entry` and `TaskCard`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from mmembed.tasks import TaskCard

__all__ = ["GROUPS", "MODALITIES", "Entry", "load_entries"]

MODALITIES = ("image", "video", "visdoc")
GROUPS = {
    "image": ("I-CLS", "I-QA", "I-RET", "I-GD"),
    "video": ("V-CLS", "V-QA", "V-RET", "V-MRET"),
    "visdoc": ("VDRv1", "VDRv2", "VisRAG", "VisDoc-OOD"),
}
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """A data set and how to read it.

    Attributes:
        family: which parser reads it; a key of `suite.FAMILIES`.
        repo, config, split: of the annotations on the hub; `config` is empty for the only one.
        query_prompt, document_prompt: ids of prompts in the profile; empty where the data bring
            the instruction.
        options: what the parser of the family asks for; each parser documents its own.
    """

    card: TaskCard
    family: str
    repo: str
    config: str
    split: str
    query_prompt: str = ""
    document_prompt: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@cache
def load_entries() -> tuple[Entry, ...]:
    """All data sets, in the order of the benchmark's tables."""
    return tuple(entry for modality in MODALITIES for entry in _read(modality))


def _read(modality: str) -> list[Entry]:
    table = json.loads((_FOLDER / f"{modality}.json").read_text(encoding="utf-8"))
    shared = {"modality": modality, **table.get("defaults", {})}
    return [_entry({**shared, **row}) for row in table["entries"]]


_OF_ENTRY = {item.name for item in fields(Entry)} - {"card"}
_OF_CARD = {item.name for item in fields(TaskCard)} - {"split", "source"}


def _entry(row: dict[str, Any]) -> Entry:
    unknown = sorted(set(row) - _OF_ENTRY - _OF_CARD - {"domain"})
    assert not unknown, f"{row['name']}: unknown keys {unknown}"
    source = " / ".join(part for part in (row["repo"], row.get("config"), row["split"]) if part)
    card = TaskCard(
        source=source,
        split=row.get("domain", ""),
        **{key: value for key, value in row.items() if key in _OF_CARD},
    )
    assert card.group in GROUPS[card.modality], f"{card.name}: {card.group}"
    return Entry(card, **{"config": "", **{key: row[key] for key in row if key in _OF_ENTRY}})
