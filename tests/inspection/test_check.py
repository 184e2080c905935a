"""A check of rows: whole, sampled, interrupted, over several data sets, and what it remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.data.opening import OpenedDataset
from mmembed.errors import ConfigError, InputError
from mmembed.inspection.check import check_rows
from mmembed.inspection.cleaning import write_rows
from mmembed.inspection.pages import write_check_page
from mmembed.inspection.rows import sampled_rows
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Page
from tests.inspection.planted import emoji_picture, png, recompressed
from tests.media_files import pdf, video


class Rows:
    """Rows from memory; an exception in the place of a row is raised."""

    task = "retrieval"
    revision = "1"
    license = "CC0-1.0"

    def __init__(self, rows: list[Any], name: str = "rows") -> None:
        self.name = name
        self._rows = rows
        self.num_read = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ContrastiveExample:
        self.num_read += 1
        row = self._rows[index]
        if isinstance(row, BaseException):
            raise row
        return row


def opened(*rows: Any, name: str = "rows") -> OpenedDataset:
    return OpenedDataset(name, Rows(list(rows), name), "tests:Rows", {})


def row(query: Any, positive: Any, **fields: Any) -> ContrastiveExample:
    return ContrastiveExample(MultimodalInput.of(query), (MultimodalInput.of(positive),), **fields)


def words(count: int) -> list[ContrastiveExample]:
    return [row(f"question number {n} of many", f"reply {n * 7919}") for n in range(count)]


def kinds(report: Any) -> list[tuple[str, int | None]]:
    return [(each.kind, each.row) for each in report.findings]


def test_whatever_an_adapter_raises_costs_its_own_row() -> None:
    rows = [*words(2), KeyError("text"), InputError("corrupt", "torn"), *words(4)[2:]]
    report = check_rows(opened(*rows), decode=False)
    assert kinds(report) == [("unreadable", 2), ("unreadable", 3)]
    assert report.statistics[0].num_read == 4 and report.num_checked == 6


def test_a_row_that_breaks_the_protocol_is_unreadable() -> None:
    bad = ContrastiveExample(MultimodalInput.of("q"), ())
    (found,) = check_rows(opened(*words(1), bad), decode=False).findings
    assert found.kind == "unreadable" and "no positive" in found.message


def test_rows_of_several_data_sets_are_compared_and_ids_are_not() -> None:
    first = opened(row("a", "b", query_id="1"), name="first")
    second = opened(row("c", "d", query_id="1"), row("a", "b", query_id="2"), name="second")
    report = check_rows([first, second], decode=False)
    assert next((each.kind, each.dataset, each.row) for each in report.findings) == (
        "duplicate",
        "second",
        1,
    )
    assert report.findings.counts["duplicate_id"] == 0
    assert report.findings.of("duplicate")[0].message == "as in first, row 0"


def test_a_query_with_another_instruction_is_another_query() -> None:
    sad, mood = (MultimodalInput.of("so it goes", each) for each in ("is it sad", "which mood"))
    answer = (MultimodalInput.of("yes"),)
    rows = [
        ContrastiveExample(sad, answer, label="yes"),
        ContrastiveExample(mood, answer, label="x"),
    ]
    assert check_rows(opened(*rows), decode=False).findings.counts["conflict"] == 0


def test_a_sample_is_the_same_for_the_same_seed_and_reads_no_other_rows() -> None:
    data = opened(*words(500))
    report = check_rows(data, sample=40, seed=3, decode=False, near=False)
    assert report.num_checked == 40 == data.adapter.num_read and not report.is_whole
    assert sampled_rows(500, 40, seed=3).tolist() == sampled_rows(500, 40, seed=3).tolist()
    assert sampled_rows(500, 40, seed=3).tolist() != sampled_rows(500, 40, seed=4).tolist()
    assert len(np.unique(sampled_rows(500, 499))) == 499
    assert sampled_rows(5, 40).tolist() == list(range(5))


def test_an_interrupt_reports_what_was_found_so_far(tmp_path: Path) -> None:
    rows: list[Any] = [row("a", "b"), row("a", "b"), *words(200)]
    rows[150] = KeyboardInterrupt()
    report = check_rows(opened(*rows), decode=False)
    assert report.was_interrupted and report.num_checked == 128
    assert ("duplicate", 1) in kinds(report)
    with pytest.raises(ConfigError, match="128 of 202 rows were checked"):
        write_rows(report, tmp_path / "out.jsonl", report.findings.dropped)


def test_the_memory_of_a_row_does_not_grow_with_its_length() -> None:
    short = check_rows(opened(*words(64)), decode=False)
    long = [row(f"{n} " + "many words " * 500, f"{n} " + "and more " * 500) for n in range(64)]
    assert check_rows(opened(*long), decode=False).num_bytes == short.num_bytes
    assert short.num_bytes / 64 <= 300


def test_media_are_measured_and_broken_ones_reported(tmp_path: Path) -> None:
    good, bad = png(emoji_picture(40, size=96)), png(emoji_picture(400))[:-200]
    pages = MultimodalInput((Page(pdf(3)),)) if callable(pdf) else None
    clip = {"video": video(30, fps=15)}
    data = opened(
        row("p", {"image": good}), row("b", {"image": bad}), row("c", clip), row("d", pages)
    )
    report = check_rows(data)
    assert kinds(report) == [("corrupt", 1)]
    numbers = report.statistics[0].histograms
    assert numbers["pixels"].most == 96 * 96 and numbers["width / height"].most == 1
    assert 1.5 < numbers["seconds"].most <= 2 and numbers["pages"].most == 3


def test_another_question_about_the_same_picture_is_no_near_duplicate() -> None:
    picture = emoji_picture(40)
    copy = png(recompressed(picture))
    rows = [
        row({"image": png(picture), "text": "what is it"}, "one"),
        row({"image": copy, "text": "which colours has it"}, "two"),
        row({"image": copy, "text": "What is it?"}, "three"),
    ]
    assert kinds(check_rows(opened(*rows))) == [("near_picture", 2)]


def test_without_decoding_files_are_looked_for_only(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [
        row("a", {"image": tmp_path / "broken.png"}),
        ContrastiveExample(
            MultimodalInput.of("b"), (MultimodalInput((Image(tmp_path / "none.png"),)),)
        ),
    ]
    assert kinds(check_rows(opened(*rows), decode=False)) == [("missing", 1)]
    assert kinds(check_rows(opened(*rows))) == [("missing", 1), ("corrupt", 0)]


def test_classes_of_very_unequal_size_are_noted() -> None:
    rows = [
        row(f"text {n} {n * n}", f"p{n}", label="rare" if n == 0 else "common") for n in range(101)
    ]
    report = check_rows(opened(*rows), decode=False, near=False)
    assert kinds(report) == [("imbalance", None)]
    assert "100 rows are 'common', 1 'rare'" in report.findings.of("imbalance")[0].message


def test_the_report_is_json_and_the_page_escapes_everything(tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script> & "x" \x07'
    data = opened(row(hostile, hostile, label=hostile), row("a", hostile), name=hostile)
    report = check_rows(data, decode=False)
    assert json.loads(json.dumps(report.as_dict()))["counts"]["encoding"] == 3
    page = write_check_page(tmp_path / "page.html", report, title=hostile)
    assert "<script" not in page.read_text(encoding="utf-8")


def test_a_clean_copy_keeps_what_rows_say_besides(tmp_path: Path) -> None:
    from mmembed.data.row_files import RowFile

    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"id": "1", "query": "a", "positives": ["b"], "meta": {"from": "here"}}\n'
        '{"id": "2", "query": "a", "positives": ["b"]}\n'
        '{"id": "3", "query": "c", "positives": ["d"], "scores": [0.5]}\n'
    )
    report = check_rows(OpenedDataset("in", RowFile(path), "x:X", {}), decode=False)
    assert write_rows(report, tmp_path / "out.jsonl", report.findings.dropped) == 2
    kept = RowFile(tmp_path / "out.jsonl")
    assert [kept[n].query_id for n in range(len(kept))] == ["1", "3"]
    assert kept.meta(0) == {"from": "here"} and kept[1].scores == (0.5,)
    assert not (tmp_path / "partial-out.jsonl").exists()


def test_a_picture_that_repeats_exactly_is_no_near_duplicate(tmp_path: Path) -> None:
    data = png(emoji_picture(40))
    (tmp_path / "again.png").write_bytes(data)
    rows = [row("a", {"image": data}), row("b", {"image": tmp_path / "again.png"})]
    assert kinds(check_rows(opened(*rows))) == [("repeated_document", 1)]
