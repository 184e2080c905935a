import json
from pathlib import Path
from typing import Any

import pytest

from mmembed.data.adapter import check_adapter
from mmembed.data.row_files import RowFile
from mmembed.datasets import ExampleRows
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text

PAIR = {"query": "q", "positives": ["p"]}


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def of(*texts: str) -> tuple[MultimodalInput, ...]:
    return tuple(MultimodalInput((Text(text),)) for text in texts)


def test_all_fields_are_read(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "query": {"text": "q", "instruction": "find"},
        "positives": ["p", {"image": "photos/a.png", "text": "A"}],
        "negatives": ["n", {"content": ["x", {"image": "b.png"}]}],
        "positive_ids": ["d1", 2],
        "label": 3,
        "negative_labels": ["u", "v"],
        "scores": [1, 0.5, 0.25, -1],
        "task": "classification",
        "meta": {"from": "here"},
    }
    rows = RowFile(write(tmp_path / "train.jsonl", row))
    assert isinstance(rows, ExampleRows)
    check_adapter(rows, "rows")
    picture = MultimodalInput((Image(tmp_path / "photos/a.png"), Text("A")))
    mixed = MultimodalInput((Text("x"), Image(tmp_path / "b.png")))
    assert rows[0] == ContrastiveExample(
        query=MultimodalInput((Text("q"),), "find"),
        positives=(*of("p"), picture),
        hard_negatives=(*of("n"), mixed),
        task="classification",
        query_id="7",
        positive_ids=("d1", "2"),
        label="3",
        negative_labels=("u", "v"),
        scores=(1.0, 0.5, 0.25, -1.0),
    )
    assert (rows.name, rows.task, len(rows)) == ("train", "classification", 1)
    assert rows.files == (tmp_path / "train.jsonl",)
    assert rows.document_ids(0) == ("d1", "2")
    assert rows.meta(0) == {"from": "here"}
    assert rows.take([0]) == [rows[0]]


def test_one_positive_may_stand_alone_and_null_is_nothing(tmp_path: Path) -> None:
    rows = RowFile(
        write(
            tmp_path / "r.jsonl",
            {"query": "q", "positive": "p"},
            {"query": "q", "positives": {"text": "p"}, "negatives": None, "label": None},
        )
    )
    assert rows[0] == rows[1] == ContrastiveExample(of("q")[0], of("p"))
    assert not hasattr(rows, "document_ids")


def test_documents_without_ids_in_a_file_with_ids_are_known_by_what_they_say(
    tmp_path: Path,
) -> None:
    same = {"query": "other", "positives": ["p"]}
    rows = RowFile(write(tmp_path / "r.jsonl", {**PAIR, "positive_ids": ["d"]}, PAIR, same, b"{"))
    assert rows.document_ids(1) == rows.document_ids(2) != rows.document_ids(0)
    assert rows.document_ids(3) == ()


def test_media_may_have_another_root(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"query": {"image": "a.png"}, "positives": ["p"]})
    rows = RowFile(path, media_root="/photos", name="mine")
    assert rows[0].query == MultimodalInput((Image(Path("/photos/a.png")),))
    assert rows.name == "mine"


BAD: list[tuple[Any, str]] = [
    ({**PAIR, "negatvies": ["n"]}, "unknown field 'negatvies'; did you mean 'negatives'?"),
    ({**PAIR, "source": "x"}, "put anything else under meta"),
    ({"positives": ["p"]}, "no query; found positives"),
    ({"query": "q"}, "no positives; found query"),
    ({"query": "q", "positives": []}, "at least one positive"),
    ({"query": 3, "positives": ["p"]}, "query: found int 3"),
    ({"query": "q", "positives": ["p", 4.5]}, r"positives\[1\]: found float 4.5"),
    ({**PAIR, "negatives": "n"}, "negatives: found str 'n'; a list"),
    ({**PAIR, "negatives": [{"img": "a"}]}, r"negatives\[0\]: unknown key 'img'"),
    ({**PAIR, "id": 1.5}, "id: found float"),
    ({**PAIR, "label": True}, "label: found bool"),
    ({**PAIR, "positive_ids": ["a", "b"]}, "2 positive_ids for 1 positives"),
    ({**PAIR, "positive_ids": [""]}, r"positive_ids\[0\]: no name"),
    ({**PAIR, "negatives": ["n"], "negative_labels": ["a", "b"]}, "2 negative_labels for 1"),
    ({**PAIR, "scores": [1, 2]}, "2 scores for 1 positives and negatives"),
    ({**PAIR, "scores": ["1"]}, r"scores\[0\]: found str '1'"),
    (b'{"query": "q", "positives": ["p"], "scores": [NaN]}', r"scores\[0\]: nan"),
    ({**PAIR, "task": "retreival"}, "did you mean 'retrieval'"),
    ({**PAIR, "task": "sts"}, "task=retrieval"),
    (b'{"query": "\\ud800", "positives": ["p"]}', "query: half of a surrogate pair"),
    (b'{"query": "q", "positives": [{"text": "\\udc00"}]}', r"positives\[0\]: half"),
    (b'{"query": "q", "positives": ["p"]', "not JSON"),
    (b'{"query": "\xff", "positives": ["p"]}', "not UTF-8"),
    (b"[1]", "expected an object, found list"),
    ({"query": "q", "positives": ["p"], "scores": [10**400]}, r"scores\[0\]: 1000"),
    ({"query": "q", "positives": ["p"], "positive": ["r"]}, "both positives and positive"),
    ({"query": "q", "positives": ["p"], "meta": 5}, "meta: found int 5; an object is expected"),
    ({"query": "q", "positives": ["p"], "meta": "words"}, "meta: found str 'words'"),
]


