"""The files of a model folder beside its weights: JSON, picture geometry, tokenizer.

Damage is named.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from mmembed.errors import CheckpointError
from mmembed.inputs.pictures import VisionGeometry
from mmembed.inputs.processor import InputConfig, TokenRange

__all__ = [
    "SIDE_FILES",
    "default_inputs",
    "read_geometry",
    "read_json",
    "read_tokenizer",
    "with_budget",
]

SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)


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


def default_inputs(folder: Path, pictures: bool) -> dict[str, Any]:
    """For a plain checkpoint: its geometry, and our budgets within the processor's limits."""
    if not pictures:
        return {"geometry": None}
    found = read_geometry(folder)
    if found is None:
        raise CheckpointError(
            f"{folder.name} has a vision tower and no preprocessor_config.json; copy or download "
            "the folder again"
        )
    geometry, limits = found
    ranges = {}
    for name in ("image_tokens", "frame_tokens", "page_tokens"):
        default: TokenRange = InputConfig.model_fields[name].default
        ranges[name] = TokenRange(
            min=min(default.min, limits.max), max=min(default.max, limits.max)
        )
    return {"geometry": geometry, **ranges}


def with_budget(
    name: Literal["preprocessor_config.json"] | str, content: bytes, inputs: InputConfig
) -> bytes:
    """The processor settings with our image budget, so that other libraries resize alike."""
    if inputs.geometry is None or name not in ("preprocessor_config.json", "processor_config.json"):
        return content
    fields = json.loads(content)
    target = fields if name == "preprocessor_config.json" else fields.get("image_processor")
    if target is None:
        return content
    area = inputs.geometry.factor**2
    least, most = inputs.image_tokens.min * area, inputs.image_tokens.max * area
    target["size"] = {"shortest_edge": least, "longest_edge": most}
    for key, value in (("min_pixels", least), ("max_pixels", most)):
        if key in target:
            target[key] = value
    return (json.dumps(fields, indent=2) + "\n").encode()
