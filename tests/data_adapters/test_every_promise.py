"""What every published data set promises of its rows, on the fixture of its layout."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data_adapters.catalog import Dataset, Entry, load_entries
from data_adapters.document_ids import document_id
from mmembed.types import ContrastiveExample, MultimodalInput
from tests.data_adapters.test_every_card import layouts

ENTRIES = list(load_entries().values())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))


def opened(entry: Entry, root: Path) -> Dataset:
    folder = root / entry.place
    folder.mkdir(parents=True)
    layouts()[entry.family](entry.card, folder)
    return Dataset(entry.card.name, root)


def all_of(example: ContrastiveExample) -> tuple[MultimodalInput, ...]:
    return (example.query, *example.positives, *example.hard_negatives)


def below(value: Any, root: Path) -> Any:
    """With paths that count from the root."""
    if isinstance(value, Path):
        return value.resolve().relative_to(root.resolve())
    return tuple(below(one, root) for one in value) if isinstance(value, tuple) else value


def described(example: ContrastiveExample, root: Path) -> list[Any]:
    """Everything that a row says, wherever its files lie."""
    items = [
        (
            item.instruction,
            [(type(part), below(tuple(vars(part).values()), root)) for part in item.parts],
        )
        for item in all_of(example)
    ]
    plain = {"query", "positives", "hard_negatives"}
    return [items, {key: value for key, value in vars(example).items() if key not in plain}]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.card.name)
def test_a_row_is_the_same_by_every_way_to_it(entry, tmp_path):
    rows = opened(entry, tmp_path / "here")
    numbers = range(len(rows))
    examples = [rows[index] for index in numbers]
    if hasattr(rows, "take"):
        assert rows.take([*numbers, *reversed(numbers)]) == [*examples, *reversed(examples)]
    if hasattr(rows, "document_ids"):
        ids = [rows.document_ids(index) for index in numbers]
        assert ids == [example.positive_ids for example in examples]
    with ThreadPoolExecutor(8) as pool:
        wanted = [index for _ in range(8) for index in numbers]
        assert list(pool.map(rows.__getitem__, wanted)) == [examples[index] for index in wanted]
    moved = shutil.copytree(tmp_path / "here", tmp_path / "else" / "where")
    there = Dataset(entry.card.name, moved)
    assert [described(there[index], moved) for index in numbers] == [
        described(example, tmp_path / "here") for example in examples
    ]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.card.name)
def test_no_document_is_right_and_wrong_at_once_or_the_query_itself(entry, tmp_path):
    """Two equal sentences are a pair of graded texts like any other."""
    rows = opened(entry, tmp_path)
    for index in range(len(rows)):
        example = rows[index]
        right = set(map(document_id, example.positives))
        assert right.isdisjoint(map(document_id, example.hard_negatives))
        assert example.task == "sts" or document_id(example.query) not in right
