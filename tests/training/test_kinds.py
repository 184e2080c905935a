"""Beside an embedder with all its weights: low-rank adapters, and a reranker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmembed.config.recipe import Recipe
from mmembed.encoder.checkpoint import load_encoder
from mmembed.encoder.lora import load_adapter, merge_lora
from mmembed.encoder.reranker import Reranker
from mmembed.errors import ConfigError
from mmembed.training.metrics import read_metrics
from mmembed.training.stages import TrainResult, train
from tests.training.pairs import COLOURS

ADAPTER = "tests.training.pairs:ColourPairs"


def recipe(checkpoint: Path, model: dict[str, Any] | None = None, **stage: Any) -> Recipe:
    data = {"adapter": ADAPTER, "arguments": {"pictures": False, "hard_negatives": 5}}
    settings = {"data": [data], "steps": 4, "batch_size": 6, "learning_rate": 3e-3, **stage}
    return Recipe.model_validate(
        {"model": {"path": str(checkpoint), **(model or {})}, "stages": [settings]}
    )


def run(settings: Recipe, output: Path) -> TrainResult:
    return train(settings, output=output, cpu=True)


LORA = {"rank": 4, "alpha": 8, "dropout": 0.1, "vision": True}


def test_only_the_adapter_changes_and_the_model_folder_holds_the_sum(
    tiny_checkpoint: Path, tmp_path: Path
):
    result = run(recipe(tiny_checkpoint, lora=LORA), tmp_path)
    encoder, _ = load_encoder(tiny_checkpoint)
    load_adapter(encoder, result.model / "adapter")
    merge_lora(encoder)
    merged, before = load_file(result.model / "model.safetensors"), load_encoder(tiny_checkpoint)[0]
    for name, tensor in encoder.backbone.model.state_dict().items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-6, rtol=0)
    plain = before.backbone.model.state_dict()
    changed = {name for name in merged if not torch.equal(merged[name], plain[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed), changed
    assert not (result.model / "adapter_config.json").exists()  # transformers would apply it twice


def test_an_interrupted_adapter_goes_on_exactly(tiny_checkpoint: Path, tmp_path: Path):
    settings = recipe(tiny_checkpoint, lora=LORA, save_every=2)
    straight = run(settings, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "model")
    resumed = run(settings, tmp_path / "b")
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (straight.model / file).read_bytes() == (resumed.model / file).read_bytes()


RERANKER = {
    "model": {"max_tokens": 512},
    "loss": {"objective": "yes_no", "in_batch": False, "hard_negatives": "own"},
    "steps": 80,
    "learning_rate": 2e-3,
}


@pytest.mark.parametrize("form", ["full_vocabulary", "two_way"])
def test_a_reranker_learns_to_answer(form: str, tiny_reranker: Path, tmp_path: Path):
    loss = RERANKER["loss"] | {"yes_no_form": form}
    result = run(recipe(tiny_reranker, **(RERANKER | {"loss": loss})), tmp_path)
    rows = read_metrics(tmp_path / "stage1" / "metrics.jsonl")
    assert sum(row["loss"] for row in rows[-3:]) < 0.7 * sum(row["loss"] for row in rows[:3])
    names = list(COLOURS)
    documents = [f"the colour {name}" for name in names]
    with Reranker.from_pretrained(result.model, device="cpu") as reranker:
        first = [reranker.rank(f"{name} 1", documents)[0]["corpus_id"] for name in names]
    assert sum(names[best] == name for best, name in zip(first, names, strict=True)) >= 4


def test_an_interrupted_reranker_goes_on_exactly(tiny_reranker: Path, tmp_path: Path):
    settings = recipe(tiny_reranker, **(RERANKER | {"steps": 4, "save_every": 2}))
    straight = run(settings, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "model")
    resumed = run(settings, tmp_path / "b")
    file = "model.safetensors"
    assert (straight.model / file).read_bytes() == (resumed.model / file).read_bytes()


def test_a_recipe_trains_one_kind_of_model(tiny_checkpoint: Path):
    with pytest.raises(ValueError, match="trains a reranker and the others an embedder"):
        recipe(tiny_checkpoint, losses={"sts": {"objective": "yes_no"}})


def test_a_reranker_needs_a_prompt_of_pairs(tiny_checkpoint: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="a reranker needs one with"):
        run(recipe(tiny_checkpoint, loss=RERANKER["loss"]), tmp_path)
