"""Claims: what supports them is positive, what refutes them is a hard negative."""

from __future__ import annotations

import pytest

from data_adapters.text.claims import load
from mmembed.datasets import DatasetCard
from mmembed.errors import InputError
from tests.data_adapters.text.described import described, golden, words
from tests.data_adapters.text.layouts import write_rows

CARD = DatasetCard("set", "retrieval", "text", "text")


def rows_of(*cells):
    return [{"claim": claim, "evidence": text, "label": label} for claim, text, label in cells]


def examples(rows):
    return [rows[index] for index in range(len(rows))]


def test_the_evidence_of_a_claim_is_gathered_from_all_its_rows(tmp_path):
    table = rows_of(
        ("Bees fly.", "Bees have wings.", "SUPPORTS"),
        ("Fish fly.", "Fish swim.", "REFUTES"),
        ("Bees fly.", "Bees cannot fly.", "REFUTES"),
        ("Bees fly.", "Bees are small.", "NOT ENOUGH INFO"),
        ("Cats bark.", "A cat barked.", "SUPPORTS"),
        ("Bees fly.", "A bee flew.", "SUPPORTS"),
        ("Bees fly.", "Bees have wings.", "SUPPORTS"),
        ("Bees fly.", "A bee flew.", "REFUTES"),
    )
    write_rows(tmp_path / "train.jsonl", table)
    rows = load(CARD, tmp_path)
    assert list(map(described, examples(rows))) == golden("text_claims")["plain"]
    assert rows.where(1) == "train.jsonl, line 5"


def test_lists_of_sentences_are_one_document_with_their_titles(tmp_path):
    table = rows_of(
        (
            "Ada lived in London.",
            [["Ada_Lovelace", "3", "She lived"], ["London", "0", "It is in England."]],
            "SUPPORTS",
        ),
        ("Ada lived in London.", [["Zug", "1", "She lived in Zug."]], "REFUTES"),
    )
    write_rows(tmp_path / "train.jsonl", table)
    rows = load(CARD, tmp_path, separator=": ")
    assert list(map(described, examples(rows))) == golden("text_claims")["lists"]


def test_other_words_for_labels_and_fewer_negatives(tmp_path):
    table = rows_of(("c", "yes", 0), *(("c", f"no {n}", 2) for n in range(9)))
    write_rows(tmp_path / "train.jsonl", table)
    options = {"supports": ["0"], "refutes": ["2"], "num_hard_negatives": 3}
    (example,) = examples(load(CARD, tmp_path, **options))
    assert len({words(item) for item in example.hard_negatives}) == 3
    assert examples(load(CARD, tmp_path, **options)) == [example]
    assert len({load(CARD, tmp_path, seed=n, **options)[0].hard_negatives for n in range(5)}) > 1


def test_bad_claims_and_evidence_are_refused_by_line(tmp_path):
    table = rows_of(
        (None, "x", "SUPPORTS"),
        ("a", 7, "SUPPORTS"),
        ("b", [["T", 1]], "SUPPORTS"),
        ("c", "d", "SUPPORTS"),
    )
    write_rows(tmp_path / "train.jsonl", table)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("{\n")
    rows = load(CARD, tmp_path)
    assert len(rows) == 5
    for index, reason in {0: "'claim'", 1: "'evidence'", 2: "'evidence'", 4: "not JSON"}.items():
        with pytest.raises(InputError, match=f"train.jsonl, line {index + 1}.*{reason}"):
            rows[index]
    assert words(rows[3].query) == "c"
