"""What rows take over from the input, which repetitions are left out, and what may change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmembed.data.row_files import RowFile
from mmembed.errors import ConfigError, DataError
from mmembed.synthesis.pipeline import Pipeline, load_pipeline
from mmembed.synthesis.rows import open_rows
from mmembed.synthesis.runner import SynthesisReport, synthesize
from tests.endpoints.server import ModelServer
from tests.media_files import photo
from tests.synthesis.scripted import (
    SMALL,
    DiligentModel,
    client_of,
    documents_file,
    lines_of,
    sentence,
    small_pipeline,
)


def run(pipeline: Pipeline, source: Path, server: ModelServer, **options: Any) -> SynthesisReport:
    with client_of(server) as client:
        out = source.parent / "out"
        return synthesize(pipeline, open_rows(str(source)), client, out, **options)


def graded_file(folder: Path) -> Path:
    row = {"id": "r", "query": sentence(1), "positives": [sentence(2)], "task": "sts",
           "negatives": [sentence(3), sentence(4)], "label": "same",
           "negative_labels": ["other", "third"], "scores": [0.8, 0.3, 0.1]}  # fmt: skip
    path = folder / "graded.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path


def test_a_rewritten_sentence_keeps_its_grades(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        run(load_pipeline("qzhou_nli"), graded_file(tmp_path), server)
    assert RowFile(tmp_path / "out" / "rows.jsonl")[0].scores == (0.8, 0.3, 0.1)


def test_kept_negatives_keep_their_labels(tmp_path: Path) -> None:
    with ModelServer(DiligentModel()) as server:
        run(load_pipeline("qzhou_classification"), graded_file(tmp_path), server)
    row = RowFile(tmp_path / "out" / "rows.jsonl")[0]
    assert (row.label, row.negative_labels) == ("same", ("other", "third"))
    assert row.scores is None


def test_scores_of_other_documents_cannot_be_kept() -> None:
    with pytest.raises(ConfigError, match="keep_scores"):
        load_pipeline("qzhou_paraphrase", overrides=["output.keep_scores=true"])


NEAR = "Which of the many old bridges over the river Spree is open for walkers number {}"


def near(body: dict[str, Any]) -> str:
    number = "one" if "number 1 " in str(body) else "two"
    return json.dumps({"question": NEAR.format(number), "kind": "fact"})


def test_near_duplicates_are_left_out_when_asked_for_and_cost_nothing_more(tmp_path: Path) -> None:
    lines = [f"An old bridge, number {n} of all." for n in (1, 2)]
    source = tmp_path / "documents.jsonl"
    source.write_text("".join(json.dumps({"id": t[-9], "text": t}) + "\n" for t in lines))
    with ModelServer(near) as server:
        assert run(small_pipeline(tmp_path), source, server).num_rows == 2
        asked = len(server.requests)
        report = run(small_pipeline(tmp_path, "near_duplicates=0.7"), source, server)
        assert len(server.requests) == asked
    assert (report.num_rows, report.num_duplicates, report.num_open) == (1, 1, 0)
    (line,) = lines_of(tmp_path / "out" / "rejected.jsonl")
    assert "nearly the same query as of" in line["reason"]


def test_a_query_may_hold_fields_of_the_row(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        SMALL.replace('"{ask.question}"\n  pos', '"{document}"\n  pos')
    )
    with ModelServer(DiligentModel()) as server:
        pipeline = load_pipeline(str(tmp_path / "own.yaml"))
        assert run(pipeline, documents_file(tmp_path, 3), server).num_rows == 3


def test_a_changed_input_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    source = documents_file(tmp_path, 6)
    with ModelServer(DiligentModel()) as server:
        run(small_pipeline(tmp_path), source, server, limit=2)
        asked = len(server.requests)
        source.write_text("".join(reversed(source.read_text().splitlines(keepends=True))))
        with pytest.raises(DataError, match="the input has changed"):
            run(small_pipeline(tmp_path), source, server)
        source.write_text(source.read_text().splitlines()[-1] + "\n")
        with pytest.raises(DataError, match="the input has changed"):
            run(small_pipeline(tmp_path), source, server)
        assert len(server.requests) == asked


def test_pictures_that_changed_places_are_another_input(tmp_path: Path) -> None:
    for name in "ab":
        Image.fromarray(photo(seed=ord(name))).save(tmp_path / f"{name}.png")
    source = tmp_path / "pictures.jsonl"
    lines = [json.dumps({"id": f"p{n}", "image": f"{name}.png"}) for n, name in enumerate("ab")]
    source.write_text("\n".join(lines))
    pipeline = load_pipeline("qwen3_vl_retrieval")
    with ModelServer(DiligentModel()) as server:
        run(pipeline, source, server, limit=1)
        source.write_text("\n".join(lines).replace("a.png", "c.png").replace("b.png", "a.png"))
        with pytest.raises(DataError, match="the input has changed"):
            run(pipeline, source, server)


def test_an_input_may_move_to_another_folder(tmp_path: Path) -> None:
    Image.fromarray(photo(seed=1)).save(tmp_path / "a.png")
    source = tmp_path / "pictures.jsonl"
    source.write_text(json.dumps({"id": "p", "image": "a.png"}))
    before = open_rows(str(source))[0].digest()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("a.png", "pictures.jsonl"):
        (tmp_path / name).rename(moved / name)
    assert open_rows(str(moved / "pictures.jsonl"))[0].digest() == before


def test_a_row_that_was_repaired_is_done(tmp_path: Path) -> None:
    source = documents_file(tmp_path, 3)
    good = source.read_text()
    source.write_text(good.replace('{"id": "d1", ', '{"id" "d1", '))
    with ModelServer(DiligentModel()) as server:
        report = run(small_pipeline(tmp_path), source, server)
        assert (report.num_rows, report.num_rejected, report.num_open) == (2, 1, 0)
        source.write_text(good)
        report = run(small_pipeline(tmp_path), source, server)
        assert len(server.requests) == 6
    assert (report.num_rows, report.num_rejected, report.num_open) == (3, 0, 0)


def test_other_personas_are_another_pipeline_wherever_they_lie(tmp_path: Path) -> None:
    prints = []
    for folder, text in (("a", "A cook"), ("b", "A cook"), ("c", "A sailor")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "people.txt"
        path.write_text(text + "\n")
        overrides = [f"personas.file={path}"]
        prints.append(load_pipeline("qwen3_retrieval", overrides=overrides).fingerprint)
    assert prints[0] == prints[1] != prints[2]