@pytest.mark.parametrize(("bad", "words"), BAD)
def test_a_bad_row_names_file_line_and_fault(tmp_path: Path, bad: Any, words: str) -> None:
    rows = RowFile(write(tmp_path / "train.jsonl", PAIR, bad, PAIR))
    with pytest.raises(InputError, match=rf"train\.jsonl, line 2: .*{words}"):
        rows[1]
    assert rows[0] == rows[2]


def test_of_a_file_with_every_fault_all_good_rows_are_still_read(tmp_path: Path) -> None:
    lines: list[Any] = [PAIR]
    for number, (bad, _) in enumerate(BAD):
        lines += [bad, {"query": f"q {number}", "positives": [f"p {number}"]}]
    rows = RowFile(write(tmp_path / "r.jsonl", *lines))
    taken = rows.take(range(len(rows)))
    good = [row for row in taken if isinstance(row, ContrastiveExample)]
    assert [row.query for row in good[1:]] == list(of(*(f"q {n}" for n in range(len(BAD)))))
    bad = [error for error in taken if isinstance(error, InputError)]
    assert [error.detail.split(":")[0] for error in bad] == [
        f"r.jsonl, line {2 * number + 2}" for number in range(len(BAD))
    ]


def test_the_first_row_may_be_bad(tmp_path: Path) -> None:
    rows = RowFile(write(tmp_path / "r.jsonl", b"{", {**PAIR, "task": "sts", "scores": [0.5]}))
    assert rows.task == "sts" and rows[1].scores == (0.5,)


def test_one_task_may_be_given_to_all_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {**PAIR, "task": "sts"}, {**PAIR, "task": "qa"}, PAIR)
    rows = RowFile(path, task="retrieval")
    assert {rows[n].task for n in range(3)} == {rows.task} == {"retrieval"}
    with pytest.raises(ConfigError, match="unknown"):
        RowFile(path, task="search")  # type: ignore[arg-type]


def test_a_folder_of_shards_is_one_table_and_several_kinds_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", {"query": "2", "positives": ["p"]})
    write(tmp_path / "a.jsonl", {"query": "1", "positives": ["p"]})
    rows = RowFile(tmp_path)
    assert [rows[n].query for n in range(2)] == list(of("1", "2"))
    (tmp_path / "c.csv").write_text("query,positives\n")
    with pytest.raises(DataError, match="several kinds"):
        RowFile(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        RowFile(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("columns", "fits"),
    [
        ("query positives", True),
        ("id query positives negatives scores", True),
        ("query positives negatvies", True),  # the rows say what is wrong
        ("query positive", True),
        ("query positive negative", False),
        ("query pos neg", False),
        ("positives", False),
    ],
)
def test_our_columns_are_recognised(columns: str, fits: bool) -> None:
    assert RowFile.matches(columns.split(), {}) is fits


@pytest.mark.parametrize("arguments", [{"path": 5}, {"media_root": 5}, {"name": 5}])
def test_arguments_that_are_no_text_are_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    path = write(tmp_path / "r.jsonl", PAIR)
    with pytest.raises(ConfigError, match=f"{next(iter(arguments))} is 5"):
        RowFile(**{"path": path, **arguments})
