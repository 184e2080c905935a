"""A batch in chunks has the loss and the gradients of one pass, whatever the loss and the input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmembed.config.lora import LoraConfig
from mmembed.config.recipe import Recipe
from mmembed.errors import ConfigError
from mmembed.inputs.collator import chunk_cost
from mmembed.training import stages
from mmembed.training.metrics import read_metrics
from tests.training import cached_of_two
from tests.training.steps import LOSSES, Step

# Matrix products round by the shape of their operands, with or without a cache, and this random
# model amplifies it.
ROUNDING = 2e-5


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference of a value or of a parameter's gradient."""
    assert found.keys() == expected.keys()
    assert len(found) > 20
    relative = [
        ((found[name].double() - value.double()).norm() / value.double().norm().clamp_min(1e-9))
        for name, value in expected.items()
    ]
    return float(torch.stack(relative).max())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_loss_has_the_gradients_of_one_pass(loss: dict[str, Any], tiny_checkpoint: Path):
    step = Step(tiny_checkpoint, loss)
    whole = step.written_out()
    assert difference(step.ours(), whole) == 0
    cached = step.ours(300)
    assert difference(cached, step.written_out(300)) < 1e-6
    assert difference(cached, whole) < ROUNDING


@pytest.mark.parametrize("chunk_tokens", [1, 177])
@pytest.mark.parametrize("kind", ["text", "image", "video"])
def test_every_kind_of_input_has_the_gradients_of_one_pass(
    kind: str, chunk_tokens: int, tiny_checkpoint: Path
):
    step = Step(tiny_checkpoint, kinds=(kind,), size=3)
    shown = [chunk["pixel_values"] is not None for chunk in step.batch(chunk_tokens).inputs]
    assert any(shown) == (kind != "text")
    cached = step.ours(chunk_tokens)
    assert difference(cached, step.written_out(chunk_tokens)) < 1e-6
    assert difference(cached, step.written_out()) < ROUNDING


@pytest.mark.parametrize("chunk_tokens", [None, 300])
def test_dropout_falls_on_the_same_places_in_the_second_pass(
    chunk_tokens: int | None, tiny_checkpoint: Path
):
    step = Step(tiny_checkpoint, dropout=0.4)
    cached = step.ours(chunk_tokens)
    assert difference(cached, step.written_out(chunk_tokens)) < 1e-6
    calm = Step(tiny_checkpoint).ours(chunk_tokens)
    assert abs(cached["loss"] / calm["loss"] - 1) > 1e-3


def test_adapters_get_the_gradients_of_one_pass_and_nothing_else_gets_any(tiny_checkpoint: Path):
    pytest.importorskip("peft")
    lora = LoraConfig(rank=4, alpha=8, dropout=0.3, vision=True)
    step = Step(tiny_checkpoint, dropout=0.2, lora=lora)
    cached = step.ours(300)
    assert difference(cached, step.written_out(300)) < 1e-6
    weights = [name for name in cached if name.startswith("backbone.")]
    assert weights and all(".lora_" in name for name in weights)


@pytest.mark.parametrize("chunk_tokens", [None, 300])
def test_recomputed_activations_change_nothing(chunk_tokens: int | None, tiny_checkpoint: Path):
    again = Step(tiny_checkpoint, stage={"gradient_checkpointing": True}, dropout=0.4)
    kept = Step(tiny_checkpoint, dropout=0.4).ours(chunk_tokens)
    forwards: list[str] = []
    for name, module in again.encoder.named_modules():
        if name.endswith((".mlp", ".attn", ".self_attn")):
            module.register_forward_pre_hook(lambda *_, name=name: forwards.append(name))
    assert difference(again.ours(chunk_tokens), kept) == 0
    chunks = again.batch(chunk_tokens).inputs
    count = sum(chunk["pixel_values"] is not None for chunk in chunks)
    # each chunk but the first is embedded twice, and the layers of all run again
    expected = len(chunks) + (len(chunks) - 1) + len(chunks)
    tower = [name for name in forwards if name.endswith("visual.blocks.0.mlp")]
    assert len(tower) == count + (count - 1) + count
    assert forwards.count("backbone.model.language_model.layers.0.mlp") == expected
    assert forwards.count("backbone.model.language_model.layers.1.mlp") == expected - len(chunks)


def test_mixed_precision_holds_in_both_passes(tiny_checkpoint: Path):
    step = Step(tiny_checkpoint, stage={"dtype": "bfloat16"})
    assert difference(step.ours(300), step.written_out(300)) < 1e-6


