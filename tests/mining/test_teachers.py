"""Other libraries as teachers: a CLIP filters captions of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmembed.baselines.loading import load_model
from mmembed.config.mining import FilterConfig, MiningConfig
from mmembed.data.row_files import RowFile
from mmembed.mining.filter_job import filter_rows
from mmembed.mining.job import mine
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text
from tests.baselines.conftest import TINY_CLIP
from tests.mining.rows import ListedRows, opened

open_clip = pytest.importorskip("open_clip")


def captions() -> list[ContrastiveExample]:
    rng = np.random.default_rng(0)
    return [
        ContrastiveExample(
            MultimodalInput((Text(f"a picture of {word}"),)),
            (MultimodalInput((Image(rng.integers(0, 256, (48, 48, 3), np.uint8)),)),),
        )
        for word in "cats dogs boats trees roads".split()
    ]


def test_a_clip_filters_captions_by_its_score_and_mines_pictures(tmp_path: Path) -> None:
    config = tmp_path / "mining-clip.json"
    config.write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(config)
    teacher = load_model("open_clip:mining-clip:random", device="cpu", num_workers=1)
    rows = captions()
    queries = teacher.encode([row.query for row in rows], role="query")
    pictures = teacher.encode([row.positives[0] for row in rows], role="document")
    scores = (queries * pictures).sum(axis=1)
    bound = float(np.sort(scores)[2])
    kept = filter_rows(
        opened(ListedRows(rows)), teacher, FilterConfig(min_score=bound - 1e-4), tmp_path / "kept",
        show_progress_bar=False,
    )  # fmt: skip
    file = RowFile(kept.kept["listed"])
    found = [file.meta(n)["row"] for n in range(len(file))]
    assert found == np.flatnonzero(scores >= bound).tolist() and len(found) == 3
    mined = mine(
        opened(ListedRows(rows)), teacher, MiningConfig(num_negatives=2), tmp_path / "mined",
        seed=0, show_progress_bar=False,
    )  # fmt: skip
    first = RowFile(mined.files["listed"]).meta(0)["negative_scores"]
    assert first == pytest.approx(
        sorted((queries[0] @ pictures[1:].T).tolist())[::-1][:2], abs=1e-5
    )
    teacher.close()
