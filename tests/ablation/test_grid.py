"""Small grids from end to end: pairing, sharing, resuming, Ctrl-C, divergence, the page."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from safetensors.torch import load_file

from mmembed.ablation import grid
from mmembed.ablation.plan import Run, load_ablation
from mmembed.ablation.runs import Results, execute, last_stage, make_start
from mmembed.training.stages import train

FILE = """
texts: {{reference: "tests.ablation.rows:texts"}}
checkpoint: {{vocab_size: 300, hidden_size: 16, num_layers: 1, num_heads: 2, num_kv_heads: 1,
  intermediate_size: 16, vision_depth: 1, vision_width: 8, vision_heads: 2, prompt: plain}}
recipe:
  model: {{max_tokens: 32}}
  defaults:
    batch_size: 6
    learning_rate: 0.01
    num_workers: 0
    data: [{{adapter: "tests.ablation.rows:Colours", arguments: {arguments}}}]
  stages: [{{steps: 2}}, {{steps: 6}}]
tasks: [{{title: colours, reference: "tests.ablation.rows:colour_task"}}]
problems: [{{name: clean, set: ["defaults.data.0.arguments.seed={{seed}}"]}}]
control: plain
primary: {{task: colours, metric: "-ln rank"}}
seeds: [0, 1]
arms:
  - name: plain
  - {{name: neutral, set: ["stages.1.loss.hardness.scope=hard"]}}
  - {{name: changed <&>, set: ["stages.1.temperature.init={tau}"]}}
{more}
"""
SOUP = """
  - name: soup
    set: ["soup={method: linear, members: [{seed: 1}, {seed: 2}]}"]
    against: [members]
  - {name: broken, set: ["stages.1.learning_rate=1.0e+30", "stages.1.max_grad_norm=null"]}
"""


def write(path: Path, *, arguments: str = "{}", tau: float = 0.5, more: str = "") -> str:
    path.write_text(FILE.format(arguments=arguments, tau=tau, more=more), encoding="utf-8")
    return str(path)


def lines(output: Path) -> list[dict]:
    text = (output / "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("ablation")
    file = write(folder / "grid.yaml", more=SOUP)
    grid.run(file, output=folder / "out")
    return file, folder / "out"


def test_every_run_is_in_the_results_once(finished):
    rows = lines(finished[1])
    arms = ["plain", "neutral", "changed <&>", "soup", "broken"]
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for s in (0, 1) for a in arms]


def test_an_arm_that_changes_nothing_is_exactly_its_control(finished):
    rows = {(row["arm"], row["seed"]): row for row in lines(finished[1])}
    for seed in (0, 1):
        plain, neutral = rows["plain", seed], rows["neutral", seed]
        assert plain["scores"] == neutral["scores"]
        assert plain["training"] == neutral["training"]
        assert plain["fingerprint"] != neutral["fingerprint"]
        assert rows["changed <&>", seed]["training"]["loss"] != plain["training"]["loss"]
    assert rows["plain", 0]["training"]["loss"] != rows["plain", 1]["training"]["loss"]


def test_a_soup_is_compared_with_the_mean_of_its_members(finished):
    row = next(row for row in lines(finished[1]) if row["arm"] == "soup")
    assert set(row["members"]["colours"]) == set(row["scores"]["colours"])


def test_a_training_that_diverges_is_a_result(finished):
    row = next(row for row in lines(finished[1]) if row["arm"] == "broken")
    assert row["scores"] is None
    assert "diverged with 2 seeds" in (finished[1] / "table.md").read_text(encoding="utf-8")


def test_the_page_stands_alone_and_names_every_arm(finished):
    page = (finished[1] / "report.html").read_text(encoding="utf-8")
    root = ElementTree.fromstring(page.partition("\n")[2])
    text = "".join(root.itertext())
    for words in ("changed <&>", "soup vs its members", "no difference seen", "4 comparisons"):
        assert words in text
    assert len(list(root.iter("svg"))) == 1  # one problem, one task
    assert "http" not in page


def test_nothing_is_left_of_the_trainings_but_their_starts(finished):
    assert not list((finished[1] / "unfinished").iterdir())
    assert len(list((finished[1] / "starts").iterdir())) == 2


def test_what_is_finished_is_not_run_again_and_a_lost_line_is(finished):
    file, output = finished
    path = output / "results.jsonl"
    before = path.read_bytes()
    grid.run(file, output=output)
    assert path.read_bytes() == before
    path.write_bytes(before[:-20])  # as a crash leaves it
    grid.run(file, output=output)
    plan = load_ablation(file)
    assert set(Results(path, plan).records) == set(plan.runs())
    assert path.read_bytes().startswith(before[:-20] + b"\n")
    path.write_bytes(before)


def test_only_the_arm_that_was_changed_runs_again(finished, tmp_path):
    _, output = finished
    results = Results(output / "results.jsonl", load_ablation(write(tmp_path / "x", tau=0.7)))
    assert {run.arm for run in results.records} == {"plain", "neutral"}


def test_a_shared_start_gives_the_weights_of_the_whole_recipe(finished, tmp_path):
    plan = load_ablation(finished[0])
    run = Run("clean", "changed <&>", 1)
    make_start(plan, run, tmp_path)
    start = next((tmp_path / "starts").iterdir())
    whole = train(plan.resolved(run, start / "untrained"), output=tmp_path / "whole", cpu=True)
    last = train(last_stage(plan, run, tmp_path), output=tmp_path / "last", cpu=True)
    one, other, before = (
        load_file(folder / "model.safetensors")
        for folder in (whole.model, last.model, start / "run" / "model")
    )
    assert all(one[name].equal(other[name]) for name in one)
    assert not all(one[name].equal(before[name]) for name in one)


def test_ctrl_c_keeps_what_is_finished_and_the_next_call_goes_on(tmp_path):
    mark = tmp_path / "interrupted"
    file = write(tmp_path / "grid.yaml", arguments=f'{{interrupt: "{mark}"}}')
    with pytest.raises(KeyboardInterrupt):
        grid.run(file, output=tmp_path / "out", arms=["neutral"])
    assert mark.exists()
    assert (tmp_path / "out" / "report.html").is_file()
    grid.run(file, output=tmp_path / "out", arms=["neutral"])
    quiet = write(tmp_path / "quiet.yaml")
    grid.run(quiet, output=tmp_path / "quiet", arms=["neutral"])
    found, expected = (
        {(row["arm"], row["seed"]): row["scores"] for row in lines(tmp_path / name)}
        for name in ("out", "quiet")
    )
    assert found == expected


def test_an_interrupted_run_is_no_result(tmp_path):
    file = write(tmp_path / "grid.yaml", arguments=f'{{interrupt: "{tmp_path / "mark"}"}}')
    plan = load_ablation(file)
    run = Run("clean", "plain", 0)
    assert make_start(plan, run, tmp_path) is None or execute(plan, run, tmp_path) is None


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(finished, tmp_path):
    grid.run(finished[0], output=tmp_path, jobs=2)
    found, expected = (
        {(row["arm"], row["seed"]): (row["scores"], row["training"]) for row in lines(folder)}
        for folder in (tmp_path, finished[1])
    )
    assert found == expected
