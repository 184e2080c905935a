import json
from pathlib import Path

import pytest

from mmembed.data.row_files import RowFile
from mmembed.data.row_writer import ParquetRowWriter, RowWriter
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text


def text(words: str, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput((Text(words),), instruction)


def examples(folder: Path) -> list[ContrastiveExample]:
    return [
        ContrastiveExample(text("q"), (text("p"),)),
        ContrastiveExample(
            query=text('{"text": "x"}', "find"),
            positives=(text('{"text": "x"}'), MultimodalInput((Image(folder / "a.png"),))),
            hard_negatives=(text("n\u2028\n"), text("ü")),
            query_id="r2",
            positive_ids=("d1", "d2"),
            label="c",
            negative_labels=("e", "f"),
            scores=(1.0, 0.5, 0.25, 0.1),
        ),
    ]


@pytest.mark.parametrize(
    ("writer", "name"), [(RowWriter, "r.jsonl"), (ParquetRowWriter, "r.parquet")]
)
def test_rows_read_back_equal(
    tmp_path: Path, writer: type[RowWriter] | type[ParquetRowWriter], name: str
) -> None:
    written = examples(tmp_path)
    with writer(tmp_path / name) as out:
        out.write(written[0], source="s", n=1)
        out.write(written[1])
    rows = RowFile(tmp_path / name)
    assert [rows[n] for n in range(len(rows))] == written
    assert [rows.meta(n) for n in range(2)] == [{"source": "s", "n": 1}, {}]


def test_lines_have_a_fixed_order_and_no_empty_fields(tmp_path: Path) -> None:
    with RowWriter(tmp_path) as out:
        for example in examples(tmp_path):
            out.write(example)
    first, second = (tmp_path / "rows.jsonl").read_text().split("\n")[:-1]
    assert first == '{"query": "q", "positives": ["p"], "task": "retrieval"}'
    assert list(json.loads(second)) == [
        *("id", "query", "positives", "negatives", "positive_ids", "label", "negative_labels"),
        *("scores", "task"),
    ]


@pytest.mark.parametrize("torn", [b'{"query": "q", "posi', b"{}", b"\0\0\0\n", b'{"a": 1}\nx\n\n{'])
def test_after_a_crash_the_torn_end_is_dropped_and_rows_follow(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "r.jsonl"
    example = examples(tmp_path)[0]
    with RowWriter(path) as out:
        assert out.resume() == 0
        out.write(example)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    kept = 2 if torn.startswith(b'{"a"') else 1
    with RowWriter(path) as out:
        assert out.resume() == out.num_rows == kept
        out.write(example)
        assert out.num_rows == kept + 1
    lines = path.read_bytes().splitlines(keepends=True)
    assert [lines[0], lines[-1]] == [whole, whole] and len(lines) == kept + 1


def test_a_file_with_rows_is_not_appended_to_by_accident(tmp_path: Path) -> None:
    example = examples(tmp_path)[0]
    with RowWriter(tmp_path / "r.jsonl") as out:
        out.write(example)
    with (
        RowWriter(tmp_path / "r.jsonl") as again,
        pytest.raises(DataError, match=r"call resume\(\)"),
    ):
        again.write(example)


def test_every_row_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    out = RowWriter(tmp_path / "r.jsonl")
    for number in range(1, 4):
        out.write(examples(tmp_path)[0])
        assert (tmp_path / "r.jsonl").read_bytes().count(b"\n") == number
    out.close()
    out.close()


def test_what_cannot_be_read_back_is_refused_and_leaves_no_line(tmp_path: Path) -> None:
    good = examples(tmp_path)[0]
    bad = [
        (ContrastiveExample(text("\ud800"), (text("p"),)), {}, InputError),
        (ContrastiveExample(text("q"), (text("p"),), scores=(float("nan"),)), {}, InputError),
        (good, {"x": {1, 2}}, InputError),
        (ContrastiveExample(text("q"), ()), {}, ConfigError),
        (ContrastiveExample(text("q"), (text("p"),), scores=(1.0, 2.0)), {}, ConfigError),
    ]
    with RowWriter(tmp_path / "r.jsonl") as out:
        for example, meta, error in bad:
            with pytest.raises(error):
                out.write(example, **meta)
    assert (tmp_path / "r.jsonl").read_bytes() == b""


@pytest.mark.parametrize("name", ["r.json", "r.parquet", "r.jsonl.gz"])
def test_other_files_are_not_appended_to(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="mmembed data convert"):
        RowWriter(tmp_path / name)


def test_an_unfinished_parquet_file_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ParquetRowWriter(tmp_path / "r.parquet") as out:
        out.write(examples(tmp_path)[0])
        raise KeyError
    assert list(tmp_path.iterdir()) == []
