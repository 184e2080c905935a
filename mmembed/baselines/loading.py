"""From the name of a model to an encoder of items: ours, or one of another library.

First step of an evaluation: `load_model` gives every model the one interface of `item_encoder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.config.validation import did_you_mean
from mmembed.encoder.checkpoint import read_description, resolve_folder
from mmembed.encoder.embedder import Embedder
from mmembed.errors import CheckpointError
from mmembed.inputs.prompt import load_template

__all__ = ["KINDS", "load_model"]

# What stands before the colon -> how the rest is written.
KINDS = {
    "open_clip": "open_clip:ARCHITECTURE, open_clip:ARCHITECTURE:TAG, "
    "open_clip:ARCHITECTURE:weights.safetensors or open_clip:ARCHITECTURE:random",
    "sentence-transformers": "sentence-transformers:FOLDER",
    "endpoint": "endpoint:URL#MODEL or endpoint:URL#MODEL#VARIABLE (which holds the key)",
}


def load_model(
    spec: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    profile_template: str | None = None,
    num_workers: int | None = None,
) -> ItemEncoder:
    """An encoder of items by name; `close` it when done.

    Args:
        spec: a model folder or hub id of ours, or one of `KINDS`. An existing folder is never
            taken for anything else.
        device: default: CUDA when there is one, else the CPU.
        dtype: `float32`, `bfloat16` or `float16`; default: bfloat16 on CUDA, float32 elsewhere.
        profile_template: name of the prompt template for a plain checkpoint. A folder that has
            settings of its own keeps the template that it was trained with, and models of other
            libraries have none.
        num_workers: processes that decode media; default: cores, at most 8.

    Raises:
        CheckpointError: no such model, or one that is not loaded safely; allowed names.
        ConfigError: an unknown device, dtype or template.
        MissingDependencyError: the library of another model, with the extra that has it.
    """
    name = str(spec)
    kind, colon, rest = name.partition(":")
    if not colon or Path(name).is_dir():
        return _ours(name, device, dtype, profile_template, num_workers)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "num_workers": num_workers}
    if kind == "open_clip":
        from mmembed.baselines.open_clip import OpenClip

        architecture, _, weights = rest.partition(":")
        return OpenClip(architecture, weights or None, **options)
    if kind == "sentence-transformers":
        from mmembed.baselines.sentence_transformers import SentenceTransformersModel

        return SentenceTransformersModel(rest, **options)
    if kind == "endpoint":
        from mmembed.baselines.endpoint import EndpointModel

        return EndpointModel(rest)
    raise CheckpointError(
        f"model {name!r}: {kind!r} is no kind of model{did_you_mean(kind, KINDS)}; give a model "
        f"folder, a hub id 'owner/name', or: {'; '.join(KINDS.values())}"
    )


def _ours(
    name: str,
    device: str | None,
    dtype: str | None,
    profile_template: str | None,
    num_workers: int | None,
) -> ItemEncoder:
    from mmembed.baselines.our_model import OurModel

    folder = resolve_folder(name)
    options: dict[str, Any] = {}
    has_prompt = "prompt" in read_description(folder).get("inputs", {})
    if profile_template is not None and not has_prompt:
        options["inputs"] = {"prompt": load_template(profile_template)}
    embedder = Embedder.from_pretrained(
        folder, device=device, dtype=dtype, num_workers=num_workers, **options
    )
    return OurModel(embedder, name=name)
