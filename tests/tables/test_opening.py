"""Files of every format give the rows that were written to them."""

from __future__ import annotations

import csv
import gzip
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.errors import ConfigError, DataError, InputError
from mmembed.tables.arrow_rows import ArrowRows
from mmembed.tables.opening import open_table

ROWS: list[dict[str, Any]] = [
    {"id": str(n), "text": f'line\u2028"{n}"\nnext, {"x" * n}'} for n in range(50)
]
FLAT = [{key: value.replace("\n", " ") for key, value in row.items()} for row in ROWS]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_csv(path: Path, *, separator: str = ",", header: bool = True) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([list(ROWS[0])] * header + [list(row.values()) for row in ROWS])


def write_tsv(path: Path) -> None:
    lines = ["\t".join(FLAT[0]), *("\t".join(row.values()) for row in FLAT)]
    path.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")


def write_parquet(path: Path, rows: list[dict[str, Any]] = ROWS) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)


def write_arrow(path: Path, rows: list[dict[str, Any]] = ROWS, *, stream: bool = True) -> None:
    table = pa.Table.from_pylist(rows)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


FORMATS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "lines": ("a.jsonl", lambda path: path.write_bytes(as_lines(ROWS))),
    "lines named json": ("a.json", lambda path: path.write_bytes(as_lines(ROWS))),
    "zipped lines": ("a.jsonl.gz", lambda path: path.write_bytes(gzip.compress(as_lines(ROWS)))),
    "a list": ("a.json", lambda path: path.write_text(json.dumps(ROWS))),
    "an indented list": ("a.json", lambda path: path.write_text(json.dumps(ROWS, indent=2))),
    "a zipped list": (
        "a.json.gz",
        lambda path: path.write_bytes(gzip.compress(b"\xef\xbb\xbf\n" + json.dumps(ROWS).encode())),
    ),
    "csv": ("a.csv", write_csv),
    "parquet": ("a.parquet", write_parquet),
    "arrow stream": ("a.arrow", write_arrow),
    "arrow file": ("a.arrow", lambda path: write_arrow(path, stream=False)),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_are_read_in_any_order(tmp_path: Path, kind: str) -> None:
    name, write = FORMATS[kind]
    write(tmp_path / name)
    table = open_table([tmp_path / name])
    assert (len(table), table.columns) == (50, ("id", "text"))
    assert table.files == (tmp_path / name,)
    assert [table[index] for index in range(50)] == ROWS
    wanted = [7, 49, 0, 7, *range(20, 40), 3]
    assert table.take(wanted) == [ROWS[index] for index in wanted]
    assert table.take([]) == []
    assert table.where(2).startswith(f"{name}, ") and table.where(2).endswith(" 3")
    for bad in (-1, 50):
        with pytest.raises(IndexError):
            table[bad]
        with pytest.raises(IndexError):
            table.take([0, bad])


@pytest.mark.parametrize("kind", FORMATS)
def test_columns_are_chosen_and_one_that_is_not_there_is_refused(tmp_path: Path, kind: str) -> None:
    name, write = FORMATS[kind]
    write(tmp_path / name)
    table = open_table([tmp_path / name], columns=["text"])
    assert table.columns == ("text",) and table[3] == {"text": ROWS[3]["text"]}
    assert table.take([3]) == [table[3]]
    with pytest.raises((DataError, InputError), match=r"no column '?label.*id.*text"):
        open_table([tmp_path / name], columns=["text", "label"])[0]


def test_tsv_has_no_quotation_marks_and_csv_may_have_no_header(tmp_path: Path) -> None:
    write_tsv(tmp_path / "a.tsv")
    table = open_table([tmp_path / "a.tsv"])
    assert [table[index] for index in range(len(table))] == FLAT
    write_csv(tmp_path / "b.tsv", separator="\t", header=False)
    table = open_table([tmp_path / "b.tsv"], names=("n", "body"), quoted=True)
    assert table[5] == {"n": "5", "body": ROWS[5]["text"]} and len(table) == 50
    (tmp_path / "c.jsonl").touch()
    with pytest.raises(ConfigError, match="names= is for CSV"):
        open_table([tmp_path / "c.jsonl"], names=["a"])


