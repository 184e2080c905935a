import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pictures

from mmembed.data.adapter import DatasetAdapter
from mmembed.data.conversion import TARGETS, convert
from mmembed.data.formats import detect_format, load_format
from mmembed.data.row_files import RowFile
from mmembed.errors import ConfigError
from tests.data.rows import WordRows

TEXTS = [
    {
        "id": f"r{n}",
        "query": f"query {n} ü",
        "positives": [f"positive {n}"],
        "negatives": [f"negative {n}", "the same for all"],
        "positive_ids": [f"d{n}"],
        "scores": [0.9, 0.25, -1.0],
        "task": "retrieval",
        "meta": {"n": n},
    }
    for n in range(300)
]
# What each target keeps of these rows.
KEPT = {
    "jsonl": set(TEXTS[0]),
    "parquet": set(TEXTS[0]),
    "sentence-transformers": {"query", "positives", "negatives", "scores", "task"},
    "flagembedding": {"query", "positives", "negatives", "scores", "task"},
    "tevatron": {"id", "query", "positives", "negatives", "positive_ids", "task"},
}
FIELD = {"id": "query_id", "positives": "positives", "negatives": "hard_negatives"}


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def name_of(to: str) -> str:
    return "out.parquet" if to == "parquet" else "out.jsonl"


@pytest.mark.parametrize("to", TARGETS)
def test_there_and_back_keeps_all_that_the_format_can_hold(tmp_path: Path, to: str) -> None:
    rows = RowFile(write(tmp_path / "rows.jsonl", *TEXTS))
    out = tmp_path / "there" / name_of(to)
    report = convert(rows, out, to=to)
    assert (report.num_rows, report.num_written, report.num_bad) == (300, 300, 0)
    lost = set(TEXTS[0]) - KEPT[to]
    assert report.left == dict.fromkeys(lost, 300)

    name = detect_format(out)
    assert name == ("jsonl" if to == "parquet" else to)
    there: DatasetAdapter = load_format(name)(out)
    back = tmp_path / "back.jsonl"
    convert(there, back, to="jsonl")
    again = RowFile(back)
    fields = [FIELD.get(field, field) for field in KEPT[to] - {"meta"}]
    for number in range(300):
        for field in fields:
            assert getattr(again[number], field) == getattr(rows[number], field), field
        if "meta" in KEPT[to]:
            assert again.meta(number) == {"n": number}


@pytest.mark.parametrize("to", ["jsonl", "parquet"])
def test_media_are_found_from_where_the_rows_go(tmp_path: Path, to: str) -> None:
    Pictures.new("RGB", (3, 2)).save(tmp_path / "a.png")
    rows = RowFile(
        write(tmp_path / "rows.jsonl", {"query": {"image": "a.png"}, "positives": ["p"]})
    )
    content = (tmp_path / "a.png").read_bytes()
    there = tmp_path / "there"
    convert(rows, there / name_of(to), to=to)
    convert(rows, there / "copies" / name_of(to), to=to, media="copy")

    def source(folder: Path) -> Path:
        part: Any = RowFile(folder / name_of(to))[0].query.parts[0]
        found: Path = part.source
        return found

    assert source(there).resolve() == tmp_path / "a.png"
    (tmp_path / "a.png").unlink()
    (there / "copies").rename(tmp_path / "moved")
    assert source(tmp_path / "moved").read_bytes() == content


@pytest.mark.parametrize("to", TARGETS)
def test_bad_rows_are_named_and_skipped_only_when_asked(tmp_path: Path, to: str) -> None:
    bad = [b"{", b'{"query": "\xff"}', {"query": "q", "positives": ["p"], "negatvies": []}]
    good = {key: TEXTS[0][key] for key in ("query", "positives")}
    rows = RowFile(write(tmp_path / "rows.jsonl", good, *bad, good))
    out = tmp_path / name_of(to)
    counted: list[int] = []
    report = convert(rows, out, to=to, advance=counted.append)
    assert not report.written and sum(counted) == report.num_rows == 5
    assert [str(each).split(":")[0] for each in report.bad] == [
        f"rows.jsonl, line {line}" for line in (2, 3, 4)
    ]
    assert "did you mean 'negatives'" in str(report.bad[2])
    assert all(str(each).count("rows.jsonl") == 1 for each in report.bad)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    report = convert(rows, out, to=to, skip_bad=True)
    assert report.written and (report.num_written, report.num_bad) == (2, 3)
    assert len(load_format(detect_format(out))(out)) == 2


def test_pictures_are_refused_by_formats_of_texts_with_their_line(tmp_path: Path) -> None:
    picture = {"query": {"image": "a.png"}, "positives": ["p"]}
    rows = RowFile(write(tmp_path / "rows.jsonl", TEXTS[0], picture))
    report = convert(rows, tmp_path / "out.jsonl", to="flagembedding")
    assert [str(bad) for bad in report.bad] == [
        "rows.jsonl, line 2: query is image; the format holds a text alone"
    ]


def test_rows_of_any_adapter_are_converted(tmp_path: Path) -> None:
    words = WordRows(700)
    convert(words, tmp_path / "out.jsonl", to="jsonl")
    rows = RowFile(tmp_path / "out.jsonl")
    assert [rows[n] for n in range(700)] == [replace(words[n]) for n in range(700)]


def test_an_interrupted_conversion_leaves_no_file(tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    for to in TARGETS:
        with pytest.raises(KeyboardInterrupt):
            convert(WordRows(), tmp_path / name_of(to), to=to, advance=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "name", "options", "words"),
    [
        ("csv", "a.csv", {}, "no target 'csv'; targets are jsonl, parquet"),
        ("parquet", "a.jsonl", {}, r"\*\.parquet"),
        ("tevatron", "a.json", {}, r"\*\.jsonl"),
        ("jsonl", "a.jsonl", {"negatives": 2}, "for sentence-transformers"),
    ],
)
def test_targets_are_checked_before_anything_is_read(
    tmp_path: Path, to: str, name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        convert(WordRows(), tmp_path / name, to=to, **options)
