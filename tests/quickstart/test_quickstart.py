"""The whole pipeline, small: train two stages, soup, judge, report, index, search."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mmembed.config.files import load_recipe
from mmembed.quickstart import pipeline
from mmembed.quickstart.experiment import load_experiment, scaled_recipe
from mmembed.quickstart.judge import chance, judge, num_items
from mmembed.tasks import RetrievalTask
from mmembed.types import MultimodalInput

TASKS = "data_adapters.emoji_tasks"
EXPERIMENT = f"""
texts: {{reference: "data_adapters.emoji_source:texts", arguments: {{languages: [en]}}}}
checkpoint: {{vocab_size: 600, hidden_size: 32, num_layers: 1, num_heads: 2, num_kv_heads: 1,
  intermediate_size: 32, vision_depth: 1, vision_width: 16, vision_heads: 2}}
recipe: tiny
default_minutes: 10
tasks:
  - title: text to image
    reference: "{TASKS}:text_to_image"
    arguments: {{split: held_out, corpus: split}}
  - title: text to page
    reference: "{TASKS}:text_to_page"
    arguments: {{num_pages: 12}}
matrix:
  items: {{reference: "{TASKS}:items_by_modality", arguments: {{num_emoji: 5}}}}
  grid: "{TASKS}:modality_grid"
library: {{reference: "{TASKS}:write_mixed_folder", arguments: {{num_emoji: 8}}}}
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("experiment") / "small.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory) -> Path:
    pytest.importorskip("av")
    pytest.importorskip("pymupdf")
    output = tmp_path_factory.mktemp("quickstart")
    pipeline.run(output=output, minutes=0.01, experiment=experiment)
    return output


def test_the_report_shows_every_section_and_needs_nothing_else(finished):
    page = (finished / "report.html").read_text(encoding="utf-8")
    for words in ("text to image", "text to page", "chance", "<svg", "data:image"):
        assert words in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_the_table_holds_soup_members_untrained_and_chance(finished):
    rows = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert [row["task"] for row in rows] == ["text to image", "text to page"]
    for row in rows:
        for score in row["scores"].values():
            assert len(score["members"]) == 2
            assert 0 < score["chance"] < 1


def test_the_numbers_are_the_evaluators_and_ties_count_as_misses(tiny_checkpoint):
    from mmembed.encoder.embedder import Embedder

    words = ["a cat", "a dog", "a red apple", "the rain", "a car", "una manzana roja"] * 2
    corpus = {f"d{place}": MultimodalInput.of(word) for place, word in enumerate(words)}
    queries = {"q0": MultimodalInput.of("a cat"), "q1": MultimodalInput.of("ein roter Apfel")}
    task = RetrievalTask("t", queries, corpus, {"q0": {"d0": 1.0}, "q1": {"d2": 1.0, "d8": 1.0}})
    judgement = judge(tiny_checkpoint, {"some words": task})
    with Embedder.from_pretrained(tiny_checkpoint, device="cpu", num_workers=1) as embedder:
        scores = embedder.encode_query(list(queries.values())) @ embedder.encode_document(
            words
        ).T  # fmt: skip
    for k in (1, 10):
        hits = []
        for row, grades in zip(scores, task.relevant.values(), strict=True):
            answers = {int(name[1:]) for name in grades}
            before = [
                sum(other >= row[place] - 1e-6 for column, other in enumerate(row)
                    if column not in answers)
                for place in answers
            ]  # fmt: skip
            hits.append(min(before) < k)
        assert judgement.hit_rate("some words", k) == np.mean(hits)
    assert num_items({"some words": task}) == 2 + 6
    assert chance(task, 1) == pytest.approx((1 / 12 + 2 / 12) / 2)


def test_the_model_folders_load_and_the_index_answers(finished):
    from mmembed.encoder.embedder import Embedder
    from mmembed.search.exact_index import ExactIndex
    from mmembed.search.searcher import Searcher

    with Embedder.from_pretrained(finished / "run" / "model") as embedder:
        searcher = Searcher(embedder, ExactIndex(finished / "library.index"))
        kinds = {hit.kind for hit in searcher.search("a cat", k=50)}
    assert kinds == {"image", "video", "pdf", "text"}


def test_the_same_seed_gives_the_same_table(finished, experiment, tmp_path):
    state = torch.random.get_rng_state()
    pipeline.run(output=tmp_path / "again", minutes=0.01, experiment=experiment)
    first, second = (
        (folder / "results.json").read_text(encoding="utf-8")
        for folder in (finished, tmp_path / "again")
    )
    assert first == second
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_second_run_trains_nothing_and_says_how_to_go_on(finished, experiment, capsys):
    trained = sorted((finished / "run").glob("stage*/model/model.safetensors"))
    soup = finished / "run" / "model" / "model.safetensors"
    before, souped = [path.stat().st_mtime_ns for path in trained], soup.read_bytes()
    assert len(trained) == 3
    pipeline.run(output=finished, minutes=0.01, experiment=experiment)
    assert [path.stat().st_mtime_ns for path in trained] == before
    assert soup.read_bytes() == souped
    command = capsys.readouterr().err.splitlines()[-1].split()
    assert command[2:6] == ["eval", "run", "--suite", "nano-emoji"]
    assert command[command.index("--model") + 1] == str(finished / "run" / "model")


def test_minutes_scale_the_steps_of_every_stage(tmp_path):
    plan = load_experiment()
    full = load_recipe(plan.recipe)
    half = scaled_recipe(plan, model=tmp_path, seed=3, minutes=plan.default_minutes / 2)
    assert [stage.steps for stage in half.stages] == [
        round(stage.steps / 2) for stage in full.stages
    ]
    assert half.seed == 3
