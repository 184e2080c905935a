"""What a stage starts from: the model folder, its parts to train, the recipe's settings over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmembed.config.recipe import ModelConfig, Recipe
from mmembed.config.stage import StageConfig
from mmembed.encoder.checkpoint import load_encoder, resolve_folder
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.reranker_model import load_reranker
from mmembed.errors import CheckpointError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.processor import Processor
from mmembed.inputs.prompt import load_template

__all__ = ["load_model", "model_overrides", "start_model"]


def start_model(model: ModelConfig) -> Path:
    """The folder that the first stage starts from.

    Raises:
        CheckpointError: there is none, and it cannot be downloaded.
    """
    try:
        return resolve_folder(model.path, revision=model.revision)
    except CheckpointError as error:
        hint = "the tiny recipes start from quickstart/untrained, which `mmembed quickstart` writes"
        raise CheckpointError(f"model.path: {error} ({hint})") from error


def load_model(
    recipe: Recipe,
    stage: StageConfig,
    source: Path,
    *,
    device: torch.device,
    media: MediaPolicy | None,
    any_kind: bool,
    overridden: bool,
) -> tuple[Encoder, Processor]:
    """What a stage trains, in eval mode and without adapters; float32 as the optimizer needs it.

    Args:
        any_kind: see `load_parts`.
        overridden: the recipe's settings replace those of the folder.
    """
    load: Callable[..., tuple[Encoder, Processor]] = (
        load_reranker if recipe.kind == "reranker" else load_encoder
    )
    return load(
        source,
        device=device,
        dtype=torch.float32,
        media=media,
        num_workers=max(1, stage.num_workers),
        any_kind=any_kind,
        **(model_overrides(recipe.model) if overridden else {}),
    )


def model_overrides(model: ModelConfig) -> dict[str, dict[str, Any]]:
    """The settings of the recipe that replace those of the model folder."""
    inputs: dict[str, Any] = {
        "prompt": None if model.prompt is None else load_template(model.prompt),
        "prompts": model.prompts,
        "position_ids": model.position_ids,
        "image_tokens": _bounds(model.image_tokens),
        "frame_tokens": _bounds(model.frame_tokens),
        "page_tokens": _bounds(model.page_tokens),
        "num_frames": model.num_frames,
        "max_tokens": model.max_tokens,
    }
    yes, no = model.answers or (None, None)
    encoder = {"pooling": model.pooling, "attention": model.attention, "yes": yes, "no": no}
    return {
        "inputs": {name: value for name, value in inputs.items() if value is not None},
        "encoder": {name: value for name, value in encoder.items() if value is not None},
    }


def _bounds(bounds: Any) -> dict[str, int] | None:
    return None if bounds is None else bounds.model_dump()
