"""Reading comprehension: a passage, a question about it and its answers (SQuAD, CMRC)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_adapters.cells import shortened
from data_adapters.text.items import example, item, text, titled
from data_adapters.text.tables import Selected, open_split, saved_array, scanned
from mmembed.datasets import DatasetCard
from mmembed.errors import ConfigError, InputError
from mmembed.tables.examples import TableRows
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample

__all__ = ["load"]

FORMS = ("passage", "answer")


def load(
    card: DatasetCard,
    folder: Path,
    *,
    table: str = "",
    form: Literal["passage", "answer"] = "passage",
    passage: str = "context",
    question: str = "question",
    answers: str = "answers",
    title: str = "",
    separator: str = " ",
    cue: str = "\n",
) -> TableRows:
    """Questions.

    Args:
        table: pattern of the files, if they are not where the hub's layouts have them.
        form: `passage`: the question, to its passage. `answer`: the passage and the question, to
            the answers; questions without any are left out.
        passage, question, answers: columns; answers are `{text: [...]}`, a list or a text.
        title: column of the passage's title.
        separator: between title and passage.
        cue: what the query says between the passage and the question, under `answer`.
    """
    if form not in FORMS:
        raise ConfigError(f"form is {form!r}; it must be one of: {', '.join(FORMS)}")
    wanted = [passage, question, *([answers] if form == "answer" else []), *filter(None, [title])]
    rows: RowTable = open_split(card, folder, table, wanted)
    if form == "answer":
        rows = _answered(rows, answers)

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        asked = text(row[question], question, where)
        body = text(row[passage], passage, where)
        whole = titled(row[title], body, separator) if title else body
        if form == "passage":
            return example(card.task, item(asked), [whole])
        return example(card.task, item(f"{whole}{cue}{asked}"), _answers(row[answers], where))

    def _answers(cell: Any, where: str) -> list[str]:
        found = cell.get("text") if isinstance(cell, dict) else cell
        found = [found] if isinstance(found, str) else found
        if not isinstance(found, list):
            raise InputError(
                "invalid_type", f"{where}, {answers!r}: found {shortened(cell)}; expected answers"
            )
        return list(dict.fromkeys(text(one, answers, where) for one in found))

    return TableRows(card, rows, parse)


def _answered(table: RowTable, column: str) -> Selected:
    """The rows with answers, and those that only reading can say anything about."""

    def find() -> np.ndarray:
        kept = [n for n, row in scanned(table) if row is None or not _is_unanswered(row[column])]
        return np.array(kept, dtype=np.int64)

    return Selected(table, saved_array([table], f"answered {column}", find))


def _is_unanswered(cell: Any) -> bool:
    return cell == [] or (isinstance(cell, dict) and cell.get("text") == [])
