"""Tables in the layouts of the hub, media in the layouts of the archives."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_adapters.mmeb.files import MediaFiles, frame_indices, natural_key
from mmembed.errors import DataError

REPO = "org/name"
ROWS = [{"n": n, "text": f"line\u2028{n}\nnext"} for n in range(5)]


def parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


def shards(folder: Path, stem: str, count: int = 2) -> None:
    for number in range(count):
        part = ROWS[number * 5 // count : (number + 1) * 5 // count]
        parquet(folder / f"{stem}-{number:05}-of-{count:05}.parquet", part)


def text(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def jsonl(file: Path) -> None:
    text(file, "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n")


def saved_to_disk(folder: Path) -> None:
    """What `datasets.save_to_disk` leaves: streams, and a state that says which."""
    folder.mkdir(parents=True)
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, rows in zip(names, (ROWS[:3], ROWS[3:]), strict=True):
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(str(folder / name), table.schema) as stream:
            stream.write_table(table)
    text(folder / "dataset_info.json", "{}")
    state = {"_data_files": [{"filename": name} for name in names], "_split": "test"}
    text(folder / "state.json", json.dumps(state))


def declared(folder: Path, data_files: str) -> None:
    text(
        folder / "README.md",
        "---\nlicense: mit\nconfigs:\n- config_name: other\n  data_files: no.json\n"
        f"- config_name: en\n  data_files:\n{data_files}\n---\n# Title\n---\n",
    )


def by_split(folder: Path) -> None:
    shards(folder / "odd", "part")
    declared(folder, "  - split: train\n    path: no/*\n  - split: test\n    path: odd/part-*")


def list_of_paths(folder: Path) -> None:
    shards(folder / "odd", "part")
    first = "odd/part-00000-of-00002.parquet"
    declared(folder, f"  - split: test\n    path:\n    - {first}\n    - odd/part-00001-*")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "shards in the folder of the configuration": lambda f: shards(f / "en", "test"),
    "one file for the split": lambda f: parquet(f / "en" / "test.parquet", ROWS),
    "a folder for the split": lambda f: shards(f / "en" / "test", "x"),
    "configurations under data": lambda f: shards(f / "data" / "en", "test"),
    "jsonl named after the split": lambda f: jsonl(f / "en" / "test.jsonl"),
    "jsonl named after the configuration": lambda f: jsonl(f / "en.jsonl"),
    "json named after the configuration": lambda f: text(f / "json" / "en.json", json.dumps(ROWS)),
    "a saved dataset": lambda f: saved_to_disk(f / "en"),
    "saved datasets for the splits": lambda f: saved_to_disk(f / "en" / "test"),
    "declared in the readme by split": by_split,
    "declared in the readme as a list": list_of_paths,
}
ONLY_CONFIGURATION: dict[str, Callable[[Path], None]] = {
    "shards under data": lambda f: shards(f / "data", "test", 3),
    "shards in the repository": lambda f: shards(f, "test"),
    "jsonl": lambda f: jsonl(f / "test.jsonl"),
    "saved datasets": lambda f: saved_to_disk(f / "test"),
    "one saved dataset": saved_to_disk,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_configuration_is_read_in_every_layout(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path / "annotations" / REPO)
    media = MediaFiles(tmp_path)
    assert media.rows(REPO, "en", "test") == ROWS
    assert media.files and all(file.is_file() for file in media.files)
    assert media.has_table(REPO, "en", "test") and not media.has_table(REPO, "fr", "test")


@pytest.mark.parametrize("layout", ONLY_CONFIGURATION)
def test_the_only_configuration_is_read_in_every_layout(tmp_path: Path, layout: str) -> None:
    ONLY_CONFIGURATION[layout](tmp_path / "annotations" / REPO)
    assert MediaFiles(tmp_path).rows(REPO, "", "test") == ROWS


@pytest.mark.parametrize(
    "place",
    [
        "annotations/org/name",
        "annotations/name",
        "org/name",
        "annotations/datasets--org--name/snapshots/0123abcd",
        "elsewhere/copy",
    ],
)
def test_a_repository_is_found_where_people_download_it(tmp_path: Path, place: str) -> None:
    shards(tmp_path / place / "en", "test")
    assert MediaFiles(tmp_path).rows(REPO, "en", "test", also=["elsewhere/copy"]) == ROWS


def test_a_readme_that_names_no_split_means_train(tmp_path: Path) -> None:
    jsonl(tmp_path / REPO / "json" / "x.jsonl")
    declared(tmp_path / REPO, "    json/x.jsonl")
    assert MediaFiles(tmp_path).rows(REPO, "en", "train") == ROWS
    assert not MediaFiles(tmp_path).has_table(REPO, "en", "test")


def test_a_readme_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    declared(tmp_path / REPO, "  - split: test\n    path: ../../x.jsonl")
    with pytest.raises(DataError, match="outside its folder"):
        MediaFiles(tmp_path).rows(REPO, "en", "test")


def test_a_table_that_is_not_there_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        MediaFiles(tmp_path).rows(REPO, "en", "test")
    message = str(caught.value)
    assert "org/name, configuration en, split test" in message
    assert str(tmp_path / "annotations/org/name") in message and "parquet" in message


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path / REPO / "en", "test", 3)
    (tmp_path / REPO / "en" / "test-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match="are missing: test-00001-of-00003") as caught:
        MediaFiles(tmp_path).rows(REPO, "en", "test")
    assert caught.value.missing == ("test-00001-of-00003.parquet",)


def test_shards_of_two_downloads_are_not_mixed(tmp_path: Path) -> None:
    shards(tmp_path / REPO / "en", "test", 2)
    shards(tmp_path / REPO / "en", "test", 1)
    with pytest.raises(DataError, match="has the shards of two tables: test-00000"):
        MediaFiles(tmp_path).rows(REPO, "en", "test")


@pytest.mark.parametrize("name", ["en.jsonl", "en.json", "en/test.parquet"])
def test_a_pointer_in_place_of_a_file_says_how_to_get_it(tmp_path: Path, name: str) -> None:
    text(tmp_path / REPO / name, "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match="git lfs pull"):
        MediaFiles(tmp_path).rows(REPO, "en", "test")


def test_text_in_another_encoding_and_states_that_list_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / REPO).mkdir(parents=True)
    (tmp_path / REPO / "en.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(DataError, match=r"en\.jsonl: not UTF-8"):
        MediaFiles(tmp_path).rows(REPO, "en", "test")
    for content in ("[]", "{}", '{"_data_files": [{}]}', "[" * 100_000):
        text(tmp_path / REPO / "en" / "state.json", content)
        with pytest.raises(DataError, match=r"state\.json"):
            MediaFiles(tmp_path).rows(REPO, "en", "test")


def test_rows_of_a_large_table_come_a_few_at_a_time(tmp_path: Path) -> None:
    """Pages are gigabytes: the first is there before the last was read."""
    file = tmp_path / REPO / "test.parquet"
    parquet(file, [{"n": n, "page": bytes([n]) * 50} for n in range(200)])
    rows = MediaFiles(tmp_path).each_row(REPO, "", "test")
    before = pa.total_allocated_bytes()
    assert [next(rows)["n"] for _ in range(70)] == list(range(70))
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert [row["n"] for row in rows] == list(range(70, 200))


@pytest.mark.parametrize("name", ["test.parquet", "test.arrow"])
def test_a_damaged_table_is_named(tmp_path: Path, name: str) -> None:
    text(tmp_path / REPO / "en" / name, "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=f"{name}: damaged, or not a table"):
        MediaFiles(tmp_path).rows(REPO, "en", "test")


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    text(tmp_path / REPO / "en.jsonl", '{"a": 1}\n\n{"a": \n')
    with pytest.raises(DataError, match=r"en\.jsonl, line 3: not JSON"):
        MediaFiles(tmp_path).rows(REPO, "en", "test")
    text(tmp_path / REPO / "en.jsonl", "[1]\n")
    with pytest.raises(DataError, match="expected a list of objects"):
        MediaFiles(tmp_path).rows(REPO, "en", "test")


@pytest.mark.parametrize("layout", ["one file for the split", "jsonl named after the split"])
def test_columns_are_chosen_and_missing_ones_are_named(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path / REPO)
    media = MediaFiles(tmp_path)
    assert media.rows(REPO, "en", "test", columns=["n"]) == [{"n": n} for n in range(5)]
    with pytest.raises(DataError, match="row 0 has no label"):
        media.rows(REPO, "en", "test", columns=["n", "label"])


def test_an_embedded_picture_is_bytes_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "b.png").write_bytes(b"file")
    cells = [{"bytes": b"content", "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    parquet(tmp_path / REPO / "test.parquet", [{"image": cell} for cell in cells])
    media = MediaFiles(tmp_path)
    read = [row["image"] for row in media.rows(REPO, "", "test")]
    assert read == cells
    empty = [{"bytes": None, "path": None}, {"bytes": b"", "path": ""}, None]
    cells = [*read, b"raw", "b.png", *empty, "no.png"]
    found = [media.embedded(cell, "pages", "3.png") for cell in cells]
    file = tmp_path / "pages" / "b.png"
    assert found == [b"content", file, b"raw", file, None, None, None, None]
    assert media.missing == ["pages/3.png", "pages/no.png"]


def test_frames_are_in_natural_order_and_other_files_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "frames" / "clip"
    folder.mkdir(parents=True)
    for name in ("10.jpg", "2.jpg", "1.JPG", "9.png", "notes.txt", "._2.jpg"):
        (folder / name).write_bytes(b"")
    media = MediaFiles(tmp_path)
    names = [path.name for path in media.frames("frames/clip")]
    assert names == ["1.JPG", "2.jpg", "9.png", "10.jpg"]
    assert media.frames("nowhere/clip", "frames/clip") == media.frames("frames/clip")


def test_only_files_are_frames(tmp_path: Path) -> None:
    """A link to nothing and a folder would be counted, and change which frames are chosen."""
    folder = tmp_path / "clip"
    (folder / "1.jpg").mkdir(parents=True)
    (folder / "2.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert MediaFiles(tmp_path).frames("clip") == ()
    (tmp_path / "blob").write_bytes(b"")
    (folder / "3.jpg").symlink_to(tmp_path / "blob")  # as the hub's cache has them
    assert MediaFiles(tmp_path).frames("clip") == (folder / "3.jpg",)


def test_missing_media_are_collected_once_each(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    media = MediaFiles(tmp_path)
    for _ in range(2):
        assert media.image("a/1.jpg", "b/1.jpg") is None
        assert media.frames("empty") == ()
    assert media.missing == ["a/1.jpg", "empty"]
    with pytest.raises(DataError, match=r"task: 2 media .*: a/1\.jpg, empty\.") as caught:
        media.raise_if_missing("task")
    assert caught.value.missing == ("a/1.jpg", "empty")
    MediaFiles(tmp_path).raise_if_missing("task")
    allowing = MediaFiles(tmp_path, allow_missing=True)
    assert allowing.image("a/1.jpg") is None
    allowing.raise_if_missing("task")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.jpg", "a/../../x", "C:\\x", "a\\..\\x", ""])
def test_unsafe_paths_are_refused(tmp_path: Path, path: str) -> None:
    media = MediaFiles(tmp_path, allow_missing=True)
    for read in (media.image, media.frames):
        with pytest.raises(DataError, match="must be relative"):
            read(path)


@pytest.mark.parametrize("name", ["a\0b", "a" * 300])
def test_names_that_no_file_can_have_are_refused_or_missing(tmp_path: Path, name: str) -> None:
    media = MediaFiles(tmp_path)
    if "\0" in name:
        with pytest.raises(DataError):
            media.image(name)
    else:
        assert media.image(name) is None


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder of the data is not there"):
        MediaFiles(tmp_path / "no")


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_that_of_the_numbers(numbers: list[int]) -> None:
    names = [f"frame_{number}.jpg" for number in numbers]
    expected = [f"frame_{number}.jpg" for number in sorted(numbers)]
    assert sorted(names, key=natural_key) == expected


@given(st.lists(st.text("a1-_", max_size=8)))
def test_natural_keys_can_always_be_compared(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural_key)) == sorted(names)


@given(st.integers(0, 400), st.integers(1, 80))
def test_frames_are_spread_from_the_first_to_the_last(n: int, k: int) -> None:
    chosen = frame_indices(n, k)
    assert len(chosen) == min(n, k) == len(set(chosen))
    assert chosen == sorted(chosen)
    if n > k > 1:
        assert (chosen[0], chosen[-1]) == (0, n - 1)
        for position, index in enumerate(chosen):
            exact = Fraction(position * (n - 1), k - 1)
            # Floating point may fall short of a whole number, as it does in the reference.
            assert index == int(exact) or (exact.denominator == 1 and index == exact - 1)


@pytest.mark.parametrize(
    ("n", "k", "expected"),
    [
        (64, 8, [0, 9, 18, 27, 36, 45, 54, 63]),
        (10, 4, [0, 3, 6, 9]),
        (9, 4, [0, 2, 5, 8]),
        (5, 8, [0, 1, 2, 3, 4]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (7, 1, [0]),
        (0, 8, []),
    ],
)
def test_chosen_frames(n: int, k: int, expected: list[int]) -> None:
    assert frame_indices(n, k) == expected
