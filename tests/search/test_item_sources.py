"""What encode jobs read: planned once, then any shard alone, without reading the whole."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mmembed.errors import ConfigError, InputError, StoreError
from mmembed.inputs.item_files import FileItem, read_items
from mmembed.search.item_sources import Plan, plan_sources, read_shard
from mmembed.types import Image, Text
from tests.search.jobs import texts, write_lines


def all_items(plan: Plan, order: int = 1) -> list[FileItem]:
    """Shard by shard, each alone, from the first or (-1) from the last."""
    shards = [read_shard(plan.files, shard) for shard in plan.shards[::order]]
    return [item for shard in shards[::order] for item in shard]


def plan_of(*paths: Path, shard_rows: int = 3) -> Plan:
    return plan_sources(paths, shard_rows=shard_rows, folder=paths[0].parent)


def test_shards_of_lines_are_the_items_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    lines = [
        '{"text": "a"}',
        "",
        '"\u00e9\u4e2d"',
        "  ",
        "{broken",
        '{"id": "x", "image": "p.png"}',
    ]
    for ending in ("\n", "\r\n"):
        for first in (b"", b"\xef\xbb\xbf"):
            path.write_bytes(first + ending.join([*lines, '"last"']).encode())
            for shard_rows in (1, 2, 3, 100):
                plan = plan_of(path, shard_rows=shard_rows)
                assert plan.num_rows == 5
                for order in (1, -1):
                    found = all_items(plan, order)
                    assert [item.id for item in found] == ["1", "3", "5", "x", "7"]
                    assert list(map(repr, found)) == list(map(repr, read_items(path)))


def test_items_without_an_id_are_called_by_file_and_line_where_there_are_several(
    tmp_path: Path,
) -> None:
    first = write_lines(tmp_path / "a.jsonl", ["x", {"id": "own", "text": "y"}])
    second = write_lines(tmp_path / "b.jsonl", ["z"])
    assert [item.id for item in all_items(plan_of(first, second))] == [
        f"{first}:1",
        "own",
        f"{second}:1",
    ]


def test_equal_ids_are_refused_by_name_across_files(tmp_path: Path) -> None:
    rows = texts(9)
    first = write_lines(tmp_path / "a.jsonl", rows)
    second = write_lines(tmp_path / "b.jsonl", [{"id": "other", "text": "x"}, rows[4]])
    with pytest.raises(ConfigError, match="rows 5 and 11 have the same id 'row4'"):
        plan_of(first, second)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"items\.jsonl cannot be read: No such file"),
        (b"\n\n", r"nothing to encode in .*items\.jsonl"),
        (b'"ok"\n"caf\xe9"\n', "byte 9 is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "items.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        plan_of(tmp_path / "items.jsonl")


def test_a_file_that_changes_under_a_job_is_noticed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "items.jsonl", texts(5))
    plan = plan_of(path)
    write_lines(path, texts(6))
    with pytest.raises(StoreError, match=r"items\.jsonl had .* has changed while"):
        read_shard(plan.files, plan.shards[1])


def table_rows() -> list[dict[str, Any]]:
    return [
        {"id": f"r{n}", "text": f"text {n}", "image": None, "label": n}
        if n % 3
        else {
            "id": f"r{n}",
            "text": None,
            "image": {"bytes": b"png%d" % n if n % 2 else None, "path": f"{n}.png"},
            "label": n,
        }
        for n in range(20)
    ]


def test_tables_give_the_same_items_in_any_order_of_the_shards(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = pyarrow.Table.from_pylist(table_rows())
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=7)
    with pyarrow.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink:
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=6)
    with pyarrow.OSFile(str(tmp_path / "file.arrow"), "wb") as sink:
        with pyarrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    for name in ("rows.parquet", "stream.arrow", "file.arrow"):
        for shard_rows in (1, 4, 7, 50):
            plan = plan_of(tmp_path / name, shard_rows=shard_rows)
            assert (plan.num_rows, plan.ignored) == (20, ("label",))
            for order in (1, -1):
                found = all_items(plan, order)
                assert [item.id for item in found] == [f"r{n}" for n in range(20)]
                parts = [item.item.parts for item in found[:4]]  # type: ignore[union-attr]
                assert parts == [
                    (Image(tmp_path / "0.png"),),
                    (Text("text 1"),),
                    (Text("text 2"),),
                    (Image(b"png3"),),
                ]
            # one open table, as a worker has it that is given every other shard, then the rest
            open_tables: dict[int, Any] = {}
            for shard in plan.shards[::2] + plan.shards[1::2]:
                part = all_items(plan)[shard.first : shard.first + shard.rows]
                assert read_shard(plan.files, shard, open_tables) == part


def test_a_saved_data_set_is_one_source_of_several_files(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    folder = tmp_path / "set"
    folder.mkdir()
    names = [f"data-0000{n}-of-00002.arrow" for n in range(2)]
    for start, name in zip((0, 3), names, strict=True):
        table = pyarrow.table({"text": [f"text {n}" for n in range(start, start + 3)]})
        with pyarrow.OSFile(str(folder / name), "wb") as sink:
            with pyarrow.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names]}
    (folder / "state.json").write_text(json.dumps(state))
    plan = plan_sources([folder], shard_rows=2, folder=tmp_path)
    assert [item.id for item in all_items(plan)] == ["1", "2", "3", "4", "5", "6"]

    (tmp_path / "dataset_dict.json").write_text('{"splits": ["set"]}')
    with pytest.raises(ConfigError, match=r"several data sets; name one of .*/set"):
        plan_sources([tmp_path], shard_rows=2, folder=tmp_path)


def test_a_data_set_of_the_datasets_library_is_read_without_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"id": [f"r{n}" for n in range(9)], "text": [f"text {n}" for n in range(9)]}
    saved = datasets.Dataset.from_dict(rows).select([8, 1, 5])  # keeps an order of its own
    saved.save_to_disk(tmp_path / "set", num_shards=2)
    plan = plan_sources([tmp_path / "set"], shard_rows=2, folder=tmp_path)
    assert [item.id for item in all_items(plan)] == ["r8", "r1", "r5"]


def test_a_table_without_items_or_that_is_none_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"caption": ["a"]}), tmp_path / "rows.parquet")
    with pytest.raises(ConfigError, match="columns caption; an item needs one of text, image"):
        plan_of(tmp_path / "rows.parquet")
    for name in ("broken.parquet", "broken.arrow"):
        (tmp_path / name).write_bytes(b"this is no table at all")
        with pytest.raises(ConfigError, match=f"{name} cannot be read"):
            plan_of(tmp_path / name)


def test_a_folder_without_media_says_what_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_lines(folder / "items.jsonl", texts(2))
    with pytest.raises(ConfigError, match=r"it holds 1 \.jsonl\)\. .*FOLDER/\*\.jsonl"):
        plan_sources([folder], shard_rows=2, folder=tmp_path)


def test_a_bad_row_of_a_table_keeps_its_place(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"text": ["a", None, "c"]}), tmp_path / "rows.parquet")
    found = all_items(plan_of(tmp_path / "rows.parquet"))
    assert [isinstance(item.item, InputError) for item in found] == [False, True, False]


def test_planning_200000_lines_takes_no_more_memory_than_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"id": "row{n}", "text": "{"x" * 200}"}}\n' for n in range(200_000))
    tracemalloc.start()
    try:
        plan = plan_of(path, shard_rows=2048)
        last = read_shard(plan.files, plan.shards[97])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan.num_rows == 200_000
    assert [last[0].id, last[-1].id] == [f"row{97 * 2048}", "row199999"]
    assert path.stat().st_size > 40 << 20
    assert peak < 8 << 20  # 8 bytes for each id, three times while they are sorted; one shard


def test_rows_of_a_damaged_table_are_refused_again_and_the_others_are_all_there(
    tmp_path: Path,
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "rows.parquet"
    rows = [f"{n} " + "abcdefgh"[n % 8] * (n % 50) for n in range(800)]
    parquet.write_table(
        pyarrow.table({"text": rows}), path, row_group_size=200, use_dictionary=False
    )
    column = parquet.ParquetFile(path).metadata.row_group(2).column(0)
    damaged = bytearray(path.read_bytes())
    begin, size = column.data_page_offset, column.total_compressed_size
    damaged[begin : begin + size] = b"\xff" * size
    path.write_bytes(damaged)
    plan = plan_of(path, shard_rows=200)
    tables: dict[int, Any] = {}
    for shard in plan.shards:
        if shard.index == 2:
            for _ in range(2):
                with pytest.raises(OSError, match=r"rows\.parquet: rows 401 to 600 cannot"):
                    read_shard(plan.files, shard, tables)
        else:
            assert len(read_shard(plan.files, shard, tables)) == 200


def test_an_id_of_null_is_no_id(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "items.jsonl", [{"id": None, "text": "a"}, {"id": 7, "text": "b"}]
    )
    assert [item.id for item in read_items(path)] == ["1", "7"]
