"""The journal survives being cut anywhere, and nothing in it is asked twice."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mmembed.errors import StoreError
from mmembed.synthesis.journal import Journal

ANSWER = {"text": "hello \u00e9\n", "input_tokens": 3, "output_tokens": 2}


def test_a_journal_cut_at_any_byte_keeps_all_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add_answer("a", ANSWER)
        journal.add_row("0", {"id": "x"})
        journal.add_answer("b", ANSWER)
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    assert len(ends) == 3
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            kept = sum(end <= cut for end in ends)
            found = [journal.answer("a"), journal.row("0"), journal.answer("b")]
            assert [record is not None for record in found] == [n < kept for n in range(3)]
            assert journal.input_tokens == 3 * sum(end <= cut for end in (ends[0], ends[2]))
            journal.add_answer("c", ANSWER)  # lands on a line of its own
        with Journal(path) as journal:
            again = journal.answer("c")
            assert again is not None and again["text"] == ANSWER["text"]


def test_a_flipped_byte_in_the_middle_is_damage_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for name in "abc":
            journal.add_answer(name, ANSWER)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="line 2"):
        Journal(path)


def test_of_two_who_ask_the_same_one_asks(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert journal.answer("a") is None
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(journal.answer("a")))
        thread.start()
        journal.add_answer("a", ANSWER)
        thread.join(10)
        assert isinstance(found[0], dict) and found[0]["text"] == ANSWER["text"]


def test_who_gives_up_leaves_the_question_to_the_next(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert journal.answer("a") is None
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(journal.answer("a")))
        thread.start()
        journal.give_up("a")
        thread.join(10)
        assert found == [None]
