"""An open_clip model by architecture and weights, from safetensors only.

open_clip itself would unpickle what it finds; here a weights file ends in `.safetensors`, and of a
pretrained tag the safetensors file of its hub repository is taken or nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from mmembed.config.validation import did_you_mean
from mmembed.errors import CheckpointError, MissingDependencyError

__all__ = ["RANDOM", "OpenClipCheckpoint", "load_checkpoint"]

RANDOM = "random"
_SEED = 0
_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# What a tag says about pictures; weights of the same architecture may differ in it.
_PICTURE_KEYS = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class OpenClipCheckpoint:
    """A loaded model with what its library made for it.

    Attributes:
        preprocess: a `PIL.Image` -> (3, height, width) float32.
        tokenizer: texts -> (N, context length) ids.
        pictures: size, mean, interpolation, ... of `preprocess`.
    """

    architecture: str
    weights: str
    model: Any
    preprocess: Any
    tokenizer: Any
    pictures: dict[str, Any]
    config: dict[str, Any]
    input_dtype: torch.dtype

    @cached_property
    def sha256(self) -> str:
        """Of all tensors, the configuration, the pictures' settings and the library's version."""
        settings = [version("open_clip_torch"), self.config, self.pictures]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=list).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()


def load_checkpoint(
    architecture: str, weights: str | None, *, device: torch.device, dtype: torch.dtype
) -> OpenClipCheckpoint:
    """A model in eval mode.

    Args:
        weights: a tag of open_clip, a `.safetensors` file, or `random` (seeded, for tests).

    Raises:
        CheckpointError: unknown architecture, weights that are missing, unsafe or of another
            model, or a tokenizer that cannot be had.
        MissingDependencyError: open_clip is not installed.
    """
    try:
        import open_clip
    except ImportError:
        raise MissingDependencyError("open_clip_torch", "evaluation") from None
    known = open_clip.list_models()
    if architecture not in known:
        guess = did_you_mean(architecture, known)
        raise CheckpointError(
            f"open_clip has no architecture {architecture!r}{guess}; open_clip.list_models() has "
            f"the {len(known)} that it knows"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    found = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    file, settings = _weights(architecture, weights, dict(zip(tags, found, strict=True)))
    config: dict[str, Any] = open_clip.get_model_config(architecture)
    if settings.get("quick_gelu"):
        config["quick_gelu"] = True
    try:
        # text towers of other libraries draw their weights from the global generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model = open_clip.create_model(
                architecture,
                None if file is None else str(file),
                precision=_PRECISIONS[dtype],
                device=device,
                force_quick_gelu=bool(settings.get("quick_gelu")),
                force_preprocess_cfg={
                    key: settings[key] for key in _PICTURE_KEYS if settings.get(key) is not None
                },
                pretrained_text=False,
            )
        tokenizer = open_clip.get_tokenizer(architecture)
    except (OSError, RuntimeError, ValueError, KeyError, ImportError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"open_clip:{architecture}:{weights} cannot be loaded: {lines[0][:300]}"
        ) from error
    pictures = dict(model.visual.preprocess_cfg)
    return OpenClipCheckpoint(
        architecture=architecture,
        weights=str(weights),
        model=model.eval().requires_grad_(False),
        preprocess=_preprocess(pictures),
        tokenizer=tokenizer,
        pictures=pictures,
        config=config,
        input_dtype=dtype,
    )


def _weights(
    architecture: str, weights: str | None, tags: dict[str, dict[str, Any]]
) -> tuple[Path | None, dict[str, Any]]:
    """The file, None for random weights, and the settings that belong to it."""
    allowed = (
        f"a .safetensors file, {RANDOM!r}, or a tag of {architecture}: {', '.join(tags) or 'none'}"
    )
    if not weights:
        raise CheckpointError(f"open_clip:{architecture} names no weights; add {allowed}")
    settings = [{key: tag.get(key) for key in _PICTURE_KEYS} for tag in tags.values()]
    agreed = settings[0] if settings and all(one == settings[0] for one in settings) else {}
    if weights == RANDOM:
        return None, agreed
    if weights in tags:
        return _downloaded(architecture, weights, tags[weights]["hf_hub"]), tags[weights]
    path = Path(weights)
    if path.suffix == ".safetensors" and path.is_file():
        return path, agreed
    problem = (
        f"{weights} is no safetensors file, and other formats can run code when they are opened; "
        "convert it"
        if path.is_file()
        else f"{weights!r} is neither a file nor a tag{did_you_mean(weights, [*tags, RANDOM])}"
    )
    raise CheckpointError(f"open_clip:{architecture}: {problem}. Give {allowed}")


def _downloaded(architecture: str, tag: str, place: str) -> Path:
    """The safetensors file of a tag; `place` is `owner/name/` or `owner/name/file`."""
    from huggingface_hub import hf_hub_download

    repository, _, name = place.rpartition("/")
    safe = f"{Path(name).stem}.safetensors" if name else "open_clip_model.safetensors"
    try:
        return Path(hf_hub_download(repository, safe))
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"open_clip:{architecture}:{tag} needs {safe} of {repository}, which could not be "
            f"downloaded ({type(error).__name__}); check the network, or download it and give the "
            "file's path"
        ) from error


def _preprocess(pictures: dict[str, Any]) -> Any:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**pictures), is_train=False)