def test_a_bad_row_of_csv_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a,b\n1,2\n3\n\n"4"x,5\n\xff,6\n7,"8\n9"\n')
    table = open_table([tmp_path / "a.csv"])
    assert (len(table), table[0], table[4]) == (5, {"a": "1", "b": "2"}, {"a": "7", "b": "8\n9"})
    for index, why in (
        (1, "1 cells where there are 2"),
        (2, "not CSV, line 5 of"),
        (3, "not UTF-8"),
    ):
        with pytest.raises(InputError, match=rf"a\.csv, row {index + 1}: {why}"):
            table[index]


def test_long_cells_are_read_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("a\n" + "x" * 300_000)
    assert len(open_table([tmp_path / "a.csv"])[0]["a"]) == 300_000
    assert csv.field_size_limit() == before


def test_several_files_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_lines(ROWS[:9]) + b"\n[]\n" + as_lines(ROWS[9:20]))
    write_parquet(tmp_path / "b.parquet", ROWS[20:30])
    (tmp_path / "empty.jsonl").touch()
    write_arrow(tmp_path / "c.arrow", ROWS[30:])
    files = [tmp_path / name for name in ("a.jsonl", "b.parquet", "empty.jsonl", "c.arrow")]
    table = open_table(files)
    expected = [*ROWS[:9], None, *ROWS[9:]]
    assert (len(table), table.files, table.columns) == (51, tuple(files), ("id", "text"))
    wanted = [50, 0, 21, 8, 10, 21, 30, 49, 20]
    assert table.take(wanted) == [expected[index] for index in wanted]
    assert [table[index] for index in wanted] == table.take(wanted)
    where = [table.where(index) for index in (9, 10, 21, 31)]
    assert where == ["a.jsonl, line 11", "a.jsonl, line 12", "b.parquet, row 1", "c.arrow, row 1"]
    with pytest.raises(InputError, match=r"a\.jsonl, line 11: expected an object"):
        table.take([3, 9])


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "text": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
                "texts": st.none() | st.lists(st.text(st.characters(codec="utf-8"), max_size=3)),
                "nested": st.lists(st.lists(st.text("ab"), max_size=2), max_size=2),
                "number": st.none() | st.integers(0, 9),
                "picture": st.none() | st.fixed_dictionaries({"bytes": st.binary(max_size=3)}),
            }
        ),
        min_size=1,
        max_size=30,
    ),
    st.data(),
)
def test_cells_of_arrow_are_what_arrow_says(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    texts = pa.list_(pa.string())
    fields = {
        "text": pa.string(),
        "texts": texts,
        "nested": pa.list_(texts),
        "number": pa.int64(),
        "picture": pa.struct({"bytes": pa.binary()}),
    }
    buffer = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=data.draw(st.integers(1, 30)))
    file = Path(os.environ["MMEMBED_CACHE"]).parent / "rows.arrow"
    file.write_bytes(buffer.getvalue())
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=60))
    assert ArrowRows(file).take(wanted) == [rows[index] for index in wanted]


def test_text_in_arrow_that_is_no_text_is_one_bad_row(tmp_path: Path) -> None:
    ends = pa.array([0, 1, 2, 3], pa.int32()).buffers()[1]
    broken = pa.StringArray.from_buffers(3, ends, pa.py_buffer(b"a\xffb"))
    table = pa.table({"a": broken})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    opened = open_table([tmp_path / "a.arrow"])
    assert (opened[0], opened[2]) == ({"a": "a"}, {"a": "b"})
    for read in (lambda: opened[1], lambda: opened.take([0, 1, 2] * 9)):
        with pytest.raises(InputError, match=r"a\.arrow, row 2: .* not UTF-8"):
            read()


