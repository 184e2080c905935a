"""Which instruction goes with which item of an mteb task.

`--prompts none` gives no item any instruction, `task` takes what mteb says about the task, and
`table:NAME` looks into a table of `configs/evaluation/mteb/prompts/` (or a file) first. Each side
of a task, query or document, is resolved on its own, in this order: the table's entry of the task,
of its type, of its category (`t2i`, ...); the task's own prompt in mteb; the model's default, which
is what an item without an instruction gets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from mmembed.config.files import find_config, list_configs
from mmembed.config.validation import StrictModel, validate
from mmembed.errors import ConfigError

__all__ = [
    "SYMMETRIC_TYPES",
    "PromptEntry",
    "PromptTable",
    "Prompts",
    "load_prompts",
    "side_of",
    "table_names",
    "tasks_without_entry",
]

Side = Literal["query", "document"]

# Both inputs are of the same kind, so both are instructed (EV-22).
SYMMETRIC_TYPES = frozenset({
    "BitextMining",
    "PairClassification",
    "STS",
    "Summarization",
    "VideoPairClassification",
    "VisualSTS(eng)",
    "VisualSTS(multi)",
})  # fmt: skip

_FOLDER = "evaluation/mteb/prompts"


class PromptEntry(StrictModel):
    """Instructions of a task.

    Attributes:
        query, document: of that side; None leaves it to the next source, "" gives it none.
        symmetric: documents get the instruction of the queries.
    """

    query: str | None = None
    document: str | None = None
    symmetric: bool = False


class PromptTable(StrictModel):
    """A file of `configs/evaluation/mteb/prompts/`.

    Attributes:
        source: where the strings are from.
        note: what the source has beyond them and could not be had.
        format: how an instruction is written, for models whose prompt template does not say so;
            `{instruction}` stands for it.
        tasks, types, categories: of mteb -> entry.
    """

    name: str
    source: str
    note: str = ""
    format: str = "{instruction}"
    tasks: dict[str, PromptEntry] = Field(default_factory=dict)
    types: dict[str, PromptEntry] = Field(default_factory=dict)
    categories: dict[str, PromptEntry] = Field(default_factory=dict)

    @field_validator("format")
    @classmethod
    def _has_one_place(cls, value: str) -> str:
        if value.count("{instruction}") != 1:
            raise ValueError("format must hold {instruction} once")
        return value


@dataclass(frozen=True)
class Prompts:
    """A setting of `--prompts`; `name` stands in the metadata of the model that mteb records."""

    kind: Literal["none", "task", "table"]
    table: PromptTable | None = None
    sha256: str = ""

    @property
    def name(self) -> str:
        """Such as `task` or `table-NAME-1a2b3c4d`: other strings, another name."""
        if self.table is None:
            return self.kind
        return f"table-{self.table.name}-{self.sha256[:8]}"

    def instruction(self, metadata: Any, side: Side) -> str | None:
        """For the items of one side of a task (`TaskMetadata`); None: the model's default."""
        if self.kind == "none":
            return ""
        entries = self._entries(metadata)
        if side == "document" and _is_symmetric(metadata, entries):
            side = "query"
        for entry in entries:
            chosen = entry.query if side == "query" else entry.document
            if chosen is not None:
                return self._written(chosen)
        return self._written(_own_prompt(metadata.prompt, side))

    def _entries(self, metadata: Any) -> list[PromptEntry]:
        if self.table is None:
            return []
        found = (
            self.table.tasks.get(metadata.name),
            self.table.types.get(metadata.type),
            self.table.categories.get(metadata.category or ""),
        )
        return [entry for entry in found if entry is not None]

    def _written(self, instruction: str | None) -> str | None:
        if not instruction or self.table is None:
            return instruction
        return self.table.format.replace("{instruction}", instruction)


def side_of(metadata: Any, prompt_type: Any, *, is_label: bool = False) -> Side:
    """The side that a batch of mteb is on: symmetric tasks have queries only.

    Args:
        is_label: the text of a class, which zero-shot tasks hand over like any other input.
    """
    if is_label:
        return "document"
    if prompt_type is None or metadata.type in SYMMETRIC_TYPES:
        return "query"
    return "document" if getattr(prompt_type, "value", prompt_type) == "document" else "query"


def _is_symmetric(metadata: Any, entries: Iterable[PromptEntry]) -> bool:
    return metadata.type in SYMMETRIC_TYPES or any(entry.symmetric for entry in entries)


def _own_prompt(prompt: Any, side: Side) -> str | None:
    """mteb's prompt of a task: a string is for queries, a dict says for whom."""
    if isinstance(prompt, str):
        return prompt or None if side == "query" else None
    return (prompt or {}).get(side) or None


def load_prompts(setting: str) -> Prompts:
    """From the command line: `none`, `task`, `table:NAME` or `table:FILE.json`.

    Raises:
        ConfigError: another word, no such table, or a table that is not what it should be.
    """
    if setting == "none":
        return Prompts("none")
    if setting == "task":
        return Prompts("task")
    kind, colon, name = setting.partition(":")
    if kind != "table" or not colon or not name:
        raise ConfigError(f"--prompts {setting!r}: allowed are none, task, table:NAME, table:FILE")
    path = find_config(name, folder=_FOLDER, suffix=".json", kind="prompt table")
    payload = path.read_bytes()
    try:
        parsed = json.loads(payload)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ConfigError(f"{path} holds no JSON object")
    table = validate(PromptTable, parsed, where=str(path))
    return Prompts("table", table, hashlib.sha256(payload).hexdigest())


def table_names() -> list[str]:
    """The tables that come with mmembed (or lie in the caller's `configs/`)."""
    return list(list_configs(_FOLDER, suffix=".json"))


def tasks_without_entry(table: PromptTable, tasks: Iterable[Any]) -> list[str]:
    """Names of the tasks whose queries no entry of a table instructs, by name, type or category.

    Their instruction is mteb's own, or the model's default.
    """
    prompts = Prompts("table", table)
    return [
        task.metadata.name
        for task in tasks
        if all(entry.query is None for entry in prompts._entries(task.metadata))
    ]
