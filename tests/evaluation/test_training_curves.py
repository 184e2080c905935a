"""From rows of metrics.jsonl to charts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmembed.errors import ConfigError
from mmembed.evaluation.training_curves import read_run, training_charts


def rows(count: int = 3, **fields: Any) -> list[dict[str, Any]]:
    return [{"step": step, "loss": 1 / step, **fields} for step in range(1, count + 1)]


def titles(logs: dict[str, Any]) -> list[str]:
    return [chart.title for chart in training_charts(logs)]


def chart(title: str, logs: dict[str, Any]) -> Any:
    (found,) = training_charts(logs, titles={title})
    return found


def labels(title: str, logs: dict[str, Any]) -> list[str]:
    return [line.label for line in chart(title, logs).series]


def test_only_what_was_logged_is_drawn():
    assert titles({"a": rows()}) == ["Loss"]
    assert titles({"a": rows(grad_norm=1.0, peak_memory_bytes=2**30)}) == [
        "Loss",
        "Gradient norm",
        "Peak memory",
    ]
    assert titles({"a": []}) == []


def test_one_task_and_neutral_weights_are_left_out():
    neutral = {"hardness_weight_mean": 1.0, "hardness_weight_max": 1.0}
    assert titles({"": rows(task_loss={"sts": 1.0}, **neutral)}) == ["Loss"]
    two = rows(task_loss={"sts": 1.0, "qa": 2.0}, hardness_weight_mean=1.5)
    assert titles({"": two}) == ["Loss", "Loss by task", "Hardness weight"]


def test_a_single_log_shows_all_quantiles_and_several_the_median():
    logged = rows(**{f"positive_similarity_{name}": 0.5 for name in ("q05", "q50", "q95")})
    assert labels("Cosines of positives", {"": logged}) == ["median", "5 %", "95 %"]
    several = {"member1": logged, "member2": logged}
    assert labels("Cosines of positives", several) == ["member1, median", "member2, median"]


def test_every_pool_of_an_evaluation_is_a_line():
    found = [{"step": 0, "evaluation/a/R@1": 0.1, "evaluation/b/c/R@1": 0.2}]
    assert labels("Evaluation: R@1", {"": found}) == ["a", "b/c"]
    assert labels("Evaluation: R@1", {"x": found}) == ["x, a", "x, b/c"]


def test_temperatures_are_lines_of_their_groups():
    logged = rows(temperature={"text": 0.02, "image": 0.05})
    assert labels("Temperature", {"": logged}) == ["text", "image"]
    assert labels("Temperature", {"run": logged}) == ["run, text", "run, image"]


def test_long_lines_are_thinned_to_means_of_neighbours():
    (line,) = chart("Loss", {"": [{"step": s, "loss": s % 2} for s in range(1600)]}).series
    assert len(line.x) == 400
    assert set(line.y) == {0.5}
    assert line.x[:2] == [1.5, 5.5]


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def test_a_run_is_read_in_the_order_of_its_stages(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("stages: [{name: warm}, {name: null}, {name: fine}]\n")
    for name in ("fine-member1", "fine-member2", "stage2", "warm"):
        write(tmp_path / name / "metrics.jsonl", rows())
    (tmp_path / "warm" / "model").mkdir()
    logs = read_run(tmp_path)
    assert [(log.stage, log.member, log.complete) for log in logs] == [
        ("warm", "", True),
        ("stage2", "", False),
        ("fine", "member1", False),
        ("fine", "member2", False),
    ]


def test_a_stage_folder_and_a_folder_around_a_run_are_runs(tmp_path: Path):
    write(tmp_path / "run" / "stage1" / "metrics.jsonl", rows())
    for folder in (tmp_path, tmp_path / "run", tmp_path / "run" / "stage1"):
        (log,) = read_run(folder)
        assert (log.run, log.stage) == (folder.name, "stage1")


def test_a_folder_without_logs_or_with_a_broken_one_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"holds no metrics\.jsonl"):
        read_run(tmp_path)
    path = write(tmp_path / "stage1" / "metrics.jsonl", rows())
    path.write_text("\0\0\n" + path.read_text())
    with pytest.raises(ConfigError, match=r"metrics\.jsonl is damaged"):
        read_run(tmp_path)
