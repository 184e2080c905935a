"""However a model is spread over processes, it trains as on one."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from mmembed.config.files import config_folders, parse_recipe
from mmembed.encoder.checkpoint import load_encoder
from mmembed.errors import ConfigError
from mmembed.training import stages
from mmembed.training.backends import Backend, build_backend, check_distribution
from mmembed.training.blank_item import blank_item, with_last_item
from mmembed.training.metrics import read_metrics
from mmembed.training.step_folders import checkpoints
from tests.training.fault_client import FaultServer
from tests.training.steps import Step

# Rows of all kinds; rows of texts, whose batches leave the vision tower alone; five rows for two
# or three processes. The learning rate is low, because steps amplify rounding.
RECIPE = """
model: {{path: {checkpoint}, image_tokens: {{min: 1, max: 4}}}}
stages:
  - data:
      - adapter: "tests.training.steps:MixedRows"
        arguments: {{size: 30, kinds: [text, image, video]}}
        name: mixed
      - adapter: "tests.training.steps:MixedRows"
        arguments: {{size: {texts}, kinds: [text]}}
        name: texts
        task: retrieval
    steps: 4
    batch_size: 5
    learning_rate: 1e-4
    weight_decay: 0.1
    max_grad_norm: 0.5
    num_workers: 0
    save_every: 2
    chunk_tokens: {chunk_tokens}
    temperature: {{init: 0.1, learnable: true, per_task: true}}
    evaluation:
      - adapter: "tests.training.pairs:ColourPairs"
        arguments: {{size: 6}}
    {more}
