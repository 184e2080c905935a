"""What mteb records about a model: its `ModelMeta`, from any encoder.

The name and the revision are the folder of its results. The revision is cut from the name of the
embedding space, and whatever else changes scores is among the `experiment_kwargs`, which mteb makes
a folder of their own, so that results of two settings never meet (EV-27).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from mmembed.evaluation.mteb_runs.library import load_mteb

__all__ = ["MODALITIES", "model_meta", "model_name"]

MODALITIES = ("text", "image", "video")

_REVISION_DIGITS = 16
_ORGANISATION = "mmembed"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_name(name: str) -> str:
    """`org/model` of a folder, a hub id or a kind of model such as `open_clip:ViT-B-32:openai`."""
    kind, colon, rest = name.partition(":")
    if colon and len(kind) > 1 and "/" not in kind:
        return f"{kind}/{_word('-'.join(rest.split(':')))}"
    if _HUB_ID.fullmatch(name) and not name.startswith("."):
        return name
    return f"{_ORGANISATION}/{_word(PurePath(name).name)}"


def _word(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", PurePath(text).name).strip("-.") or "model"


def model_meta(
    name: str,
    space: str,
    description: Mapping[str, Any],
    *,
    embedding_dimension: int | None,
    prompts: str,
    settings: Mapping[str, Any] | None = None,
    training_datasets: Collection[str] | None = None,
    kind: str = "dense",
) -> Any:
    """A `ModelMeta`. mteb adds it to every result.

    Args:
        description: of the model, see `ItemEncoder.describe`; `modalities`, `num_parameters`,
            `max_tokens` and `numerics` or `dtype` are used where it has them. Without
            `modalities` the model takes text, pictures and clips; mteb refuses other tasks.
        prompts: name of the setting of prompts.
        settings: further ones that change scores.
        training_datasets: names of mteb's tasks whose training data the model saw; None: unknown.
            mteb computes from it how much of a benchmark is zero-shot.
        kind: `dense` or `cross-encoder`.
    """
    meta = load_mteb("mteb.models.model_meta").ModelMeta
    numerics = description.get("numerics") or description.get("dtype")
    given = {
        "prompts": prompts,
        "numerics": numerics and str(numerics).replace(" ", "-"),
        **(settings or {}),
    }
    inputs = description.get("inputs")
    max_tokens = inputs.get("max_tokens") if isinstance(inputs, Mapping) else None
    return meta(
        loader=None,
        name=model_name(name),
        revision=space[:_REVISION_DIGITS],
        release_date=None,
        languages=None,
        n_parameters=description.get("num_parameters"),
        memory_usage_mb=None,
        max_tokens=description.get("max_tokens") or max_tokens,
        embed_dim=embedding_dimension,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name="cosine" if kind == "dense" else None,
        use_instructions=prompts != "none",
        training_datasets=None if training_datasets is None else set(training_datasets),
        modalities=_modalities(description),
        model_type=[kind],
        experiment_kwargs={key: value for key, value in given.items() if value is not None},
    )


def _modalities(description: Mapping[str, Any]) -> list[str]:
    """Of those that our items have; a model may name mixtures, `image+text`."""
    named = description.get("modalities") or MODALITIES
    words = {word for each in named for word in str(each).split("+")}
    return [each for each in MODALITIES if each in words]
