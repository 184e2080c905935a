"""Mining from rows to files: what becomes a negative, what never does, kills and parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.config.mining import MiningConfig
from mmembed.data.row_files import RowFile
from mmembed.errors import ConfigError, DataError
from mmembed.mining.counts import describe_mining
from mmembed.mining.job import MiningReport, mine
from mmembed.types import ContrastiveExample, MultimodalInput, Role, Text
from tests.mining.rows import ChosenVectors, ListedRows, opened, row, text


def run(
    out: Path,
    *data: ListedRows,
    encoder: ChosenVectors | None = None,
    seed: int = 0,
    part: tuple[int, int] = (0, 1),
    chunk_rows: int = 3,
    **settings: Any,
) -> MiningReport:
    return mine(
        opened(*data),
        encoder or ChosenVectors(),
        MiningConfig(**settings),
        out,
        seed=seed,
        show_progress_bar=False,
        part=part,
        chunk_rows=chunk_rows,
    )


def said(item: MultimodalInput) -> str:
    (part,) = item.parts
    assert isinstance(part, Text)
    return part.text


def negatives(report: MiningReport, name: str = "listed") -> list[list[str]]:
    rows = RowFile(report.files[name])
    return [[said(item) for item in rows[n].hard_negatives] for n in range(len(rows))]


def metas(report: MiningReport, name: str = "listed") -> list[dict[str, Any]]:
    rows = RowFile(report.files[name])
    return [rows.meta(n) for n in range(len(rows))]


PAIRS = [row(f"q{n}", f"d{n}") for n in range(10)]


def nearest_documents(query: str, documents: Sequence[str]) -> list[str]:
    encoder = ChosenVectors()
    return sorted(documents, key=lambda name: -encoder.cosine(query, name))


def test_negatives_are_the_nearest_documents_of_other_rows(tmp_path: Path) -> None:
    report = run(tmp_path, ListedRows(PAIRS), num_negatives=3, ranks=(2, 9))
    assert report.is_complete
    for number, found in enumerate(negatives(report)):
        others = [f"d{n}" for n in range(10) if n != number]
        assert found == nearest_documents(f"q{number}", others)[1:4]
    meta = metas(report)[0]
    encoder = ChosenVectors()
    assert meta["row"] == 0 and meta["negative_ranks"] == [2, 3, 4]
    expected = [encoder.cosine("q0", name) for name in negatives(report)[0]]
    assert meta["negative_scores"] == pytest.approx(expected, abs=2e-6)
    assert meta["positive_scores"] == pytest.approx([encoder.cosine("q0", "d0")], abs=2e-6)


def test_what_a_row_says_besides_is_kept(tmp_path: Path) -> None:
    example = ContrastiveExample(
        text("q", "find it"),
        (text("d"), text("e")),
        (text("old"),),
        task="classification",
        query_id="seven",
        positive_ids=("a", "b"),
        label="L",
        negative_labels=("M",),
    )
    data = ListedRows([example, row("r", "f", label="N", task="classification")])
    data.task = "classification"
    report = run(tmp_path, data, num_negatives=5)
    first, second = (RowFile(report.files["listed"])[n] for n in range(2))
    assert (first.query, first.positives) == (example.query, example.positives)
    assert (first.query_id, first.positive_ids, first.label) == ("seven", ("a", "b"), "L")
    assert {said(item) for item in first.hard_negatives} == {"old", "f"}
    labels = dict(zip(map(said, first.hard_negatives), first.negative_labels, strict=True))
    assert labels == {"old": "M", "f": "N"}
    assert second.query_id == "listed/1"


def test_known_positives_are_never_negatives(tmp_path: Path) -> None:
    data = ListedRows(
        [
            row("q", "by row"),
            row("q", "by same query"),
            row("other", "by id", positive_ids=("7",)),
            row("q", "also seven", positive_ids=("7",)),
            row("else", "q"),  # the query itself
            row("last", "good"),
        ]
    )
    report = run(tmp_path, data)
    assert negatives(report)[0] == ["good"]
    assert negatives(report)[1] == negatives(report)[3] == ["good"]
    assert set(negatives(report)[2]) == {"by row", "by same query", "q", "good"}


def test_ids_and_labels_of_other_data_sets_mean_nothing(tmp_path: Path) -> None:
    first = ListedRows([row("q", "d", positive_ids=("1",), label="x")], "first")
    second = ListedRows([row("r", "e", positive_ids=("1",), label="x")], "second")
    report = run(tmp_path, first, second, pool="all")
    assert negatives(report, "first") == [["e"]] and negatives(report, "second") == [["d"]]
    assert not RowFile(report.files["first"])[0].negative_labels


def test_documents_of_the_label_are_positives_unless_labels_are_not_used(tmp_path: Path) -> None:
    data = ListedRows(
        [row("q", "a", label="x"), row("r", "b", label="x"), row("s", "c", label="y")]
    )
    assert negatives(run(tmp_path / "1", data)) == [["c"], ["c"], nearest_documents("s", "ab")]
    ignored = negatives(run(tmp_path / "2", data, use_labels=False))
    assert [set(each) for each in ignored] == [{"b", "c"}, {"a", "c"}, {"a", "b"}]
    topped = negatives(run(tmp_path / "3", data, ranks=(9, 9), top_up=True))
    assert topped[:2] == [["c"], ["c"]]


def test_a_document_has_a_label_of_its_own_in_each_data_set(tmp_path: Path) -> None:
    def reviews(name: str, count: int) -> ListedRows:
        labels = ["good" if number % 2 else "bad" for number in range(count)]
        said = [row(f"{name} {n}", label, label=label) for n, label in enumerate(labels)]
        more = [row(f"{name} more", "bad", label="poor")]  # a second label of one document
        return ListedRows([*said, *more, row(f"{name} last", "awful", label="poor")], name)

    report = run(tmp_path, reviews("films", 4), reviews("books", 3))
    for name, count in (("films", 4), ("books", 3)):
        rows = RowFile(report.files[name])
        found = [rows[number] for number in range(len(rows))]
        expected = [{"awful", "bad" if n % 2 else "good"} for n in range(count)]
        expected += [{"good"}, {"good"}]
        assert [{said(item) for item in each.hard_negatives} for each in found] == expected
        for each in found:
            names = dict(zip(map(said, each.hard_negatives), each.negative_labels, strict=True))
            labels = {"good": "good", "bad": "bad", "awful": "poor"}
            assert names == {document: labels[document] for document in names}


def test_a_document_of_nearly_the_same_question_is_not_taken(tmp_path: Path) -> None:
    teacher = ChosenVectors(
        {
            "who sings": [1, 0, 0], "who is singing": [0.96, 0.28, 0], "who acts": [0.6, 0.8, 0],
            "a": [0, 0, 1], "b": [0.1, 0, 1], "c": [0.2, 0, 1], "no answer": [0.3, 0, 1],
        },
        dimension=3,
    )  # fmt: skip
    rows = [row("who sings", "a", ["no answer"]), row("who is singing", "b"), row("who acts", "c")]
    rows += [row("who acts", "b"), row("who is singing", "d")]
    report = run(tmp_path, ListedRows(rows), encoder=teacher, max_query_similarity=0.9)
    assert set(negatives(report)[0]) == {"c", "no answer"}
    assert report.counts["listed"]["removed"]["max_query_similarity"] == 4
    report = run(tmp_path / "off", ListedRows(rows), encoder=teacher)
    assert "b" in negatives(report)[0]


def test_a_pool_is_of_the_own_data_set_of_all_or_of_more_files(tmp_path: Path) -> None:
    first, second = (
        ListedRows([row("q", "d"), row("r", "e")], "a"),
        ListedRows([row("s", "f", ["g"])], "b"),
    )
    own = run(tmp_path / "1", first, second)
    assert negatives(own, "a") == [["e"], ["d"]] and negatives(own, "b") == [["g"]]
    every = run(tmp_path / "2", first, second, pool="all")
    assert [set(each) for each in negatives(every, "a")] == [{"e", "f", "g"}, {"d", "f", "g"}]
    corpus = tmp_path / "more.jsonl"
    corpus.write_text('{"text": "h"}\n\n"e"\n{"id": "x", "text": "i"}\n')
    more = run(tmp_path / "3", first, second, corpus=(str(corpus),))
    assert [set(each) for each in negatives(more, "a")] == [{"e", "h", "i"}, {"d", "h", "i"}]
    corpus.write_text('"h"\n{"txt": "h"}\n')
    with pytest.raises(ConfigError, match=r"more\.jsonl, line 2: .*unknown key 'txt'"):
        run(tmp_path / "4", first, corpus=(str(corpus),))


def test_a_document_that_looks_like_a_positive_is_not_taken(tmp_path: Path) -> None:
    angles = {"q": 0.3, "d": 0.0, "twin": 0.05, "near": 0.6, "far": 1.2}
    encoder = ChosenVectors(
        {name: (np.cos(a), np.sin(a)) for name, a in angles.items()}, dimension=2
    )
    data = ListedRows([row("q", "d"), row("far", ["twin", "near", "far"])])
    report = run(tmp_path, data, encoder=encoder, max_similarity=0.9)
    assert negatives(report)[0] == ["near", "far"]
    assert negatives(report)[1] == []  # its only candidate looks like its positive
    assert report.counts["listed"]["removed"] == {"max_similarity": 2}


def test_clips_of_one_video_come_first(tmp_path: Path) -> None:
    data = ListedRows(PAIRS, wholes=["v", "v", "w", "v", "w", "", "", "", "", ""])
    report = run(tmp_path, data, siblings=True, num_negatives=4, min_score=0.99)
    found = negatives(report)
    assert found[0] == nearest_documents("q0", ["d1", "d3"])
    assert found[2] == ["d4"] and found[5] == []
    assert metas(report)[0]["negative_origins"] == ["sibling", "sibling"]
    labelled = ListedRows(
        [row("q", "a", label="x"), row("r", "b", label="x"), row("s", "c", label="y")],
        wholes=["v", "v", "v"],
    )
    assert negatives(run(tmp_path / "3", labelled, siblings=True))[0] == ["c"]
    with_hits = negatives(run(tmp_path / "2", data, siblings=True, num_negatives=4))[0]
    rest = nearest_documents("q0", [f"d{n}" for n in range(10) if n not in (0, 1, 3)])
    assert with_hits == [*nearest_documents("q0", ["d1", "d3"]), *rest[:2]]


def test_own_negatives_stay_in_front_when_asked(tmp_path: Path) -> None:
    data = ListedRows([row("q", "d", ["own"]), row("r", "e"), row("s", "f")])
    assert set(negatives(run(tmp_path / "1", data, num_negatives=3))[0]) == {"own", "e", "f"}
    kept = run(tmp_path / "2", data, num_negatives=2, keep_negatives=True)
    assert negatives(kept)[0] == ["own", nearest_documents("q", ["e", "f"])[0]]
    assert metas(kept)[0]["negative_ranks"] == [None, 1]


def test_short_lists_are_topped_up_or_their_rows_dropped(tmp_path: Path) -> None:
    data = ListedRows(PAIRS)
    settings: dict[str, Any] = {"num_negatives": 4, "ranks": (8, 20)}
    short = run(tmp_path / "1", data, **settings)
    assert [len(each) for each in negatives(short)] == [2] * 10
    assert short.counts["listed"]["short"] == 10
    topped = run(tmp_path / "2", data, **settings, top_up=True)
    for number, found in enumerate(negatives(topped)):
        assert len(set(found)) == 4 and f"d{number}" not in found
        assert found[:2] == negatives(short)[number]
    assert topped.counts["listed"]["negatives"] == {"hit": 20, "random": 20}
    dropped = run(tmp_path / "3", data, **settings, drop_short=True)
    assert negatives(dropped) == [] and dropped.counts["listed"]["dropped"] == {"drop_short": 10}


def test_rows_that_cannot_be_used_cost_only_themselves(tmp_path: Path) -> None:
    data = ListedRows(
        [PAIRS[0], "no such file", PAIRS[1], row("bad query", "x"), row("p", "bad document")]
    )
    encoder = ChosenVectors(refused=["bad query", "bad document"])
    report = run(tmp_path, data, encoder=encoder)
    assert [set(each) for each in negatives(report)] == [{"d1", "x"}, {"d0", "x"}]
    counts = report.counts["listed"]
    assert (counts["rows"], counts["unusable"], counts["not_encoded"]) == (5, 1, 2)
    words = "\n".join(describe_mining("listed", counts))
    assert "2 of 5 rows" in words and "not readable 1, not encoded 2" in words
    with pytest.raises(DataError, match="refused"):
        everything = [said(item) for each in PAIRS for item in (each.query, *each.positives)]
        run(tmp_path / "2", ListedRows(PAIRS), encoder=ChosenVectors(refused=everything))
    with pytest.raises(ConfigError, match=r"not one of 1 rows can be used.*no such file"):
        run(tmp_path / "3", ListedRows(["no such file"]))


def test_teacher_scores_are_those_of_positives_then_negatives(tmp_path: Path) -> None:
    report = run(tmp_path, ListedRows(PAIRS), num_negatives=2, scores="teacher")
    rows, meta = RowFile(report.files["listed"]), metas(report)
    for number, each in enumerate(meta):
        expected = (*each["positive_scores"], *each["negative_scores"])
        assert rows[number].scores == expected and len(expected) == 3


class Dies(ChosenVectors):
    """Is interrupted after some calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().encode(items, role=role)


