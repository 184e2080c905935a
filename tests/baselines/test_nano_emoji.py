"""The bundled suite from end to end: ours and a CLIP side by side, nothing encoded twice."""

from __future__ import annotations

import json

import pytest

from data_adapters.emoji_suite import EmojiSuite
from mmembed.evaluation.runs import run
from mmembed.evaluation.suites import Selection

pytest.importorskip("pymupdf")


def judged(model, folder, *, only=()):
    return run(
        "nano-emoji",
        model,
        folder,
        selection=Selection(only=only),
        device="cpu",
        num_workers=1,
        show_progress_bar=False,
    )


@pytest.mark.parametrize("kind", ["mmembed", "open_clip"])
def test_the_whole_suite_runs_once_and_is_found_again(kind, tiny_checkpoint, tiny_clip, tmp_path):
    model = tiny_checkpoint if kind == "mmembed" else f"open_clip:{tiny_clip}:random"
    first = judged(model, tmp_path)
    items = first.record["items"]
    assert first.record["encoder"]["kind"] == kind
    assert set(first.tasks) == {card.name for card in EmojiSuite().cards()}
    assert items["encoded"] == items["distinct"] < 0.6 * items["asked"]
    assert first.record["summary"].startswith("bundled, complete")
    assert first.record["subset"] is None
    scores = {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()}
    again = judged(model, tmp_path, only=("image_question", "video_motion", "text_page"))
    assert again.record["items"]["encoded"] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()} == scores
    for score in map(json.loads, scores.values()):
        assert not score["missing"]