def test_chunks_without_a_trained_part_are_no_obstacle(tiny_checkpoint: Path):
    step = Step(tiny_checkpoint)
    for name, parameter in step.encoder.named_parameters():
        parameter.requires_grad_(".visual." in name)
    assert difference(step.ours(100), step.written_out(100)) < 1e-6


@pytest.mark.parametrize("form", ["full_vocabulary", "two_way"])
def test_a_reranker_adds_up_chunks(form: str, tiny_reranker: Path):
    loss = {"objective": "yes_no", "in_batch": False, "hard_negatives": "own", "yes_no_form": form}
    step = Step(tiny_reranker, loss, size=3)
    whole = step.ours()
    for chunk_tokens in (1, 500):
        assert difference(step.ours(chunk_tokens), whole) < ROUNDING
    with step.memory_of(300) as sizes:
        assert difference(step.ours(), whole) < ROUNDING
    assert len(sizes) > 3


def test_out_of_memory_halves_the_chunks_and_repeats_the_batch(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
):
    step = Step(tiny_checkpoint, dropout=0.4)
    with step.memory_of(300) as sizes:
        found = step.ours()
        messages = [record.getMessage() for record in caplog.records]
        tried = len(sizes)
        again = step.ours()
    assert len(messages) == len(caplog.records), "the smaller budget stays"
    whole = chunk_cost(*step.batch(None).inputs)
    assert messages[0] == (
        f"memory ran out in a chunk of {whole:,} tokens; chunk_tokens is {whole // 2:,} "
        "from here on"
    )
    budget = int(messages[-1].split()[-4].replace(",", ""))
    assert whole // 20 < budget < whole // 3
    assert len(sizes) - tried == 2 * len(step.batch(budget).inputs) - 1
    expected = step.written_out(budget)
    assert difference(found, expected) < 1e-6
    assert difference(again, expected) < 1e-6


def test_out_of_memory_in_the_second_pass_leaves_no_gradients_behind(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
):
    step = Step(tiny_checkpoint)
    almost_whole = chunk_cost(*step.batch(None).inputs) - 1
    with step.memory_of(300, only_with_graph=True):
        found = step.ours(almost_whole)
    assert caplog.records
    assert difference(found, step.written_out()) < ROUNDING


def test_an_item_that_does_not_fit_alone_is_refused(tiny_checkpoint: Path):
    step = Step(tiny_checkpoint)
    with (
        step.memory_of(20),
        pytest.raises(ConfigError, match=r"an item of \d+ tokens .* even alone; lower max_query"),
    ):
        step.ours()


def test_a_recipe_trains_in_chunks_to_the_same_losses(tiny_checkpoint: Path, tmp_path: Path):
    data = {
        "adapter": "tests.training.steps:MixedRows",
        "arguments": {"size": 8, "kinds": ["text"]},
    }
    settings = {"data": [data], "steps": 3, "batch_size": 4, "learning_rate": 1e-3}

    def losses(name: str, **stage: Any) -> list[float]:
        recipe = Recipe.model_validate(
            {"model": {"path": str(tiny_checkpoint)}, "stages": [settings | stage]}
        )
        stages.train(recipe, output=tmp_path / name, cpu=True)
        return [row["loss"] for row in read_metrics(tmp_path / name / "stage1" / "metrics.jsonl")]

    chunked = losses("chunked", chunk_tokens=60, gradient_checkpointing=True)
    assert chunked == pytest.approx(losses("plain"), rel=1e-4)


@pytest.fixture(scope="module")
def two(tiny_checkpoint: Path, tiny_reranker: Path, tmp_path_factory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("processes")
    script = Path(cached_of_two.__file__)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder), str(tiny_checkpoint),
             str(tiny_reranker)],
            cwd=script.parents[2],
            env={"PYTHONPATH": str(script.parents[2]), **cached_of_two.environment(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors.decode()
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("case", cached_of_two.CASES)
def test_two_processes_with_other_numbers_of_chunks_give_the_gradients_of_one(
    case: str, two: list[dict[str, Tensor]], tiny_checkpoint: Path, tiny_reranker: Path
):
    alone = cached_of_two.step(case, tiny_checkpoint, tiny_reranker, rank=None).ours()
    left, right = (cached_of_two.of_case(case, result) for result in two)
    gradients = {
        name for name in alone if name.startswith(("backbone.", "temperature.", "learnt."))
    }
    for result in (left, right):
        for name in gradients:
            error = (result[name] - alone[name]).norm() / alone[name].norm().clamp_min(1e-9)
            assert error < ROUNDING, name
    if "chunk" in case:
        assert bool(left["passes"] == right["passes"]) == ("as many chunks" in case)
