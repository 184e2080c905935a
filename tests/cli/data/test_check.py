"""`mmembed data check` names every fault with its place and loses nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmembed.cli.data.application import data
from mmembed.data.row_files import RowFile
from mmembed.errors import ConfigError
from tests.inspection.planted import Fault, emoji_picture, png, recompressed, write_planted


def run(*arguments: object) -> Any:
    return CliRunner().invoke(data, ["check", *map(str, arguments)])


def report_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def line_of(place: str) -> int:
    return int(re.fullmatch(r".*, line (\d+)", place)[1])


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_wrong_field_a_missing_image_a_duplicate_id_and_a_line_that_is_not_utf8_are_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "cat.png").write_bytes(png(emoji_picture(40)))
    lines = [
        b'{"id": "a", "query": "a cat", "positives": [{"image": "cat.png"}]}',
        b'{"id": "b", "query": "a dog", "postives": ["a photo of a dog"]}',
        b'{"id": "c", "query": "a bird", "positives": [{"image": "bird.png"}]}',
        b'{"id": "a", "query": "a fish", "positives": ["it swims"]}',
        b'{"id": "e", "query": "caf\xe9", "positives": ["coffee"]}',
        b'{"id": "f", "query": "a horse", "positives": ["it runs"]}',
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b"\n".join(lines) + b"\n")
    result = run(rows, "--report", tmp_path / "out.json", "--write-clean", tmp_path / "clean.jsonl")
    assert result.exit_code == 2, result.output
    found = report_of(tmp_path / "out.json")
    assert [(each["kind"], line_of(each["place"])) for each in found["findings"]] == [
        ("unreadable", 2),
        ("unreadable", 5),
        ("missing", 3),
        ("duplicate_id", 4),
    ]
    messages = {line_of(each["place"]): each["message"] for each in found["findings"]}
    assert "'postives'" in messages[2] and "did you mean 'positives'" in messages[2]
    assert "bird.png" in messages[3]
    assert "line 1" in messages[4]
    assert "UTF-8" in messages[5]
    for line in (2, 3, 4, 5):
        assert f"rows.jsonl, line {line}" in result.stdout
    kept = RowFile(tmp_path / "clean.jsonl")
    assert [kept[row].query_id for row in range(len(kept))] == ["a", "f"]
    assert found["rows"] == found["rows_checked"] == 6 and found["datasets"][0]["rows_read"] == 4


def test_every_kind_of_fault_is_found_at_its_place_and_nothing_else(tmp_path: Path) -> None:
    path, planted = write_planted(tmp_path)
    result = run(path, "--report", tmp_path / "out.json", "--html", tmp_path / "out.html")
    assert result.exit_code == 2, result.output
    found = {
        Fault(line_of(each["place"]), each["kind"], each["field"])
        for each in report_of(tmp_path / "out.json")["findings"]
    }
    assert found == planted
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<script" not in page and 'src="http' not in page and "href" not in page
    assert "planted.jsonl, line 9" in page


def test_clean_rows_are_clean_and_the_exit_code_is_zero(tmp_path: Path) -> None:
    rows = write(
        tmp_path / "rows.jsonl",
        {"id": "1", "query": "a cat", "positives": ["it purrs"]},
        {"id": "2", "query": "a dog", "positives": ["it barks"]},
    )
    result = run(rows)
    assert result.exit_code == 0, result.output
    assert "0 errors, 0 warnings, 0 notes" in result.stdout


def test_rows_that_share_text_or_pictures_with_a_file_are_leaks(tmp_path: Path) -> None:
    sentence = " ".join(f"word{number}" for number in range(16))
    for name, number in (("a", 40), ("b", 800), ("c", 1000)):
        (tmp_path / f"{name}.png").write_bytes(png(emoji_picture(number)))
    (tmp_path / "copy.png").write_bytes(png(recompressed(emoji_picture(800))))
    held = write(
        tmp_path / "held.jsonl",
        {"query": f"and {sentence}", "positives": [{"image": "b.png"}]},
        {"query": "Short Question?", "positives": ["a"]},
    )
    rows = write(
        tmp_path / "rows.jsonl",
        {"id": "clean", "query": "a cat", "positives": [{"image": "a.png"}]},
        {"id": "text", "query": f"look: {sentence} here", "positives": [{"image": "c.png"}]},
        {"id": "picture", "query": "a thing", "positives": [{"image": "copy.png"}]},
        {"id": "short", "query": "short question", "positives": ["some answer"]},
        {"id": "label", "query": "an item", "positives": ["a"]},
        {"id": "unreadable", "query": 7, "positives": ["seven"]},
    )
    kept = tmp_path / "kept.jsonl"
    result = run(rows, "--against", held, "--report", tmp_path / "out.json", "--drop-leaked", kept)
    assert result.exit_code == 2, result.output
    found = report_of(tmp_path / "out.json")
    assert found["compared_with"] == 4
    leaks = {
        line_of(each["place"]): each["message"]
        for each in found["findings"]
        if each["kind"] == "leak"
    }
    assert sorted(leaks) == [2, 3, 4]
    assert "held.jsonl, line 1, query" in leaks[2] and "word0 word1" in leaks[2]
    assert "held.jsonl, line 1, positives[0]" in leaks[3]
    assert "held.jsonl, line 2, query" in leaks[4]
    rest = RowFile(kept)
    assert [rest[row].query_id for row in range(len(rest))] == ["clean", "label"]


def test_rows_are_compared_with_a_suite(tmp_path: Path) -> None:
    from mmembed.evaluation.suites import load_suite

    suite = load_suite("example").open()
    task = suite.load(next(iter(suite.cards))).task
    items = getattr(task, "queries", None) or {k: a for k, (a, _) in task.pairs.items()}
    key, item = next((k, i) for k, i in items.items() if i.modality == "text")
    text = item.parts[0].text
    rows = write(
        tmp_path / "rows.jsonl",
        {"id": "1", "query": text, "positives": ["an answer of my own"]},
        {"id": "2", "query": "nothing of it zzz", "positives": ["another answer of mine"]},
    )
    result = run(rows, "--against", "example", "--report", tmp_path / "out.json", "--no-decode")
    assert result.exit_code == 2, result.output
    (leak,) = report_of(tmp_path / "out.json")["findings"]
    assert leak["kind"] == "leak" and line_of(leak["place"]) == 1
    assert key in leak["message"] and "example" in leak["message"]


@pytest.mark.parametrize("option", ["--write-clean", "--drop-leaked"])
def test_rows_are_written_from_a_check_of_all_rows_only(tmp_path: Path, option: str) -> None:
    rows = write(tmp_path / "rows.jsonl", {"query": "a cat", "positives": ["it purrs"]})
    result = run(rows, "--sample", 5, option, tmp_path / "out.jsonl", "--against", rows)
    assert isinstance(result.exception, ConfigError) and "--sample" in str(result.exception)


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", {"query": "a cat", "positives": ["it purrs"]})
    before = rows.read_bytes()
    result = run(rows, "--write-clean", rows)
    assert isinstance(result.exception, ConfigError)
    assert rows.read_bytes() == before


def test_ctrl_c_shows_what_was_found_so_far(tmp_path: Path) -> None:
    result = run("tests.inspection.planted:InterruptedRows", "--report", tmp_path / "out.json")
    assert result.exit_code == 130, result.output
    assert "1 ids that an earlier row has" in result.stdout
    assert "640 of 1,000 rows checked" in result.stdout and "interrupted" in result.stderr
    assert report_of(tmp_path / "out.json")["was_interrupted"]


def test_tokens_are_counted_with_the_tokenizer_of_a_model(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    rows = write(tmp_path / "rows.jsonl", {"query": "a red apple", "positives": ["it is red"]})
    result = run(rows, "--model", tiny_checkpoint, "--report", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    histograms = report_of(tmp_path / "out.json")["datasets"][0]["histograms"]
    assert 1 <= histograms["query tokens"]["max"] <= len("a red apple")
    result = run(rows, "--model", tmp_path / "none")
    assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize("option", ["--html", "--report"])
def test_a_page_or_report_does_not_take_the_place_of_data(tmp_path: Path, option: str) -> None:
    row = {"query": "q", "positives": ["p"]}
    rows = write(tmp_path / "rows.jsonl", row)
    listed = tmp_path / "rows.json"
    listed.write_text(json.dumps([row]))
    for target in (rows, listed):
        before = target.read_bytes()
        assert isinstance(run(target, option, target).exception, ConfigError)
        assert target.read_bytes() == before


def test_a_missing_file_is_named_with_its_folder_and_a_sample_as_one(tmp_path: Path) -> None:
    row = {"query": "q", "positives": [{"image": "folder/no.png"}]}
    rows = write(tmp_path / "rows.jsonl", *[{**row, "query": f"q {n}"} for n in range(3)])
    result = run(rows, "--sample", 2)
    assert str(tmp_path / "folder" / "no.png") in result.stdout
    assert "2 of 3 rows checked (drawn at random; --all looks at every row)" in result.stdout


def test_rows_of_several_tasks_are_not_written_into_one_file(tmp_path: Path) -> None:
    pair = {"query": "q", "positives": ["p"]}
    write(tmp_path / "a.jsonl", pair)
    write(tmp_path / "b.jsonl", {**pair, "task": "sts", "scores": [0.5]})
    adapter = "mmembed.data.row_files:RowFile"
    entries = [
        {"adapter": adapter, "arguments": {"path": str(tmp_path / f"{name}.jsonl")}}
        for name in "ab"
    ]
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(json.dumps({"data": entries}))
    clean = tmp_path / "clean.jsonl"
    result = run(mixture, "--write-clean", clean)
    assert isinstance(result.exception, ConfigError) and "2 tasks" in str(result.exception)
    assert not clean.exists()
