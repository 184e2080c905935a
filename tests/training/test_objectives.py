"""Recipe knobs become losses; what they learn is trained, saved and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmembed.config.objective import LossConfig
from mmembed.config.recipe import Recipe
from mmembed.encoder.checkpoint import load_extra_tensors, save_encoder
from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError
from mmembed.losses.cosent import CoSENT
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.matryoshka import Matryoshka
from mmembed.losses.quantization import QuantizationAware
from mmembed.losses.temperature import Temperature
from mmembed.losses.weighted_sum import WeightedSum
from mmembed.training import stages
from mmembed.training.metrics import read_metrics
from mmembed.training.objectives import Objectives, build_loss

ADAPTER = "tests.training.pairs:ColourPairs"

LOSSES: dict[str, dict[str, Any]] = {
    "everything at once": {
        "query_query": True,
        "document_document": "all",
        "mixed_negatives": {"pair": [2, 2], "list": True},
        "margin_mask": {"margin": 0.1},
        "document_mask": {"threshold": 0.99, "max_masked_fraction": 0.2},
        "hardness": {"alpha": 2.0},
        "focal": {"gamma": 0.5},
        "matryoshka": {"dims": [16, 8], "weights": [1.0, 0.3]},
    },
    "classes": {"in_batch": False, "query_query": True, "same_class": True},
    "own negatives": {"in_batch": False, "hard_negatives": "own"},
    "graded pairs": {"objective": "cosent"},
    "pairs one by one": {"objective": "sigmoid"},
    "a teacher": {"objective": "none", "distillation": {"weight": 1.0, "divergence": "kl"}},
    "contrast and a teacher": {"distillation": {"weight": 0.5, "student_temperature": 0.05}},
    "int8": {"quantization": {"bits": "int8"}, "matryoshka": {"dims": [16]}},
    "binary": {"quantization": {"bits": "binary"}},
}


def recipe(checkpoint: Path, loss: dict[str, Any], **stage: Any) -> Recipe:
    data = {"adapter": ADAPTER, "arguments": {"pictures": False, "hard_negatives": 2, "rich": True}}
    return Recipe.model_validate(
        {
            "model": {"path": str(checkpoint)},
            "stages": [
                {
                    "data": [data],
                    "steps": 4,
                    "batch_size": 6,
                    "learning_rate": 3e-3,
                    "loss": loss,
                    "temperature": {"init": 0.05, "learnable": True},
                    **stage,
                }
            ],
        }
    )


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_objective_trains(loss: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path):
    stages.train(recipe(tiny_checkpoint, loss), output=tmp_path, cpu=True)
    rows = read_metrics(tmp_path / "stage1" / "metrics.jsonl")
    assert len(rows) == 4
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)
    assert all(row["grad_norm"] > 0 for row in rows)


def test_what_a_loss_learns_is_trained_and_saved(tiny_checkpoint: Path, tmp_path: Path):
    for name, key, start in (
        ("int8", "objective.retrieval.loss.step", 0.0),
        ("pairs one by one", "objective.retrieval.bias", -10.0),
    ):
        result = stages.train(
            recipe(tiny_checkpoint, LOSSES[name]), output=tmp_path / name, cpu=True
        )
        assert load_extra_tensors(result.model)[key] != start


@pytest.mark.parametrize("name", ["everything at once", "int8", "pairs one by one"])
def test_an_interrupted_stage_goes_on_exactly(name: str, tiny_checkpoint: Path, tmp_path: Path):
    import shutil

    loss = LOSSES[name]
    straight = stages.train(
        recipe(tiny_checkpoint, loss, save_every=2), output=tmp_path / "a", cpu=True
    )
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "model")
    resumed = stages.train(
        recipe(tiny_checkpoint, loss, save_every=2), output=tmp_path / "b", cpu=True
    )
    for file in ("model.safetensors", "extra.safetensors"):
        if (straight.model / file).is_file():
            assert (straight.model / file).read_bytes() == (resumed.model / file).read_bytes()
    assert (
        read_metrics(tmp_path / "a" / "stage1" / "metrics.jsonl")[-1]["loss"]
        == (read_metrics(tmp_path / "b" / "stage1" / "metrics.jsonl")[-1]["loss"])
    )


def test_the_loss_is_chosen_by_the_task_of_the_batch(tiny_checkpoint: Path, tmp_path: Path):
    two = recipe(
        tiny_checkpoint,
        {},
        losses={"sts": {"objective": "cosent"}},
        data=[
            {
                "adapter": ADAPTER,
                "arguments": {"pictures": False, "rich": True, "task": task},
                "name": task,
            }
            for task in ("retrieval", "sts")
        ],
        steps=8,
    )
    stages.train(two, output=tmp_path, cpu=True)
    rows = read_metrics(tmp_path / "stage1" / "metrics.jsonl")
    for row in rows:
        assert ("spearman" in row) == (row["source"] == "sts")
        assert ("accuracy" in row) == (row["source"] == "retrieval")
    assert {row["source"] for row in rows} == {"sts", "retrieval"}


def test_the_loss_is_chosen_by_the_name_that_data_have(tiny_checkpoint: Path, tmp_path: Path):
    arguments = {"pictures": False, "rich": True}
    named = recipe(
        tiny_checkpoint,
        {},
        losses={"graded": {"objective": "cosent"}},
        data=[
            {"adapter": ADAPTER, "arguments": arguments, "name": "plain"},
            {"adapter": ADAPTER, "arguments": arguments, "name": "by grade", "loss": "graded"},
        ],
        steps=8,
    )
    stages.train(named, output=tmp_path, cpu=True)
    rows = read_metrics(tmp_path / "stage1" / "metrics.jsonl")
    for row in rows:
        assert ("spearman" in row) == (row["source"] == "by grade")
        assert set(row["task_loss"]) == {"graded" if row["source"] == "by grade" else "retrieval"}
    assert {row["source"] for row in rows} == {"plain", "by grade"}


def test_batch_sizes_and_hard_negatives_follow_the_task(tiny_checkpoint: Path, tmp_path: Path):
    asked = recipe(tiny_checkpoint, {"max_hard_negatives": 1}, batch_sizes={"retrieval": 3})
    stages.train(asked, output=tmp_path, cpu=True)
    tokens = [row["loss"] for row in read_metrics(tmp_path / "stage1" / "metrics.jsonl")]
    assert len(tokens) == 4


def test_data_that_cannot_feed_the_loss_is_refused_before_the_first_step(
    tiny_checkpoint: Path, tmp_path: Path
):
    plain = {"adapter": ADAPTER, "arguments": {"pictures": False}}
    with pytest.raises(ConfigError, match="scores"):
        stages.train(
            recipe(tiny_checkpoint, LOSSES["graded pairs"], data=[plain]),
            output=tmp_path,
            cpu=True,
        )
    assert not (tmp_path / "stage1" / "metrics.jsonl").exists()


def test_int8_vectors_use_the_step_that_was_learnt(tiny_checkpoint: Path, tmp_path: Path):
    import numpy as np

    result = stages.train(recipe(tiny_checkpoint, LOSSES["int8"]), output=tmp_path, cpu=True)
    step = load_extra_tensors(result.model)["int8_step"].item()
    with Embedder.from_pretrained(result.model, device="cpu") as embedder:
        exact = embedder.encode(["red", "blue"])
        coarse = embedder.encode(["red", "blue"], precision="int8")
        # a folder saved from the loaded model keeps it
        save_encoder(tmp_path / "again", embedder.encoder, embedder.processor)
    assert load_extra_tensors(tmp_path / "again")["int8_step"].item() == step
    assert step > 0
    np.testing.assert_array_equal(coarse, np.rint(np.clip(exact / step, -127, 127)))
    assert not np.array_equal(coarse, np.rint(exact * 127))


def test_tasks_share_one_quantiser_step():
    first, second = (
        build_loss(LossConfig.model_validate({"quantization": {"bits": "int8"}})) for _ in range(2)
    )
    objectives = Objectives({"retrieval": first, "qa": second}, Temperature(["all"]))
    assert len(objectives.loss_parameters()) == 1


def test_knobs_compose():
    loss = build_loss(LossConfig.model_validate(LOSSES["contrast and a teacher"]))
    assert isinstance(loss, WeightedSum)
    assert [weight for weight, _ in loss.terms] == [1.0, 0.5]
    loss = build_loss(LossConfig.model_validate(LOSSES["int8"]))
    assert isinstance(loss, Matryoshka) and isinstance(loss.loss, QuantizationAware)
    assert isinstance(build_loss(LossConfig(objective="cosent")), CoSENT)
    assert build_loss(LossConfig()) == InfoNCE()