def test_a_killed_run_goes_on_and_ends_in_equal_bytes(tmp_path: Path) -> None:
    data = ListedRows([row(f"q{n}", f"d{n}") for n in range(3000)])
    settings: dict[str, Any] = {
        "num_negatives": 3, "ranks": (2, 20), "sampling": "random", "chunk_rows": 1000,
    }  # fmt: skip
    whole = run(tmp_path / "whole", data, **settings)
    for calls in (0, 1, 1, 1):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", data, encoder=Dies(calls), **settings)
    # and with one chunk that is there already
    parts = run(tmp_path / "cut", data, part=(1, 3), **settings)
    assert not parts.is_complete and parts.files == {}
    rest = ChosenVectors()
    cut = run(tmp_path / "cut", data, encoder=rest, **settings)
    assert rest.num_encoded == 0
    assert cut.files["listed"].read_bytes() == whole.files["listed"].read_bytes()
    assert cut.counts == whole.counts
    again = run(tmp_path / "cut", data, **settings)
    assert again.record == cut.record


class Interrupted(ListedRows):
    """Is interrupted when so many rows have been read."""

    def __init__(self, rows: Sequence[ContrastiveExample], reads: int) -> None:
        super().__init__(rows)
        self.reads = reads

    def __getitem__(self, index: int) -> ContrastiveExample:
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.mark.parametrize("reads", [5, 600, 1250, 1700, 2100])
def test_an_interrupt_anywhere_leaves_whole_chunks_and_costs_no_bytes(
    tmp_path: Path, reads: int
) -> None:
    rows = [row(f"q{n}", f"d{n}") for n in range(400)]
    settings: dict[str, Any] = {"num_negatives": 3, "sampling": "random", "chunk_rows": 50}
    whole = run(tmp_path / "whole", ListedRows(rows), **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Interrupted(rows, reads), **settings)
    cut = run(tmp_path / "cut", ListedRows(rows), **settings)
    assert cut.files["listed"].read_bytes() == whole.files["listed"].read_bytes()


