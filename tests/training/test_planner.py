"""`mmembed plan`: the first step is the largest, predictions hold, and nothing is left behind."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from typer.testing import CliRunner

from mmembed.cli import app
from mmembed.cli.plan import _advice
from mmembed.config.recipe import Recipe
from mmembed.encoder.encoder import Encoder
from mmembed.errors import ConfigError
from mmembed.inputs.collator import chunk_cost
from mmembed.training.forecast import (
    HEADROOM,
    Plan,
    Setting,
    disk_bytes,
)
from mmembed.training.grad_cache import DoesNotFit
from mmembed.training.micro_steps import PreparedRows, Workbench
from mmembed.training.planned import planned_runs
from mmembed.training.planner import plan
from mmembed.types import ContrastiveExample, MultimodalInput

ROWS = f"{__name__}:Sentences"
MIB = 2**20


class Sentences:
    """Rows of so many words; some may hold what is no picture."""

    task, revision, license = "retrieval", "1", "CC0-1.0"

    def __init__(
        self, name: str, *, words: int, size: int = 64, broken_rows: Sequence[int] = ()
    ) -> None:
        self.name = name
        self._words, self._size, self._broken_rows = words, size, broken_rows

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> ContrastiveExample:
        text = f"{index} " + "a dog in the rain " * (self._words // 5)
        broken = MultimodalInput.of({"image": b"no picture %d" % index})
        document = broken if index in self._broken_rows else MultimodalInput.of(text + "red")
        return ContrastiveExample(
            MultimodalInput.of(text), (document,), (MultimodalInput.of("green"),)
        )


def stage(*data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    entries = [{"adapter": ROWS, "arguments": arguments} for arguments in data]
    return {
        "data": entries,
        "batch_size": 32,
        "steps": 5,
        "num_workers": 0,
        "learning_rate": 1e-4,
        **fields,
    }


def recipe(checkpoint: Path, *stages: dict[str, Any], **fields: Any) -> Recipe:
    return Recipe.model_validate({"model": {"path": str(checkpoint)}, "stages": stages, **fields})


SHORT = {"name": "short", "words": 10, "size": 96}
LONG = {"name": "long", "words": 120}


@pytest.fixture(scope="module")
def planned(tiny_checkpoint: Path) -> Plan:
    """Of a long and a short group, then a short stage of two members."""
    members = [{"seed": 1}, {"seed": 2, "epochs": 0.5}]
    return plan(
        recipe(
            tiny_checkpoint,
            stage(SHORT, LONG, save_every=2),
            stage(SHORT, steps=None, epochs=1.5, batch_size=40),
            soup={"method": "linear", "members": members},
        ),
        cpu=True,
    )


@pytest.fixture
def bench(tiny_checkpoint: Path) -> Iterator[tuple[Workbench, PreparedRows]]:
    """The model and a batch of the long group, apart from any plan."""
    settings = recipe(tiny_checkpoint, stage(LONG))
    runs = planned_runs(settings, [("stage1", settings.stages[0])])
    accelerator = Accelerator(cpu=True)
    bench = Workbench(
        settings, runs.stage, runs.mixture, accelerator, media=None, seed=0, total_steps=5
    )
    yield bench, bench.prepare(runs.batches["long"][0])
    bench.close()


def test_the_largest_batch_is_the_first_to_run(planned: Plan):
    first, *_ = planned.stages
    before_times = [step for step in first.micro_steps if step.purpose != "time"]
    assert {step.group for step in before_times} == {first.largest_group} == {"long"}
    assert [step.purpose for step in first.micro_steps[:2]] == ["warm-up", "memory"]
    assert first.micro_steps.index(before_times[-1]) > 3  # both kinds of checkpointing
    assert {step.group for step in first.micro_steps if step.purpose == "time"} == {"long", "short"}
    assert first.largest_rows == 32
    assert first.largest_cost > 32 * 2 * 100


def test_steps_are_those_of_training_for_epochs_and_members_too(planned: Plan):
    # 96 rows in batches of 40 are 3 steps
    assert [dict(each.steps) for each in planned.stages] == [
        {"stage1": 5},
        {"stage2-member1": 3 + 2, "stage2-member2": 2},
    ]
    assert planned.steps == 12
    for each in planned.stages:
        assert set(each.times.seconds) == set(each.steps)
    spent = [sum(each.steps.values()) * each.times.seconds_per_step for each in planned.stages]
    assert planned.seconds == pytest.approx(sum(spent))


def test_seconds_and_rates_are_positive_and_agree(planned: Plan):
    for each in planned.stages:
        times = each.times
        assert times.step_seconds > 0 < times.prepare_seconds
        # without workers, one after the other
        assert times.seconds_per_step == pytest.approx(times.step_seconds + times.prepare_seconds)
        share = times.prepare_seconds / times.seconds_per_step
        assert times.data_wait_share == pytest.approx(share)
    second = planned.stages[1].times
    mean_rows = 96 / 3
    assert second.rows_per_second == pytest.approx(mean_rows / second.seconds_per_step)


def test_what_does_not_fit_as_written_is_told_and_timed_with_the_least_change(
    planned: Plan, tiny_checkpoint: Path
):
    first = planned.stages[0]
    room = first.lines[0].peak(first.largest_cost // 3, 3) + first.data_bytes
    found = plan(
        recipe(tiny_checkpoint, stage(LONG)), memory_bytes=round(room / HEADROOM), cpu=True
    )
    assert not found.fits
    (only,) = found.stages
    assert only.written.chunk_tokens is None
    assert only.chosen.fits
    assert only.chosen.chunk_tokens is not None or only.chosen.gradient_checkpointing
    assert only.times.seconds_per_step > 0


def test_memory_that_is_too_small_says_what_to_do(tiny_checkpoint: Path):
    settings = recipe(tiny_checkpoint, stage(SHORT, name="align"))
    with pytest.raises(ConfigError, match=r"^align: the weights alone take .*smaller model"):
        plan(settings, memory_bytes=1000, cpu=True)
    with pytest.raises(ConfigError, match=r"^align: weights, gradients and .*lora, freeze"):
        plan(settings, memory_bytes=10 * MIB, cpu=True)


def test_nothing_is_written_and_the_generators_stay(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tiny_checkpoint.rglob("*")}
    random = torch.get_rng_state()
    data = {**SHORT, "size": 32, "broken_rows": [3]}
    found = plan(recipe(tiny_checkpoint, stage(data, on_bad_row="skip", steps=3)), cpu=True)
    assert not list(tmp_path.iterdir())
    assert {path: path.stat().st_mtime_ns for path in tiny_checkpoint.rglob("*")} == before
    assert torch.equal(torch.get_rng_state(), random)
    (only,) = found.stages
    assert (only.bad_rows, only.sampled_rows) == (1, 32)


def test_data_that_cannot_be_used_name_their_stage_and_row(tiny_checkpoint: Path):
    broken = [{**SHORT, "size": 20, "broken_rows": [7]}]
    with pytest.raises(ConfigError, match=r"^second: .*short.*7"):
        plan(recipe(tiny_checkpoint, stage(SHORT), stage(*broken, name="second")), cpu=True)
    missing = {**stage(SHORT, name="second"), "data": [{"adapter": "tests.training.pairs:Gone"}]}
    with pytest.raises(ConfigError, match="second: adapter"):
        plan(recipe(tiny_checkpoint, stage(SHORT), missing), cpu=True)
    searched = stage(SHORT, name="second", evaluation=[{"adapter": "tests.training.pairs:Gone"}])
    with pytest.raises(ConfigError, match="second: adapter"):
        plan(recipe(tiny_checkpoint, searched), cpu=True)
    with pytest.raises(ConfigError, match=r"^stage1: model.path"):
        plan(recipe(Path("nowhere"), stage(SHORT)), cpu=True)


def test_rows_that_training_skips_are_skipped_wherever_they_stand(tiny_checkpoint: Path):
    def skipping(broken: Sequence[int]) -> Recipe:
        data = {**SHORT, "size": 24, "broken_rows": list(broken)}
        return recipe(
            tiny_checkpoint, stage(data, on_bad_row="skip", batch_size=8, seed=0, steps=3)
        )

    settings = skipping([])
    batches = planned_runs(settings, [("stage1", settings.stages[0])]).batches["short"]
    (found,) = plan(skipping(batches[0].rows[:7]), cpu=True).stages
    assert (found.bad_rows, found.sampled_rows) == (7, 8)
    # all of two batches: another one of the group is measured
    whole = [row for batch in batches[:2] for row in batch.rows]
    (found,) = plan(skipping(whole), cpu=True).stages
    assert (found.bad_rows, found.sampled_rows) == (0, 8)
    with pytest.raises(ConfigError, match=r"^stage1: .*short"):
        plan(skipping(range(24)), cpu=True)


def test_what_training_refuses_to_evaluate_is_refused(tiny_checkpoint: Path, tiny_reranker: Path):
    searched = [{"adapter": ROWS, "arguments": {**SHORT, "name": "held"}}]
    misspelt = stage(SHORT, evaluation=searched, keep_best="evaluation/held/MRRR")
    with pytest.raises(ConfigError, match=r"^stage1: keep_best .*evaluation/held/MRR$"):
        plan(recipe(tiny_checkpoint, misspelt), cpu=True)
    answers = stage(SHORT, loss={"objective": "yes_no"}, evaluation=searched)
    with pytest.raises(ConfigError, match=r"^stage1: evaluation: a reranker"):
        plan(recipe(tiny_reranker, answers), cpu=True)


@pytest.mark.parametrize("written", [False, True])
def test_what_fits_only_with_gradient_checkpointing_is_planned_with_it(
    tiny_checkpoint: Path, written: bool
):
    def run_out(module: torch.nn.Module, arguments: Any) -> None:
        layers = [each for each in module.modules() if hasattr(each, "gradient_checkpointing")]
        if isinstance(module, Encoder) and not any(each.gradient_checkpointing for each in layers):
            raise torch.OutOfMemoryError

    hook = torch.nn.modules.module.register_module_forward_pre_hook(run_out)
    try:
        settings = stage(SHORT, batch_size=8, gradient_checkpointing=written)
        (found,) = plan(recipe(tiny_checkpoint, settings), cpu=True).stages
    finally:
        hook.remove()
    assert found.fits == written
    assert found.written.gradient_checkpointing == written
    assert found.chosen.gradient_checkpointing
    assert found.lines[0] is None
    assert (found.written.peak_bytes is None) == (not written)
    assert all(step.gradient_checkpointing for step in found.micro_steps)


def test_a_step_whose_chunks_memory_has_halved_is_no_measurement(
    bench: tuple[Workbench, PreparedRows],
):
    workbench, rows = bench

    def run_out(module: torch.nn.Module, arguments: Any) -> None:
        if chunk_cost(arguments[0]) > 500:
            raise torch.OutOfMemoryError

    with workbench.encoder.register_forward_pre_hook(run_out):
        before = [parameter.clone() for parameter in workbench.encoder.parameters()]
        with pytest.raises(DoesNotFit, match="lower chunk_tokens"):
            workbench.step(rows, chunk_tokens=900, purpose="memory")
        assert workbench.steps == []
        for old, new in zip(before, workbench.encoder.parameters(), strict=True):
            assert torch.equal(old, new) and new.grad is None
        assert workbench.step(rows, chunk_tokens=500, purpose="memory").chunk_cost <= 500


def test_rerankers_and_low_rank_updates_are_measured_like_embedders(
    tiny_checkpoint: Path, tiny_reranker: Path
):
    answers = stage(SHORT, loss={"objective": "yes_no"}, batch_size=8, chunk_tokens=200)
    (only,) = plan(recipe(tiny_reranker, answers), cpu=True).stages
    assert only.check.num_chunks > 1
    assert only.trained_bytes == only.weight_bytes
    low_rank = stage(SHORT, lora={"rank": 2}, batch_size=8, gradient_checkpointing=True)
    (only,) = plan(recipe(tiny_checkpoint, low_rank), cpu=True).stages
    assert only.trained_bytes < only.weight_bytes / 10
    assert only.written.gradient_checkpointing
    timed = [step for step in only.micro_steps if step.purpose == "time"]
    assert timed and all(step.gradient_checkpointing for step in timed)


def test_disk_holds_models_checkpoints_and_one_that_is_being_written(
    planned: Plan, tiny_checkpoint: Path
):
    weights, moments = planned.stages[0].weight_bytes, 2 * planned.stages[0].trained_bytes
    # models of stage 1, of two members and of their soup; two checkpoints and one aside
    assert planned.disk_bytes == 4 * weights + (2 + 1) * (weights + moments)
    files = tiny_checkpoint / "model.safetensors"
    assert math.isclose(weights, files.stat().st_size, rel_tol=0.05)
    # without save_every a signal still writes one
    only = disk_bytes(recipe(tiny_checkpoint, stage(SHORT)), planned.stages[:1])
    assert only == weights + (weights + moments)


@pytest.fixture
def recipe_file(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    settings = recipe(tiny_checkpoint, stage(SHORT, batch_size=8))
    path.write_text(settings.model_dump_json(), encoding="utf-8")
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["plan", *map(str, arguments), "--cpu"])


def test_the_command_prints_tables_or_json(recipe_file: Path):
    done = run(recipe_file, "--set", "stages.0.steps=7")
    assert done.exit_code == 0, done.output
    for words in ("as written", "gradient_checkpointing", "s/step", "predicted", "an hour is"):
        assert words in " ".join(done.stdout.split())
    done = run(recipe_file, "--json", "--set", "stages.0.steps=7")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["steps"] == 7
    assert found["fits"] is True
    assert found["stages"][0]["micro_steps"][0]["purpose"] == "warm-up"


def test_the_command_says_in_one_line_what_to_change(recipe_file: Path):
    done = run(recipe_file, "--memory", "0.1MB")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("error: stage1: the weights alone take")
    done = run(recipe_file, "--memory", "much")
    assert done.exit_code == 2
    assert "give a size, e.g. 20GiB" in done.stderr


@pytest.mark.parametrize(
    ("written", "chosen", "advice"),
    [
        ((None, False), (70, False), "set chunk_tokens: 70"),
        ((None, False), (None, True), "set gradient_checkpointing: true"),
        ((50, True), (None, False), "set chunk_tokens: null and gradient_checkpointing: false"),
        ((90, False), (None, True), "set chunk_tokens: null and gradient_checkpointing: true"),
        ((90, True), (70, True), "set chunk_tokens: 70"),
    ],
)
def test_advice_is_what_differs(planned: Plan, written: Any, chosen: Any, advice: str):
    first, best = Setting(*written, 2, fits=False), Setting(*chosen, 1, fits=True)
    assert _advice(replace(planned.stages[0], settings=(first, best), chosen=best)) == advice