"""
forks = pytest.mark.skipif(sys.platform != "linux", reason="forks and reads /proc")
LORA = "lora: {rank: 4}"


class Runs:
    """`mmembed train` in a folder of its own; equal runs are made once."""

    def __init__(self, server: FaultServer, checkpoint: Path, folder: Path) -> None:
        self.server = server
        self.checkpoint = checkpoint
        self.folder = folder
        self.alone = cache(self._alone)
        encoder, processor = load_encoder(checkpoint)
        processor.close()
        self.start = encoder.backbone.model.state_dict()

    def __call__(
        self,
        output: str,
        *options: str,
        processes: int = 1,
        chunk_tokens: int | None = 70,
        texts: int = 30,
        more: str = "",
    ) -> Path:
        run = self.folder / output
        run.mkdir(exist_ok=True)
        recipe = run / "settings.yaml"
        limit = "null" if chunk_tokens is None else chunk_tokens
        text = RECIPE.format(checkpoint=self.checkpoint, chunk_tokens=limit, texts=texts, more=more)
        if texts == 0:
            head, _, rest = text.partition(
                '      - adapter: "tests.training.steps:MixedRows"\n        arguments: {size: 0'
            )
            text = head + rest.partition("        task: retrieval\n")[2]
        recipe.write_text(text.replace("        task: retrieval\n", ""))
        words = [str(recipe), "--output", str(run), *options]
        if processes == 1:
            attempt = self.server.start("train", *words)
            assert attempt.wait() == 0, attempt.output
        else:
            code = self.server.start("ranks", processes, run, *words).wait()
            said = [(run / f"{rank}.txt").read_text()[-3000:] for rank in range(processes)]
            assert code == 0, "\n".join(said)
        return run

    def _alone(self, **options: Any) -> Path:
        name = "-".join(["alone", *(f"{key}{value}" for key, value in options.items())])
        return self("".join(c for c in name if c.isalnum() or c == "-"), **options)


@pytest.fixture(scope="module")
def runs(
    server: FaultServer, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    return Runs(server, tiny_checkpoint, tmp_path_factory.mktemp("runs"))


def assert_same_run(found: Path, expected: Path, start: dict[str, Any]) -> None:
    """Curves, weights, temperatures and the optimizer of a checkpoint, up to rounding."""
    rows, others = (read_metrics(run / "stage1" / "metrics.jsonl") for run in (found, expected))
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        for name in {"loss", "grad_norm", *(key for key in other if key.startswith("eval"))}:
            if name in other:
                assert row[name] == pytest.approx(other[name], rel=1e-4), (name, row["step"])
        if "temperature" in other:
            assert row["temperature"] == pytest.approx(other["temperature"], rel=1e-5)
            assert row["task_loss"] == pytest.approx(other["task_loss"], rel=1e-4)
            assert row["source"] == other["source"] or len(row["source"]) <= len(other["source"])
    after, reference = (load_file(run / "model" / "model.safetensors") for run in (found, expected))
    assert after.keys() == reference.keys()
    moved = 0
    for name, tensor in reference.items():
        change = (tensor - start[name]).norm()
        # Adam steps as far for a gradient that is rounding; its moments below tell more
        assert (after[name] - tensor).norm() <= 3e-2 * change + 1e-9, name
        moved += bool(change > 0)
    assert moved >= 14
    where = checkpoints(expected / "stage1")[-1].name
    mine, theirs = (
        load_file(run / "stage1" / where / "training" / "optimizer.safetensors")
        for run in (found, expected)
    )
    assert theirs and not theirs.keys() - mine.keys()
    for name, tensor in mine.items():
        if name not in theirs:  # a backend may write zeros for what has rested
            assert not tensor.any(), name
        elif not name.endswith("/step"):
            torch.testing.assert_close(
                tensor, theirs[name], rtol=1e-3, atol=1e-3 * float(theirs[name].abs().max())
            )


@forks
@pytest.mark.parametrize("distribution", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(runs: Runs, distribution: str):
    run = runs(distribution, "--distribution", distribution, processes=2)
    assert_same_run(run, runs.alone(), runs.start)


@forks
def test_uncached_steps_of_two_sharded_processes_are_those_of_one(runs: Runs):
    run = runs("whole", "--distribution", "fsdp2", processes=2, chunk_tokens=None)
    assert_same_run(run, runs.alone(), runs.start)


@forks
@pytest.mark.slow
@pytest.mark.parametrize("more", [LORA, "gradient_checkpointing: true", "freeze: [visual]"])
def test_sharded_processes_train_as_one_with(runs: Runs, more: str):
    name = "".join(filter(str.isalpha, more))
    run = runs(name, "--distribution", "fsdp2", processes=2, more=more)
    assert_same_run(run, runs.alone(more=more), runs.start)
    if more == LORA:
        file = Path("stage1", "step-000002", "adapter", "adapter_model.safetensors")
        mine, theirs = (load_file(each / file) for each in (run, runs.alone(more=more)))
        for key in theirs:
            torch.testing.assert_close(mine[key], theirs[key], rtol=1e-3, atol=1e-6)


@forks
@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["ddp", "fsdp2"])
def test_three_processes_train_as_one(runs: Runs, distribution: str):
    run = runs(f"three{distribution}", "--distribution", distribution, processes=3)
    assert_same_run(run, runs.alone(), runs.start)


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Settings of DeepSpeed that cut even the parameters of a tiny model."""
    folder = tmp_path_factory.mktemp("deepspeed")

    def settings(stage: int) -> str:
        fields = json.loads(shipped(stage).read_text())
        fields["zero_optimization"] |= {"reduce_bucket_size": 100_000}
        if stage == 3:
            fields["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        path = folder / f"stage{stage}.json"
        path.write_text(json.dumps(fields))
        return str(path)

    return settings


def shipped(stage: int) -> Path:
    return config_folders()[0] / "deepspeed" / f"zero{stage}.json"


# DeepSpeed compiles a library for its exchanges on CPUs when it is used there for the first time.
@forks
@pytest.mark.slow
@pytest.mark.parametrize("chunk_tokens", [70, None])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_processes_with_deepspeed_train_as_one(
    runs: Runs, zero: Callable[[int], str], stage: int, chunk_tokens: int | None
):
    pytest.importorskip("deepspeed")
    run = runs(
        f"zero{stage}{chunk_tokens}",
        "--distribution",
        f"zero{stage}" if chunk_tokens is None else zero(stage),
        processes=2,
        texts=0,
        chunk_tokens=chunk_tokens,
    )
    assert_same_run(run, runs.alone(texts=0), runs.start)


@forks
@pytest.mark.parametrize("ways", [("ddp", 1, "fsdp2", 2), ("fsdp2", 2, "ddp", 1)])
def test_a_run_goes_on_with_another_backend(runs: Runs, ways: tuple[str, int, str, int]):
    goes_on(runs, *ways)


@forks
@pytest.mark.slow
@pytest.mark.parametrize(
    "ways",
    [(3, 2, "fsdp2", 3), ("fsdp2", 2, 3, 2), ("ddp", 1, 1, 2), (1, 2, 2, 3), (2, 2, "ddp", 1)],
)
def test_a_run_goes_on_with_another_number_and_deepspeed(
    runs: Runs, zero: Callable[[int], str], ways: tuple[Any, int, Any, int]
):
    pytest.importorskip("deepspeed")
    first, before, second, after = ways
    named = [way if isinstance(way, str) else zero(way) for way in (first, second)]
    goes_on(runs, named[0], before, named[1], after)


def goes_on(runs: Runs, first: str, before: int, second: str, after: int) -> None:
    """Up to step 2 in one way, then in the other."""
    name = "-".join(Path(word).stem for word in (first, str(before), second, str(after)))
    run = runs(name, "--distribution", first, processes=before, texts=0)
    shutil.rmtree(run / "model")
    assert checkpoints(run / "stage1")[-1].name == "step-000002"
    runs(name, "--distribution", second, processes=after, texts=0)
    assert_same_run(run, runs.alone(texts=0), runs.start)


@forks
@pytest.mark.parametrize("distribution", ["ddp", "fsdp2"])
def test_fewer_rows_than_processes_are_on_all_of_them(runs: Runs, distribution: str):
    two = "batch_sizes: {retrieval: 2}"
    run = runs(f"two{distribution}", "--distribution", distribution, processes=3, more=two)
    assert_same_run(run, runs.alone(more=two), runs.start)


@forks
def test_what_the_first_process_cannot_read_stops_both(runs: Runs):
    run = runs("damaged", "--distribution", "ddp", processes=2, texts=0)
    with (run / "model" / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(AssertionError, match="the file is damaged") as found:
        runs("damaged", "--distribution", "ddp", processes=2, texts=0)
    assert str(found.value).count("the first process stopped here") == 1


def of_recipe(more: str = "", *, kind: str = "") -> Any:
    text = RECIPE.format(checkpoint="x", chunk_tokens=70, texts=3, more=more or kind)
    return parse_recipe(text.replace("        task: retrieval\n", ""))


@pytest.mark.parametrize(
    ("distribution", "more", "said"),
    [
        ("fsdp3", "", "none of ddp, fsdp2, zero1, zero2, zero3"),
        ("absent.json", "", "no .json file"),
        ("zero3", LORA, "take 'ddp', or 'fsdp2'"),
        ("fsdp2", "loss: {objective: yes_no, in_batch: false, hard_negatives: own}", "take 'ddp'"),
        ("zero2", "tower_cache_mb: 1\n    freeze: [visual]", "set it to 0"),
        ("fsdp2", "compile: true", "set it to false"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_with_the_alternative(
    distribution: str, more: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=said):
        stages.train(of_recipe(more), output=tmp_path / "run", cpu=True, distribution=distribution)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fields",
    ["[]", "{}", '{"zero_optimization": {"stage": 0}}',
     '{"zero_optimization": {"stage": 2}, "bf16": {"enabled": true}}',
     '{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}'],
)  # fmt: skip
def test_settings_of_deepspeed_that_the_recipe_makes_are_refused(fields: str, tmp_path: Path):
    (tmp_path / "mine.json").write_text(fields)
    with pytest.raises(ConfigError, match=r"mine\.json"):
        check_distribution(str(tmp_path / "mine.json"), of_recipe())


def test_a_launcher_that_wraps_the_model_itself_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="pass --distribution"):
        check_distribution("ddp", of_recipe())


@pytest.mark.parametrize("distribution", ["ddp", "fsdp2", "zero1", "zero2", "zero3"])
def test_one_process_needs_no_backend(distribution: str, caplog: pytest.LogCaptureFixture):
    check_distribution(distribution, of_recipe(LORA))
    check_distribution(distribution, of_recipe("compile: true"))
    assert type(build_backend(distribution, Accelerator(cpu=True))) is Backend
    assert ("it has no effect" in caplog.text) == (distribution != "ddp")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_shipped_settings_are_those_of_their_stage(stage: int):
    assert json.loads(shipped(stage).read_text())["zero_optimization"]["stage"] == stage
    config = pytest.importorskip("deepspeed.runtime.zero.config")
    config.DeepSpeedZeroConfig(**json.loads(shipped(stage).read_text())["zero_optimization"])


def test_a_blank_picture_changes_no_embedding_and_gives_the_tower_no_gradient(
    tiny_checkpoint: Path,
):
    texts = Step(tiny_checkpoint, kinds=("text",)).batch(None).inputs[0]
    encoder, processor = load_encoder(tiny_checkpoint)
    both = encoder(with_last_item(texts, blank_item(encoder)))
    torch.testing.assert_close(both[:-1], encoder(texts), rtol=0, atol=1e-6)
    both[:-1].sum().backward()
    tower = [parameter.grad for parameter in encoder.backbone.tower.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in tower)
    processor.close()
