"""Every bundled pipeline loads, says what it needs, and runs from end to end on a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mmembed.data.row_files import RowFile
from mmembed.errors import ConfigError
from mmembed.synthesis.estimate import estimate
from mmembed.synthesis.pipeline import list_pipelines, load_pipeline
from mmembed.synthesis.rows import open_rows
from mmembed.synthesis.runner import synthesize
from mmembed.types import Text, Video
from tests.endpoints.server import ModelServer
from tests.media_files import photo, video
from tests.synthesis.scripted import DiligentModel, client_of, document, lines_of, sentence

NUM_ROWS = 4


def rows_file(folder: Path, kind: str) -> Path:
    """Rows with everything that a pipeline could ask for; the document is of this kind."""
    rows = []
    for number in range(NUM_ROWS):
        target: object = document(number)
        if kind == "image":
            Image.fromarray(photo(seed=number)).save(folder / f"{number}.png")
            target = {"image": f"{number}.png"}
        elif kind == "video":
            clip = video(40 + number, fps=8)
            (folder / f"{number}.mp4").write_bytes(clip)
            target = {"video": f"{number}.mp4"}
        rows.append({"id": f"r{number}", "query": sentence(number + 50), "positives": [target],
                     "negatives": [sentence(number + 70)], "label": f"kind {number}"})  # fmt: skip
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def kinds(name: str) -> list[str]:
    if "moment" in name:
        return ["video"]
    return ["image", "video"] if "_vl_" in name else ["text"]


CASES = [(name, kind) for name in list_pipelines() for kind in kinds(name)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_bundled_pipeline_makes_a_row_of_every_row(name: str, kind: str, tmp_path: Path) -> None:
    pipeline = load_pipeline(name)
    rows = open_rows(str(rows_file(tmp_path, kind)))
    assert estimate(pipeline, rows).num_requests == NUM_ROWS * len(pipeline.steps)
    with ModelServer(answer=DiligentModel()) as server, client_of(server) as client:
        report = synthesize(pipeline, rows, client, tmp_path / "out")
        asked = server.requests
    assert not lines_of(tmp_path / "out" / "rejected.jsonl")
    assert (report.num_rows, report.num_open, report.failures) == (NUM_ROWS, 0, ())
    assert len(asked) == NUM_ROWS * len(pipeline.steps)
    written = RowFile(tmp_path / "out" / "rows.jsonl")
    assert [written[place].query_id for place in range(NUM_ROWS)] == ["r0", "r1", "r2", "r3"]
    assert {written[place].task for place in range(NUM_ROWS)} == {pipeline.output.task}
    for one in asked:
        pictures = [p for p in one.body["messages"][-1]["content"] if isinstance(p, dict)]
        urls = [p["image_url"]["url"] for p in pictures if p["type"] == "image_url"]
        num_frames = 0 if kind == "text" else 1 if kind == "image" else pipeline.pictures.num_frames
        assert len(urls) == num_frames
        assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
        assert one.body["response_format"]["type"] == "json_schema"


def test_a_moment_is_two_parts_of_one_clip_with_a_gap(tmp_path: Path) -> None:
    pipeline = load_pipeline("qwen3_vl_moment")
    rows = open_rows(str(rows_file(tmp_path, "video")))
    with ModelServer(answer=DiligentModel()) as server, client_of(server) as client:
        synthesize(pipeline, rows, client, tmp_path / "out", limit=1)
    example = RowFile(tmp_path / "out" / "rows.jsonl")[0]
    (right,), (wrong,) = example.positives[0].parts, example.hard_negatives[0].parts
    assert isinstance(right, Video) and isinstance(wrong, Video)
    assert right.source == wrong.source
    assert (right.start, right.end, wrong.start, wrong.end) == (0.0, 1.0, 3.0, 4.0)


def test_own_negatives_stay_where_the_pipeline_keeps_them(tmp_path: Path) -> None:
    pipeline = load_pipeline("qzhou_hard_negative")
    rows = open_rows(str(rows_file(tmp_path, "text")))
    with ModelServer(answer=DiligentModel()) as server, client_of(server) as client:
        synthesize(pipeline, rows, client, tmp_path / "out", limit=1)
    example = RowFile(tmp_path / "out" / "rows.jsonl")[0]
    assert example.query.parts == (Text(sentence(50)),)
    assert len(example.hard_negatives) == 2
    assert example.hard_negatives[1].parts == (Text(sentence(70)),)


def test_the_same_seed_draws_the_same_and_shares_are_kept(tmp_path: Path) -> None:
    from mmembed.synthesis.draws import draw

    shares = {"a": 1.0, "b": 3.0, "never": 0.0}
    drawn = [draw(shares, seed=5, row=f"r{n}", name="kind") for n in range(4000)]
    assert drawn == [draw(shares, seed=5, row=f"r{n}", name="kind") for n in range(4000)]
    assert drawn != [draw(shares, seed=6, row=f"r{n}", name="kind") for n in range(4000)]
    assert "never" not in drawn
    assert abs(drawn.count("b") / 4000 - 0.75) < 5 * (0.75 * 0.25 / 4000) ** 0.5


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("steps.generation.prompt='{pasage}'", "no field {pasage}"),
        ("output.query='{generation.qery}'", "no field {generation.qery}"),
        ("draws.document={a: 1}", "the row gives this field"),
        ("draws.length_words={5: 0}", "shares must not be"),
        ("steps.nobody.tries=3", "steps are configuration, generation"),
        ("limits.max_cost=1", "max_cost needs the prices"),
        ("summry=x", "did you mean 'summary'"),
        ("steps.generation.accept=[{rule: longer}]", "accept"),
        ("tries", "not of the form"),
    ],
)
def test_a_mistake_in_a_pipeline_is_named(change: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_pipeline("qwen3_retrieval", overrides=[change])
    assert complaint in str(refusal.value)


def test_settings_of_one_step_are_set_by_its_name() -> None:
    pipeline = load_pipeline("qwen3_retrieval", overrides=["steps.generation.tries=9"])
    assert [step.tries for step in pipeline.steps] == [3, 9]
    assert pipeline.fingerprint != load_pipeline("qwen3_retrieval").fingerprint


def test_limits_do_not_make_another_pipeline() -> None:
    limited = load_pipeline("qwen3_retrieval", overrides=["limits.max_requests=5"])
    assert limited.fingerprint == load_pipeline("qwen3_retrieval").fingerprint


def test_a_cross_lingual_share_changes_the_language_that_is_asked_for(tmp_path: Path) -> None:
    pipeline = load_pipeline("qwen3_retrieval", overrides=["draws.query_language={de: 1}"])
    rows = open_rows(str(rows_file(tmp_path, "text")))
    with ModelServer(answer=DiligentModel()) as server, client_of(server) as client:
        report = synthesize(pipeline, rows, client, tmp_path / "out", limit=1)
    assert "the one with the code de" in json.dumps(server.requests[-1].body)
    assert report.num_rows == 1
    (row,) = lines_of(tmp_path / "out" / "rows.jsonl")
    assert row["meta"]["synthesis"]["draws"]["query_language"] == "de"
