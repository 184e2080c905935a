"""Lines by number, compared with reading the file from the front."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.errors import DataError, InputError
from mmembed.tables import json_lines
from mmembed.tables.json_lines import JsonLines

# What stands on a line, and what it is: a row, or the code of the error.
GOOD = st.dictionaries(
    st.text(max_size=3), st.none() | st.integers() | st.text(max_size=9), max_size=3
)
BAD = st.sampled_from(
    [
        (b"[1]", "invalid_type"),
        (b"3", "invalid_type"),
        (b"null", "invalid_type"),
        (b'{"a": ', "corrupt"),
        (b'{"a": 1} x', "corrupt"),
        (b"\x0b", "corrupt"),
        (b'{"a": "\xff"}', "invalid_text"),
        (b"[" * 12_000, "corrupt"),
    ]
)


@st.composite
def lines(draw: st.DrawFn) -> tuple[bytes, list[tuple[Any, int]]]:
    """A file, and its rows with their line numbers as an editor counts them."""
    content = b"\xef\xbb\xbf" if draw(st.booleans()) else b""
    rows: list[tuple[Any, int]] = []
    count = draw(st.integers(0, 12))
    for number in range(1, count + 1):
        kind = draw(st.sampled_from(["row", "row", "blank", "bad"]))
        if kind == "blank":
            content += draw(st.sampled_from([b"", b"  ", b"\t", b"\r"]))
        elif kind == "bad":
            line, code = draw(BAD)
            content += line
            rows.append((code, number))
        else:
            row = draw(GOOD)
            escaped = draw(st.booleans())
            line = json.dumps(row, ensure_ascii=escaped).encode("utf-8", "replace")
            content += draw(st.sampled_from([b"", b" ", b"\t "])) + line
            content += draw(st.sampled_from([b"", b" ", b"\r"]))
            rows.append((json.loads(line), number))
        if number < count or draw(st.booleans()):
            content += b"\n"
    return content, rows


@given(lines(), st.integers(1, 40))
def test_rows_and_line_numbers_are_those_of_a_reader_from_the_front(
    file: tuple[bytes, list[tuple[Any, int]]], scanned: int
) -> None:
    content, expected = file
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "_SCANNED", scanned)
        path = Path(folder, "rows.jsonl")
        path.write_bytes(content)
        table = JsonLines(path)
        assert len(table) == len(expected)
        for index, (row, number) in enumerate(expected):
            assert table.where(index) == f"rows.jsonl, line {number}"
            if isinstance(row, dict):
                assert table[index] == row
            else:
                with pytest.raises(InputError, match=rf"rows\.jsonl, line {number}: ") as caught:
                    table[index]
                assert caught.value.code == row
        good = [index for index, (row, _) in enumerate(expected) if isinstance(row, dict)]
        wanted = [*reversed(good), *good]
        assert table.take(wanted) == [table[index] for index in wanted]
        assert table.columns == (tuple(table[good[0]]) if good else ())


def test_other_line_separators_are_text(tmp_path: Path) -> None:
    rows = [{"a": f"x{mark}y"} for mark in "\u2028\u2029\x85\x0b\x0c\x1e\r"]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows))
    table = JsonLines(path)
    assert [table[index] for index in range(len(table))] == rows


def test_columns_are_chosen_and_a_row_without_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1, "b": 2}\n{"b": 3}\n')
    table = JsonLines(path, columns=["a"])
    assert table.columns == ("a",) and table[0] == {"a": 1}
    with pytest.raises(InputError, match=r"line 2: no column 'a'; found b"):
        table[1]


@pytest.mark.parametrize("index", [-1, 2])
def test_a_row_that_is_not_there_is_no_other_row(tmp_path: Path, index: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    for read in (lambda: JsonLines(path)[index], lambda: JsonLines(path).take([0, index])):
        with pytest.raises(IndexError):
            read()


def test_an_empty_file_has_no_rows_and_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    assert len(JsonLines(tmp_path / "a.jsonl")) == 0
    with pytest.raises(DataError, match="cannot be read"):
        JsonLines(tmp_path)


def test_threads_read_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"a": {number}}}\n' for number in range(500)))
    table = JsonLines(path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: table[index]["a"], [*range(500)] * 4))
    assert found == [*range(500)] * 4
