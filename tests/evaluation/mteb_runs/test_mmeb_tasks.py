"""All 78 data sets of MMEB as tasks of mteb (EV-25)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_adapters.mmeb.suite import MMEB
from mmembed.baselines.stored_vectors import StoredVectors
from mmembed.evaluation.mteb_runs.benchmarks import benchmark_names
from mmembed.evaluation.mteb_runs.model import mteb_model
from mmembed.evaluation.mteb_runs.running import run_tasks
from mmembed.evaluation.mteb_runs.tasks import local_tasks, main_score
from mmembed.evaluation.profiles import load_profile
from mmembed.evaluation.scoring import score_retrieval
from mmembed.tasks import RetrievalTask
from tests.data_adapters.mmeb.image_rows import SOURCES, write_instruct
from tests.data_adapters.mmeb.video_data import write_video_data
from tests.data_adapters.mmeb.visdoc_data import write_visdoc_data
from tests.evaluation.mteb_runs.conftest import CountingEncoder
from tests.evaluation.mteb_runs.test_tasks import our_rows


def test_all_78_have_a_task_of_mteb_with_filled_metadata() -> None:
    suite = MMEB(None, load_profile("rzen"))
    local = local_tasks(suite.cards(), suite.load, prefix=benchmark_names().prefixes["mmeb-v2"])
    assert len(local.tasks) == 78 and not local.left_out
    for task, card in zip(local.tasks, suite.cards(), strict=True):
        metadata = task.metadata
        assert metadata.name == f"MMEB.{card.name}"
        assert metadata.is_filled(), metadata.name
        pages = card.modality == "visdoc"
        assert metadata.main_score == ("ndcg_at_5" if pages else "hit_rate_at_1")
    assert {task.metadata.type for task in local.tasks} == {
        "Any2AnyRetrieval", "VisionCentricQA", "VideoCentricQA"
    }  # fmt: skip


@pytest.mark.slow
def test_all_78_have_equal_numbers_under_both_scorers_and_are_encoded_once(
    encoder: CountingEncoder, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for name in SOURCES:
        write_instruct(root, name)
    write_video_data(root)
    write_visdoc_data(root)
    suite = MMEB(root, load_profile("rzen"), check_counts=False)
    vectors = StoredVectors(encoder)
    expected = {}
    for card in suite.cards():
        task = suite.load(card.name).task
        assert isinstance(task, RetrievalTask)
        expected[f"MMEB.{card.name}"] = score_retrieval(card, task, *our_rows(task, vectors))
    encoder.items.clear()
    local = local_tasks(suite.cards(), suite.load)
    model = mteb_model(encoder, vectors, local_tasks=local.retrieval_task)
    scores = run_tasks(model, local.tasks, tmp_path / "out", stop_on_error=True)
    assert not encoder.items
    assert len(scores) == 78
    for score in scores:
        ours = expected[score.task].metrics["docid"]
        (found,) = json.loads(
            next((tmp_path / "out").rglob(f"{score.task}.json")).read_text()
        )["scores"]["test"]  # fmt: skip
        for metric in ("hit@1", "hit@5", "ndcg_linear@5", "recall@5"):
            assert found[main_score(metric)] == pytest.approx(ours[metric], abs=6e-6), (
                score.task,
                metric,
            )
