"""Every family of mteb's own mock tasks without audio, with our model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import mteb.mocks.mock_run
import pytest

from mmembed.encoder.reranker import Reranker
from mmembed.evaluation.mteb_runs.model import mteb_model
from mmembed.evaluation.mteb_runs.reranker_model import mteb_reranker
from tests.evaluation.mteb_runs.conftest import CountingEncoder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def outcome(results: Any) -> dict[str, list[str]]:
    """What mteb calls skipped is not passed."""
    found: dict[str, list[str]] = {"passed": [], "failed": []}
    for name, status in results.items():
        if status is not None:
            is_passed = type(status).__name__ == "TaskResult"
            found["passed" if is_passed else "failed"].append(
                name if is_passed else f"{name}: {status.exception[:200]}"
            )
    return found


def test_all_families_without_audio_pass(encoder: CountingEncoder) -> None:
    found = outcome(mteb.mocks.mock_run.mock_run(mteb_model(encoder)))
    assert not found["failed"], "\n".join(found["failed"])
    assert len(found["passed"]) >= 50
    videos = [name for name in found["passed"] if "Video" in name]
    assert len(videos) >= 6, "video families ran, also without torchcodec"


def test_all_families_that_hand_over_candidates_pass_with_a_reranker(tiny_reranker: Path) -> None:
    with Reranker.from_pretrained(tiny_reranker, num_workers=1) as loaded:
        found = outcome(mteb.mocks.mock_run.mock_run(mteb_reranker(loaded, name="test/reranker")))
    others = [line for line in found["failed"] if "requires top_ranked" not in line]
    assert not others, "\n".join(others)
    assert any("Reranking" in name for name in found["passed"])


def test_torchcodec_is_not_what_made_them_pass() -> None:
    """Should it be installed one day, the tests above say less about files and bytes."""
    assert importlib.util.find_spec("torchcodec") is None
