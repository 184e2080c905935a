"""Every card of pictures opens a fixture of its layout and gives what it announces."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_adapters.catalog import Dataset, Entry, load_entries
from mmembed.types import ContrastiveExample
from tests.data_adapters.images.described import check_rows
from tests.data_adapters.images.layouts import LAYOUTS, NUM_ROWS

ENTRIES = {name: e for name, e in load_entries().items() if e.family.startswith("images.")}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_fixture_of_its_layout_gives_what_the_card_says(name: str, tmp_path: Path) -> None:
    entry = ENTRIES[name]
    LAYOUTS[entry.family](entry.card, tmp_path / entry.place)
    rows = Dataset(name, tmp_path)
    examples = check_rows(rows)
    assert len(examples) >= NUM_ROWS
    for example in examples:
        _check(example, entry)


def _check(example: ContrastiveExample, entry: Entry) -> None:
    card = entry.card
    assert example.task == card.task
    documents = (*example.positives, *example.hard_negatives)
    assert example.query.modality in card.query.split("/")
    assert {document.modality for document in documents} <= set(card.document.split("/"))
    if entry.family == "images.merged":
        assert len(example.hard_negatives) == 1
        assert (example.label is not None) == (card.task == "classification")
        if "same_as" in entry.options:
            (instruction,) = card.query_instructions
            assert (example.query.instruction or "").strip() == instruction
            wording = {(item.instruction or "").strip() for item in documents}
            assert wording == set(card.document_instructions or [""])


def test_the_twenty_training_sets_of_the_benchmark_are_there() -> None:
    original = [e for e in ENTRIES.values() if e.card.repo == "TIGER-Lab/MMEB-train"]
    assert len(original) == len({entry.card.config for entry in original}) == 20
    groups = {e.card.config for e in original if e.card.group == "image_classification"}
    assert groups == {"ImageNet_1K", "N24News", "HatefulMemes", "VOC2007", "SUN397"}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_card_says_where_media_are_and_whose_the_data_are(name: str) -> None:
    card = ENTRIES[name].card
    assert card.media and card.license and card.citation and card.revision and card.url
    assert all(card.config in pattern for pattern in card.files if "/" in pattern)
