"""`on_bad_row: skip` in a whole run: what is trained, written and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmembed.config.files import parse_recipe
from mmembed.errors import InputError
from mmembed.training.metrics import read_metrics
from mmembed.training.stages import train

ROWS = """
from mmembed.types import ContrastiveExample, MultimodalInput

class Rows:
    name, task, revision, license = "rows", "retrieval", "1", "CC0-1.0"

    def __len__(self):
        return 24

    def __getitem__(self, index):
        query = "a dog" + ("\\ud800" if index in (5, 11) else f" {index}")
        positive = MultimodalInput.of(f"a cat {index}")
        return ContrastiveExample(MultimodalInput.of(query), (positive,))
"""


def run(checkpoint: Path, output: Path, *overrides: str) -> None:
    recipe = parse_recipe(
        f"""
model: {{path: {checkpoint}}}
defaults: {{batch_size: 6, learning_rate: 3e-3, steps: 6}}
stages:
  - data: [{{adapter: "rows_with_faults:Rows"}}]
""",
        overrides=overrides,
    )
    train(recipe, output=output, cpu=True)


def test_a_run_goes_on_without_its_bad_rows_once_it_is_told_to(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "rows_with_faults.py").write_text(ROWS)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run" / "stage1"
    with pytest.raises(InputError, match=r"\('rows', (5|11), 'query'\) \(text\): invalid_text"):
        run(tiny_checkpoint, tmp_path / "run")
    run(tiny_checkpoint, tmp_path / "run", "stages.0.on_bad_row=skip")
    skipped = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    assert {5, 11} == {row["row"] for row in skipped}
    counts = [row["skipped_rows"] for row in read_metrics(folder / "metrics.jsonl")]
    assert counts == sorted(counts) and counts[-1] == len(skipped)
