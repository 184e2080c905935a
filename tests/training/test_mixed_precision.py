"""bfloat16 is for matrix products: what is kept, summed or compared stays float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmembed.training import stages
from mmembed.training.metrics import read_metrics
from tests.training.steps import Step
from tests.training.test_training import ADAPTER, recipe


def test_all_that_is_written_is_float32_and_the_losses_are_close(
    tiny_checkpoint: Path, tmp_path: Path
):
    losses: dict[str, list[float]] = {}
    for dtype in ("float32", "bfloat16"):
        settings = recipe(
            tiny_checkpoint,
            f"stages.0.data.0={{adapter: '{ADAPTER}'}}",
            f"stages.0.dtype={dtype}",
            "stages.0.temperature={init: 0.05, learnable: true}",
            "stages.0.steps=4",
            "stages.0.save_every=3",
        )
        result = stages.train(settings, output=tmp_path / dtype, cpu=True)
        rows = read_metrics(tmp_path / dtype / "stage1" / "metrics.jsonl")
        losses[dtype] = [float(row["loss"]) for row in rows]
        folders = (result.model, tmp_path / dtype / "stage1" / "step-000003")
        files = [file for folder in folders for file in folder.rglob("*.safetensors")]
        assert {"model.safetensors", "optimizer.safetensors"} <= {file.name for file in files}
        tensors = [tensor for file in files for tensor in load_file(file).values()]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert losses["bfloat16"][-1] < losses["bfloat16"][0]


def test_states_embeddings_loss_and_gradients_are_float32(tiny_checkpoint: Path):
    step = Step(tiny_checkpoint, stage={"dtype": "bfloat16"})
    found: dict[str, set[torch.dtype]] = {}

    def note(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            e = arguments[0]
            values = [e.queries, e.documents, output.loss] if name == "loss" else [e, output]
            tensors = [value for value in values if isinstance(value, Tensor)]
            found.setdefault(name, set()).update(tensor.dtype for tensor in tensors)
            assert name != "loss" or not torch.is_autocast_enabled("cpu")

        module.register_forward_hook(hook)

    backbone = step.encoder.backbone
    note("matrix product", backbone.layers[0].mlp.down_proj)
    note("last norm", backbone.language_model.norm)
    note("embeddings", step.encoder)
    note("loss", step.objectives)
    values = step.ours(300)
    assert torch.bfloat16 in found.pop("matrix product")
    assert found == {name: {torch.float32} for name in ("last norm", "embeddings", "loss")}
    assert {value.dtype for value in values.values()} == {torch.float32}
    assert {parameter.dtype for parameter in step.encoder.parameters()} == {torch.float32}
