"""A lock says which rows and files were used, and what is no longer the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmembed.data.lock import (
    DataLock,
    check_lock,
    lock_datasets,
    read_lock,
    require_lock,
    rows_sha256,
    write_lock,
)
from mmembed.data.opening import OpenedDataset, open_datasets, open_entry
from mmembed.errors import ConfigError, DataError
from tests.media_files import encode_image, photo

EMOJI = "data_adapters.emoji:EmojiNames"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))


def write_rows(file: Path, *queries: str) -> Path:
    lines = [json.dumps({"query": query, "pos": [f"about {query}"]}) for query in queries]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def opened(file: Path) -> list[OpenedDataset]:
    return open_datasets(file, format="flagembedding")


def test_what_is_locked_is_the_same_when_nothing_changed_wherever_it_lies(tmp_path):
    file = write_rows(tmp_path / "here" / "rows.jsonl", "a", "b")
    lock = tmp_path / "data.lock"
    write_lock(lock, lock_datasets(opened(file)))
    (entry,) = read_lock(lock).datasets
    assert (entry.rows, list(entry.files)) == (2, ["rows.jsonl"])
    assert entry.files["rows.jsonl"].size == file.stat().st_size
    assert check_lock(lock) == check_lock(lock, opened(file)) == []
    moved = write_rows(tmp_path / "elsewhere" / "rows.jsonl", "a", "b")
    assert check_lock(lock, opened(moved)) == []
    file.unlink()
    assert "cannot be opened" in check_lock(lock)[0]


def test_each_change_is_named(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", "a", "b")
    lock = tmp_path / "data.lock"
    write_lock(lock, lock_datasets(opened(file)))
    write_rows(file, "a", "c", "d")
    changes = check_lock(lock)
    assert [change.split(": ", 1)[1].split(" (")[0] for change in changes] == [
        "rows is 3, was 2",
        "rows.jsonl has changed",
        "the content of its rows has changed",
    ]
    with pytest.raises(DataError, match=r"(?s)differ from .*rows is 3, was 2"):
        require_lock(lock, opened(file))


def test_data_sets_and_arguments_that_come_or_go_are_named(tmp_path):
    lock = tmp_path / "data.lock"
    names = open_entry(EMOJI, {"languages": ["en"]}, name="names")
    write_lock(lock, lock_datasets([names]))
    assert check_lock(lock, [names]) == []
    require_lock(lock, [names])
    other = open_entry(EMOJI, {"languages": ["en"]}, name="other")
    assert check_lock(lock, [other]) == [
        "other: is not in the lock",
        "names: is in the lock and not used",
    ]
    german = open_entry(EMOJI, {"languages": ["de"]}, name="names")
    lines = check_lock(lock, [german])
    assert lines[0] == "names: arguments is {'languages': ['de']}, was {'languages': ['en']}"
    assert lines[-1] == "names: the content of its rows has changed"


def test_the_digest_of_rows_sees_one_word_and_bad_rows_and_not_the_folder(tmp_path):
    def digest(folder: str, *queries: str) -> str:
        (one,) = opened(write_rows(tmp_path / folder / "rows.jsonl", *queries))
        return rows_sha256(one.adapter)

    first = digest("one", "a", "b")
    assert first == digest("two", "a", "b")
    assert (
        len({first, digest("three", "a", "B"), digest("four", "b", "a"), digest("five", "a")}) == 4
    )
    bad = write_rows(tmp_path / "six" / "rows.jsonl", "a", "b")
    bad.write_text(bad.read_text() + '{"query": 3, "pos": ["x"]}\n')
    (one,) = opened(bad)
    assert rows_sha256(one.adapter) not in {first, digest("seven", "a", "b", "c")}


def test_pictures_count_by_their_names_wherever_they_lie(tmp_path):
    def digest(folder: str, picture: str) -> str:
        file = tmp_path / folder / "rows.jsonl"
        file.parent.mkdir()
        (file.parent / picture).write_bytes(encode_image(photo()))
        file.write_text(json.dumps({"query": {"image": picture}, "positives": ["a"]}) + "\n")
        (one,) = open_datasets(file)
        return rows_sha256(one.adapter)

    assert digest("here", "a.png") == digest("there", "a.png") != digest("again", "b.png")


def test_rows_of_known_files_need_not_be_read(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", "a", "b")
    lock = tmp_path / "data.lock"
    write_lock(lock, lock_datasets(opened(file)))
    read: list[int] = []
    assert check_lock(lock, opened(file), read_rows=False, on_progress=read.append) == []
    assert read == []
    assert check_lock(lock, opened(file), on_progress=read.append) == []
    assert sum(read) == 2


def test_a_lock_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="mmembed data lock"):
        read_lock(tmp_path / "data.lock")
    for text, error in (("{", DataError), ("[]", DataError), ('{"rows": 3}', ConfigError)):
        (tmp_path / "data.lock").write_text(text)
        with pytest.raises(error, match=r"data\.lock"):
            read_lock(tmp_path / "data.lock")
    write_lock(tmp_path / "data.lock", DataLock())
    assert read_lock(tmp_path / "data.lock") == DataLock()