def test_a_conversion_is_made_once_and_again_when_the_file_changes(
    tmp_path: Path, cache: Path
) -> None:
    write_parquet(tmp_path / "a.parquet")
    open_table([tmp_path / "a.parquet"])
    (made,) = (cache / "tables").glob("[!.]*")
    stamp = made.stat().st_mtime_ns
    assert open_table([tmp_path / "a.parquet"])[0] == ROWS[0]
    assert [*(cache / "tables").glob("[!.]*")] == [made] and made.stat().st_mtime_ns == stamp
    write_parquet(tmp_path / "a.parquet", ROWS[::-1])
    os.utime(tmp_path / "a.parquet", ns=(1, 1))
    assert open_table([tmp_path / "a.parquet"])[0] == ROWS[-1]
    assert not [*(cache / "tables").glob(".tmp*")]


def test_what_a_killed_conversion_left_behind_is_taken_away(tmp_path: Path, cache: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    open_table([tmp_path / "a.parquet"])
    (made,) = (cache / "tables").glob("[!.]*")
    made.unlink()
    left = made.with_name(f".tmp-1-{made.name}")
    left.write_bytes(b"half")
    assert open_table([tmp_path / "a.parquet"])[49] == ROWS[49]
    assert not left.exists()


def open_and_report(file: Path, results: Any) -> None:
    results.put(open_table([file])[49])


def test_processes_that_convert_the_same_file_get_whole_ones(tmp_path: Path, cache: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (tmp_path / "a.parquet", results)
    started = [context.Process(target=open_and_report, args=arguments) for _ in range(4)]
    for process in started:
        process.start()
    assert [results.get(timeout=60) for _ in started] == [ROWS[49]] * 4
    for process in started:
        process.join()
    assert len([*(cache / "tables").glob("[!.]*")]) == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize(
    "kind", [kind for kind in FORMATS if "lines" not in kind and kind != "csv"]
)
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, kind: str, cache: Path) -> None:
    name, write = FORMATS[kind]
    write(tmp_path / name)
    cut(tmp_path / name)
    with pytest.raises(DataError, match=name):
        open_table([tmp_path / name])
    assert not [*cache.glob("tables/[!.]*")] and not [*cache.glob("tables/.tmp*")]


def test_zipped_lines_that_were_cut_off_are_named(tmp_path: Path) -> None:
    FORMATS["zipped lines"][1](tmp_path / "a.jsonl.gz")
    cut(tmp_path / "a.jsonl.gz")
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: damaged"):
        open_table([tmp_path / "a.jsonl.gz"])


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.parquet", b"PAR1", "damaged"),
        ("a.arrow", b"", "damaged"),
        ("a.json", b'[{"a": 1},', "damaged"),
        ("a.json", b'[{"a": 1}] x', "something stands behind"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "no end"),
        ("a.json", b'[{"a": "\xff"}]', "not UTF-8"),
        ("a.json", b'{\n"a": 1}', "not a list of objects"),
        ("a.csv", b"a,a\n1,2\n", "names a column twice"),
        ("a.txt", b"text", "cannot be read; known are .jsonl"),
    ],
)
def test_files_that_hold_something_else_are_refused(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=why) as caught:
        open_table([tmp_path / name])
    assert str(tmp_path / name) in str(caught.value)


def test_without_a_cache_folder_the_message_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "a.parquet")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set MMEMBED_CACHE to another folder"):
        open_table([tmp_path / "a.parquet"])
    assert open_table([tmp_path / "a.parquet"], cache=tmp_path / "mine")[0] == ROWS[0]
    with pytest.raises(DataError, match="cannot be read"):
        open_table([tmp_path / "no.jsonl"])
    with pytest.raises(DataError, match="no files"):
        open_table([])
