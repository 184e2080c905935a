"""Archives and tables of img2dataset: captions, sizes, failed downloads, damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_adapters.catalog import Dataset
from mmembed.errors import ConfigError, DataError, InputError
from tests.data_adapters.images.described import check_rows, described, golden
from tests.data_adapters.images.files import jpeg, write_parquet, write_tar

# Two shards as img2dataset writes them. Its archives have no sample of a failed download, its
# tables have a row; the second picture is made larger than it was.
META: list[dict[str, Any]] = [
    {"key": "000000000", "status": "success", "width": 80, "height": 70, "caption": "a teal tile",
     "re_caption": "The picture shows a tile."},
    {"key": "000000001", "status": "failed_to_download", "width": None, "height": None,
     "caption": "gone", "re_caption": "Gone."},
    {"key": "000000002", "status": "success", "width": 80, "height": 80, "caption": "blurred",
     "re_caption": "It is blurred.", "original_width": 8, "original_height": 8},
    {"key": "000010000", "status": "success", "width": 90, "height": 70, "caption": "tuile",
     "re_caption": "A tile, wider."},
    {"key": "000010001", "status": "success", "width": 640, "height": 70, "caption": "banner",
     "re_caption": "A banner."},
    {"key": "000010002", "status": "success", "width": 70, "height": 90, "caption": "only in json",
     "re_caption": "A tile, higher."},
]  # fmt: skip
COLUMNS = {"original_width": None, "original_height": None, "error_message": None}
ROWS = [{"url": "http://a/1.jpg", **COLUMNS, **meta} for meta in META]


def write_archives(folder: Path, *, with_json: bool = True, with_parquet: bool = True) -> None:
    for shard in ("00000", "00001"):
        rows = [row for row in ROWS if row["key"].startswith(shard)]
        members: dict[str, bytes] = {}
        for row in rows:
            if row["status"] == "success":
                key = row["key"]
                members[f"{key}.jpg"] = jpeg(row["width"], row["height"])
                if row["caption"] != "only in json":
                    members[f"{key}.txt"] = row["caption"].encode()
                if with_json:
                    members[f"{key}.json"] = json.dumps(row).encode()
        write_tar(folder / f"{shard}.tar", members)
        if with_parquet:
            write_parquet(folder / f"{shard}.parquet", rows)


def write_tables(folder: Path, *, embedded: bool) -> None:
    for shard in ("00000", "00001"):
        rows = [dict(row) for row in ROWS if row["key"].startswith(shard)]
        for row in rows:
            is_there = row["status"] == "success"
            content = jpeg(row["width"], row["height"]) if is_there else None
            if embedded:
                row["jpg"] = content
            elif content:
                (folder / shard).mkdir(parents=True, exist_ok=True)
                (folder / shard / f"{row['key']}.jpg").write_bytes(content)
        write_parquet(folder / f"{shard}.parquet", rows)


@pytest.mark.parametrize("with_parquet", [True, False])
@pytest.mark.parametrize("case", ["archive", "recaptioned", "pictures"])
def test_rows_of_archives_are_those_of_the_golden(
    case: str, with_parquet: bool, tmp_path: Path
) -> None:
    name = "laion-2b-en" if case == "archive" else "recap-datacomp-1b"
    write_archives(tmp_path / name, with_parquet=with_parquet)
    rows = Dataset(name, tmp_path, direction="i2t" if case == "pictures" else "t2i")
    examples = check_rows(rows)
    assert [described(example, tmp_path) for example in examples] == golden("image_web")[case]
    assert [file.name for file in rows.files] == ["00000.tar", "00001.tar"]
    said = ", caption" * (case == "recaptioned")
    assert rows.where(0) == f"00000.tar, sample 000000000{said}"


@pytest.mark.parametrize("embedded", [True, False])
def test_tables_give_the_rows_that_archives_give(embedded: bool, tmp_path: Path) -> None:
    write_tables(tmp_path / "recap-datacomp-1b", embedded=embedded)
    rows = Dataset("recap-datacomp-1b", tmp_path)
    examples = check_rows(rows)
    expected = golden("image_web")["recaptioned"]
    if not embedded:
        files = ("00000/000000000", "00001/000010000", "00001/000010002")
        for number, row in enumerate(expected):
            path = f"recap-datacomp-1b/{files[number // 2]}.jpg"
            row["positives"] = [[None, {"image": path}]]
    assert [described(example, tmp_path) for example in examples] == expected
    assert rows.where(3) == "00001.parquet, row 1, re_caption"


def test_without_limits_small_and_long_pictures_stay_and_failed_ones_do_not(tmp_path: Path) -> None:
    none = {"min_width": 0, "min_height": 0, "max_aspect_ratio": 1e9}
    write_archives(tmp_path / "a" / "laion-2b-en")
    write_tables(tmp_path / "b" / "laion-2b-en", embedded=True)
    for root in (tmp_path / "a", tmp_path / "b"):
        assert len(Dataset("laion-2b-en", root, **none)) == 5
        assert len(Dataset("laion-2b-en", root, **{**none, "max_aspect_ratio": 9})) == 4
        assert len(Dataset("laion-2b-en", root, **{**none, "min_width": 9})) == 4
        assert len(Dataset("laion-2b-en", root, **{**none, "min_height": 90})) == 1


def test_captions_of_one_picture_ask_for_one_document(tmp_path: Path) -> None:
    write_archives(tmp_path / "recap-datacomp-1b")
    rows = Dataset("recap-datacomp-1b", tmp_path)
    ids = [rows[index].positive_ids for index in range(len(rows))]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    write_archives(tmp_path / "laion-2b-en")
    assert Dataset("laion-2b-en", tmp_path)[0].positive_ids != ids[0]


def test_a_published_archive_without_metadata_needs_none(tmp_path: Path) -> None:
    members = {"000000000.jpg": jpeg(), "000000000.txt": b"a river\n", "000000001.jpg": jpeg()}
    write_tar(tmp_path / "pixparse" / "cc3m-wds" / "cc3m-train-0000.tar", members)
    write_tar(tmp_path / "pixparse" / "cc3m-wds" / "cc3m-validation-0000.tar", members)
    rows = Dataset("cc3m", tmp_path)
    assert len(rows) == 2
    assert described(rows[0], tmp_path)["query"] == [None, "a river"]
    with pytest.raises(InputError, match=r"sample 000000001: no \.json; the sample has \.jpg"):
        rows[1]
    limited = Dataset("cc3m", tmp_path, min_width=1)
    with pytest.raises(
        InputError, match=r"sample 000000000: no \.json; the sample has \.jpg, \.txt"
    ):
        limited[0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"x.txt": b"A"}, r"no picture; the sample has \.txt"),
        ({"x.jpg": jpeg(), "x.txt": b"\xff"}, r"\.txt is not UTF-8"),
        ({"x.jpg": jpeg(), "x.txt": b" \n"}, "caption is empty"),
        ({"x.jpg": jpeg(), "x.json": b"{"}, r"\.json: Expecting"),
        ({"x.jpg": jpeg(), "x.json": b"[1]"}, r"\.json is \[1\]"),
        ({"x.jpg": jpeg(), "x.json": b'{"caption": 1}'}, "caption is 1; expected a text"),
        ({"x.jpg": jpeg(), "x.json": b"{}"}, "caption is empty"),
    ],
)
def test_a_bad_sample_is_refused_and_the_others_stay(
    bad: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    good = {"a.jpg": jpeg(), "a.txt": b"A", "z.jpg": jpeg(), "z.txt": b"Z"}
    members = {**dict(list(good.items())[:2]), **bad, **dict(list(good.items())[2:])}
    write_tar(tmp_path / "pixparse" / "cc3m-wds" / "cc3m-train-0000.tar", members)
    rows = Dataset("cc3m", tmp_path)
    with pytest.raises(InputError, match=rf"cc3m-train-0000\.tar, sample x: {message}"):
        rows[1]
    assert [described(rows[index], tmp_path)["query"][1] for index in (0, 2)] == ["A", "Z"]


def test_a_sample_whose_size_cannot_be_judged_is_refused_by_itself(tmp_path: Path) -> None:
    sizes = {"a": {"width": 80, "height": 70}, "b": {"width": "80", "height": 70}, "c": {}}
    members: dict[str, bytes] = {}
    for key, size in sizes.items():
        members[f"{key}.jpg"] = jpeg(80, 70)
        members[f"{key}.json"] = json.dumps({"caption": "A", **size}).encode()
    write_tar(tmp_path / "laion-2b-en" / "00000.tar", members)
    rows = Dataset("laion-2b-en", tmp_path)
    assert rows[0].query.parts
    for index, key, found in ((1, "b", "'80'"), (2, "c", "None")):
        with pytest.raises(InputError, match=f"sample {key}: width or height is {found}"):
            rows[index]


def test_sizes_in_the_table_beside_an_archive_are_enough(tmp_path: Path) -> None:
    folder = tmp_path / "laion-2b-en"
    write_archives(folder, with_json=False)
    rows = Dataset("laion-2b-en", tmp_path)
    assert len(rows) == 3
    assert described(rows[1], tmp_path)["query"] == [None, "tuile"]
    members = {"00000/000000000.jpg": jpeg(80, 80), "00000/000000000.txt": b"in a folder"}
    write_tar(folder / "00000.tar", members)
    assert described(Dataset("laion-2b-en", tmp_path)[0], tmp_path)["query"][1] == "in a folder"


def test_high_pictures_are_as_long_as_wide_ones(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for key, (width, height) in {"a": (80, 70), "b": (90, 800), "c": (800, 90)}.items():
        size = {"caption": key, "width": width, "height": height}
        members |= {f"{key}.jpg": jpeg(), f"{key}.json": json.dumps(size).encode()}
    write_tar(tmp_path / "laion-2b-en" / "00000.tar", members)
    rows = Dataset("laion-2b-en", tmp_path)
    assert [described(rows[index], tmp_path)["query"] for index in range(len(rows))] == [
        [None, "a"]
    ]


def test_damage_in_a_later_archive_is_named_where_it_is(tmp_path: Path) -> None:
    good = {"a.jpg": jpeg(80, 80), "a.json": b'{"caption": "A", "width": 80, "height": 80}'}
    write_tar(tmp_path / "laion-2b-en" / "00000.tar", good)
    write_tar(tmp_path / "laion-2b-en" / "00001.tar", {"a.jpg": jpeg(80, 80), "a.json": b"{"})
    with pytest.raises(InputError, match=r"00001\.tar, sample a: \.json"):
        Dataset("laion-2b-en", tmp_path)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jpg": None}, "no picture under 'jpg'"),
        ({"caption": None}, "caption is empty"),
        ({"width": -1}, "width or height is -1"),
    ],
)
def test_a_bad_row_of_a_table_is_refused_and_the_others_stay(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    good = {**ROWS[0], "jpg": jpeg(80, 70)}
    rows = [good, {**good, **change}, good]
    write_parquet(tmp_path / "laion-2b-en" / "00000.parquet", rows)
    opened = Dataset("laion-2b-en", tmp_path)
    with pytest.raises(InputError, match=f"00000.parquet, row 2: {message}"):
        opened[1]
    assert opened[0].query == opened[2].query


def test_a_caption_that_no_table_has_is_named(tmp_path: Path) -> None:
    write_tables(tmp_path / "laion-2b-en", embedded=True)
    rows = Dataset("laion-2b-en", tmp_path, captions="cogvlm")
    with pytest.raises(InputError, match=r"row 1: no 'cogvlm'; found url, .*jpg"):
        rows[0]


def test_options_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "laion-2b-en").mkdir()
    with pytest.raises(DataError, match=r"laion-2b-en: no \*\.tar or \*\.parquet .*img2dataset"):
        Dataset("laion-2b-en", tmp_path)
    write_archives(tmp_path / "laion-2b-en")
    for options in ({"min_width": -1}, {"max_aspect_ratio": 0.5}, {"captions": []}):
        with pytest.raises(ConfigError, match="must be"):
            Dataset("laion-2b-en", tmp_path, **options)
    with pytest.raises(IndexError):
        Dataset("laion-2b-en", tmp_path)[3]
