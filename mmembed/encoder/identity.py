"""Which model is this: the fingerprint of an embedding space, and the versions behind numbers."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mmembed.encoder.attention import attention_kernel
from mmembed.encoder.backbone import Backbone
from mmembed.encoder.encoder import EncoderConfig
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.processor import InputConfig

__all__ = ["EXTRA_TENSORS_FILE", "files_state", "fingerprint", "numerics", "package_versions"]

# Tensors beside the model (learned temperatures, ...): no part of the embedding space.
EXTRA_TENSORS_FILE = "mmembed_extra.safetensors"


def fingerprint(
    folder: Path,
    inputs: InputConfig,
    encoder: EncoderConfig,
    media: MediaPolicy | None = None,
    *,
    allow_special_tokens: bool = False,
) -> str:
    """64 hex digits that name an embedding space.

    A hash of everything that decides a vector: weights, architecture, tokenizer, prompt, budgets,
    positions, pooling and head, and those choices of `media` that are not the defaults and change
    pixels (video reader, page resolution, background). Not of the folder's name, nor of dtype,
    device or batch size, which move a vector only within rounding.
    """
    digest = hashlib.sha256(b"mmembed embedding space 1\0")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"):
        config.pop(key, None)
    settings = {
        "config": config,
        "inputs": inputs.model_dump(
            mode="json", exclude={"prompts": True, "prompt": {"note", "name"}}
        ),
        "encoder": encoder.model_dump(mode="json"),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    chosen = _pixel_choices(media or MediaPolicy())
    if allow_special_tokens:
        chosen["allow_special_tokens"] = True
    if chosen:
        digest.update(json.dumps(chosen, sort_keys=True).encode())
    for path in _files(folder):
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0")
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def files_state(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and date of the files that `fingerprint` reads; changes when one is written."""
    told = ((path.name, path.stat()) for path in [folder / "config.json", *_files(folder)])
    return [(name, status.st_size, status.st_mtime_ns) for name, status in told]


def _files(folder: Path) -> list[Path]:
    """Tokenizer and weights."""
    weights = sorted(folder.glob("*.safetensors"))
    tokenizer = [folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")]
    if tokenizer[0].is_file():
        tokenizer = tokenizer[:1]  # the others repeat it
    found = [*tokenizer, *(path for path in weights if path.name != EXTRA_TENSORS_FILE)]
    return [path for path in found if path.is_file()]


def _pixel_choices(media: MediaPolicy) -> dict[str, Any]:
    """The settings that change decoded pixels, where they differ from the defaults."""
    default = MediaPolicy()
    names = ("video_reader", "page_dpi", "background", "max_frames", "scaled_jpeg")
    return {
        name: getattr(media, name)
        for name in names
        if getattr(media, name) != getattr(default, name)
    }


def numerics(backbone: Backbone) -> str:
    """What moves a vector within rounding: kind of device, dtype, attention kernel.

    `cpu float32 sdpa`, `cuda bfloat16 varlen`; under autocast its dtype.
    """
    kind, dtype = backbone.device.type, backbone.model.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return f"{kind} {str(dtype).removeprefix('torch.')} {attention_kernel(kind, dtype)}"


def package_versions() -> dict[str, str]:
    """Versions of what decides numbers, for provenance."""
    found = {"python": platform.python_version()}
    for name in ("mmembed", "torch", "transformers", "tokenizers", "pillow", "av", "pymupdf"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