def test_parts_share_a_folder_and_the_last_one_merges(tmp_path: Path) -> None:
    data = ListedRows(PAIRS), ListedRows(PAIRS[:4], "other")
    whole = run(tmp_path / "whole", *data, seed=3, sampling="random", num_negatives=2)
    for number in (2, 0, 1):
        report = run(
            tmp_path / "parts", *data, seed=3, sampling="random", num_negatives=2,
            part=(number, 3),
        )  # fmt: skip
        assert report.is_complete == (number == 1)
    for name in ("listed", "other"):
        assert report.files[name].read_bytes() == whole.files[name].read_bytes()
    assert sorted(path.name for path in (tmp_path / "parts").glob("*")) == [
        ".lock", "listed.jsonl", "mining.json", "other.jsonl", "vectors",
    ]  # fmt: skip


def test_output_depends_neither_on_chunks_nor_on_what_else_is_mined(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sampling": "random", "num_negatives": 2, "seed": 5}
    alone = run(tmp_path / "1", ListedRows(PAIRS), chunk_rows=100, **settings)
    beside = run(tmp_path / "2", ListedRows(PAIRS[:3], "x"), ListedRows(PAIRS), **settings)
    assert alone.files["listed"].read_bytes() == beside.files["listed"].read_bytes()
    assert len({tuple(meta["negative_ranks"]) for meta in metas(alone)}) > 3  # drawn row by row
    other = run(tmp_path / "1", ListedRows(PAIRS), **{**settings, "seed": 6})
    assert other.files["listed"].read_bytes() != beside.files["listed"].read_bytes()


def test_the_record_names_teacher_settings_and_counts(tmp_path: Path) -> None:
    encoder = ChosenVectors()
    run(tmp_path, ListedRows(PAIRS), encoder=encoder, ranks=(2, 5))
    record = json.loads((tmp_path / "mining.json").read_text())
    assert record["teacher"] == {"name": "chosen", "space": encoder.space}
    assert record["config"]["ranks"] == [2, 5]
    counts = record["data"]["listed"]["counts"]
    assert counts["negatives"] == {"hit": 40} and counts["without"] == counts["complete"] == 0
    assert sum(counts["positive_histogram"]) == 10 and sum(counts["negative_histogram"]) == 40


def test_names_of_files_and_parts_are_checked(tmp_path: Path) -> None:
    report = run(tmp_path, ListedRows(PAIRS, "emoji/names: de"))
    assert report.files["emoji/names: de"].name == "emoji-names-de.jsonl"
    with pytest.raises(ConfigError, match="several data sets are called a-b"):
        run(tmp_path, ListedRows(PAIRS, "a/b"), ListedRows(PAIRS, "a-b"))
    with pytest.raises(ConfigError, match="part 4 of 3 is none"):
        run(tmp_path, ListedRows(PAIRS), part=(3, 3))


def test_other_rows_under_the_same_name_are_mined_again(tmp_path: Path) -> None:
    first = run(tmp_path, ListedRows(PAIRS[:3])).files["listed"].read_bytes()
    other = run(tmp_path, ListedRows([*PAIRS[:2], row("q2", "another")]))
    assert other.files["listed"].read_bytes() != first
    assert "another" in negatives(other)[0]
