"""Reading the files of a model folder: JSON, picture geometry, tokenizer. Damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mmembed.errors import CheckpointError
from mmembed.inputs.pictures import VisionGeometry
from mmembed.inputs.processor import TokenRange

__all__ = ["read_geometry", "read_json", "read_tokenizer"]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: not valid JSON, or not an object.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds a JSON {type(fields).__name__}, not an object")
    return fields


def read_geometry(folder: Path) -> tuple[VisionGeometry, TokenRange] | None:
    """Geometry and image budget of a Hugging Face folder; None for a text-only model.

    Raises:
        CheckpointError: `preprocessor_config.json` describes another kind of vision tower.
    """
    path = folder / "preprocessor_config.json"
    nested = folder / "processor_config.json"
    if path.is_file():
        fields = read_json(path)
    elif nested.is_file():
        fields = read_json(nested).get("image_processor", {})
    else:
        return None
    try:
        geometry = VisionGeometry(
            patch_size=fields["patch_size"],
            merge_size=fields["merge_size"],
            temporal_patch_size=fields["temporal_patch_size"],
            image_mean=tuple(fields["image_mean"]),
            image_std=tuple(fields["image_std"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder.name}: the image processor settings lack or misstate {error}"
        ) from None
    size = fields.get("size") or {}
    area = geometry.factor**2
    least = fields.get("min_pixels") or size.get("shortest_edge") or 4 * area
    most = fields.get("max_pixels") or size.get("longest_edge") or 1280 * area
    return geometry, TokenRange(min=max(1, least // area), max=max(1, most // area))


def read_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a folder.

    Raises:
        CheckpointError: none there, or a damaged one.
    """
    if (folder / "tokenizer.json").is_file():
        try:
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{folder.name}/tokenizer.json cannot be read: {error}") from None
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not hasattr(loaded, "backend_tokenizer"):
        raise CheckpointError(f"{folder.name} has no fast tokenizer (tokenizer.json)")
    return loaded.backend_tokenizer
