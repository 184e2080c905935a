"""Load and save self-describing model folders.

A model folder is a Hugging Face checkpoint (safetensors, tokenizer, processor settings) plus
`mmembed.json`: prompt, budgets, positions, pooling, head, recipe, versions and the fingerprint of
its embedding space. A plain Hugging Face checkpoint loads too, with the defaults of `InputConfig`
and `EncoderConfig`. What is saved also loads in sentence-transformers, where that can express it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmembed.encoder.backbone import Backbone, load_backbone, read_config, takes_pictures
from mmembed.encoder.encoder import Encoder, EncoderConfig
from mmembed.encoder.heap import keep_freed_memory
from mmembed.encoder.identity import EXTRA_TENSORS_FILE, fingerprint, package_versions
from mmembed.encoder.linear import use_faster_linears
from mmembed.encoder.lora import merged_weights
from mmembed.encoder.model_files import (
    SIDE_FILES,
    default_inputs,
    read_json,
    read_tokenizer,
    with_budget,
)
from mmembed.encoder.sentence_transformers_layout import layout_files, layout_problem
from mmembed.errors import CheckpointError, ConfigError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.processor import InputConfig, Processor
from mmembed.inputs.prompt import pair_templates
from mmembed.inputs.sandbox import MediaDecoder

__all__ = [
    "DESCRIPTION_FILE",
    "INT8_STEP",
    "load_encoder",
    "load_extra_tensors",
    "load_parts",
    "quiet_transformers",
    "read_description",
    "read_settings",
    "resolve_folder",
    "save_encoder",
    "write_description",
]

logger = logging.getLogger(__name__)

INT8_STEP = "int8_step"  # a learnt tensor of a model folder, beside thetas
DESCRIPTION_FILE = "mmembed.json"
_FORMAT = 1
Config = TypeVar("Config", bound=EncoderConfig)


def resolve_folder(path_or_hub_id: str | Path, *, revision: str | None = None) -> Path:
    """A local folder: the given one, or a snapshot of a model on the Hugging Face Hub.

    Raises:
        CheckpointError: neither an existing folder nor a hub id, or the hub cannot be reached.
    """
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    name = str(path_or_hub_id)
    looks_like_path = isinstance(path_or_hub_id, Path) or name.startswith((".", "/", "~"))
    if looks_like_path or name.count("/") != 1:
        raise CheckpointError(
            f"{name!r} is not a folder; give an existing model folder or a hub id 'owner/name'"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"],
            )
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{name!r} is not a local folder and could not be downloaded "
            f"({type(error).__name__}); check the name, the network and your access"
        ) from error


def read_description(folder: Path) -> dict[str, Any]:
    """The parsed `mmembed.json` of a folder; empty for a plain Hugging Face checkpoint.

    Raises:
        CheckpointError: the file is broken or was written by a newer format.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        return {}
    fields = read_json(path)
    if fields.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} has format {fields.get('format')}; this version of mmembed reads format "
            f"{_FORMAT}"
        )
    for name in ("inputs", "encoder"):
        if not isinstance(fields.get(name, {}), dict):
            raise CheckpointError(f"{path}: {name!r} is not an object")
    return fields


def read_settings(
    folder: Path,
    config_class: type[Config],
    *,
    inputs: Mapping[str, Any] | None = None,
    encoder: Mapping[str, Any] | None = None,
    any_kind: bool = False,
) -> tuple[InputConfig, Config]:
    """What a folder says of itself, without its weights; arguments and errors of `load_parts`."""
    description = read_description(folder)
    kind = description.get("kind", "embedder") if description else config_class.kind
    if any_kind and kind != config_class.kind:
        description = {**description, "encoder": {}}
    elif kind != config_class.kind:
        raise CheckpointError(
            f"{folder.name} is a model of kind {kind!r}, not {config_class.kind!r}; "
            f"load it as {'Reranker' if kind == 'reranker' else 'Embedder'}"
        )
    plain = default_inputs(folder, takes_pictures(read_config(folder)))
    input_fields = {**plain, **description.get("inputs", {}), **(inputs or {})}
    encoder_fields = {**description.get("encoder", {}), **(encoder or {})}
    try:
        input_config = InputConfig(**input_fields)
        encoder_config = config_class(**encoder_fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise ConfigError(
            f"{folder.name}/{DESCRIPTION_FILE} or its overrides: {problems}"
        ) from None
    if input_config.prompt.is_pair != (config_class.kind == "reranker"):
        raise ConfigError(
            f"the prompt {input_config.prompt.name!r} does not fit {folder.name}, loaded as "
            f"{config_class.kind}: a reranker needs one with {{query}} and {{document}} (shipped: "
            f"{', '.join(pair_templates())}), an embedder one with {{content}}"
        )
    return input_config, encoder_config


def load_encoder(
    path: str | Path, *, device: str | torch.device = "cpu", **options: Any
) -> tuple[Encoder, Processor]:
    """Load a model folder (or hub id) as an encoder in eval mode and its processor.

    `options` and errors are those of `load_parts`.
    """
    backbone, config, processor = load_parts(path, EncoderConfig, **options)
    encoder = Encoder(backbone, config).to(device).eval()
    keep_freed_memory(encoder.device)
    use_faster_linears(encoder)
    step = load_extra_tensors(resolve_folder(path)).get(INT8_STEP)
    encoder.int8_step = None if step is None else step.item()
    return encoder, processor


def load_parts(
    path: str | Path,
    config_class: type[Config],
    *,
    dtype: torch.dtype | None = None,
    media: MediaPolicy | MediaDecoder | None = None,
    num_workers: int = 1,
    inputs: Mapping[str, Any] | None = None,
    encoder: Mapping[str, Any] | None = None,
    any_kind: bool = False,
    **processor_options: Any,
) -> tuple[Backbone, Config, Processor]:
    """What an encoder or a reranker is made of, from a model folder or hub id.

    Args:
        config_class: says which of the two; a folder that describes the other one is refused.
        dtype: of the weights; None means float32.
        inputs, encoder: fields of `InputConfig` / `config_class` that replace the folder's.
        any_kind: training may start from a folder of the other kind, whose readout is then
            forgotten.

    Raises:
        CheckpointError, ConfigError: see `read_description` and `load_backbone`.
    """
    folder = resolve_folder(path)
    input_config, encoder_config = read_settings(
        folder, config_class, inputs=inputs, encoder=encoder, any_kind=any_kind
    )
    with quiet_transformers():
        backbone = load_backbone(folder, input_config.geometry, dtype=dtype or torch.float32)
    if encoder_config.truncate_dim and encoder_config.truncate_dim > backbone.hidden_size:
        raise ConfigError(
            f"truncate_dim is {encoder_config.truncate_dim}; this model has "
            f"{backbone.hidden_size} dimensions"
        )
    if backbone.sliding_window and input_config.max_tokens > backbone.sliding_window:
        raise ConfigError(
            f"max_tokens is {input_config.max_tokens:,}; layers of this model see "
            f"{backbone.sliding_window:,} tokens at a time (sliding_window), and longer items are "
            f"not supported. Load it with inputs={{'max_tokens': {backbone.sliding_window}}}"
        )
    processor = Processor(
        read_tokenizer(folder),
        input_config,
        clip_format=backbone.clip_format,
        media=media,
        num_workers=num_workers,
        **processor_options,
    )
    found = tuple(processor.pad_ids.values())
    expected = (backbone.image_token_id, backbone.video_token_id)
    if found and found != expected:
        raise CheckpointError(
            f"{folder.name}: the tokenizer's picture tokens are {found}, config.json says "
            f"{expected}; they belong to different models"
        )
    processor.side_files = {
        name: (folder / name).read_bytes() for name in SIDE_FILES if (folder / name).is_file()
    }
    return backbone, encoder_config, processor


def save_encoder(
    folder: str | Path,
    encoder: Encoder,
    processor: Processor,
    *,
    recipe: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, Tensor] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model folder, all or nothing: aside first, then renamed into place.

    `extra_tensors` (learned temperatures, ...) go into a file of their own. LoRA adapters are
    added to the weights that are written; `encoder` keeps them apart. `weights` is the state dict
    of the transformers model, where `encoder` has only a part of it.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex[:8]}")
    aside.mkdir()
    try:
        # standard output is for results; deepspeed, which this imports where installed, logs there
        with quiet_transformers(), redirect_stdout(sys.stderr):
            model = encoder.backbone.model
            model.save_pretrained(aside, state_dict=merged_weights(model, weights))
        for name, content in processor.side_files.items():
            (aside / name).write_bytes(with_budget(name, content, processor.config))
        _write_layout(aside, encoder, processor.config)
        extra = dict(extra_tensors or {})
        if encoder.int8_step is not None:
            extra.setdefault(INT8_STEP, torch.tensor(encoder.int8_step))
        if extra:
            tensors = {k: v.detach().cpu().contiguous() for k, v in extra.items()}
            save_file(tensors, aside / EXTRA_TENSORS_FILE)
        write_description(
            aside,
            processor.config,
            encoder.config,
            embedding_dimension=encoder.embedding_dimension,
            recipe=recipe,
        )
        _sync(aside)
        _replace_folder(aside, folder)
    finally:
        if aside.exists():
            shutil.rmtree(aside)


def write_description(
    folder: Path,
    inputs: InputConfig,
    encoder: EncoderConfig,
    *,
    embedding_dimension: int,
    recipe: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """Write `mmembed.json` beside the finished files of a checkpoint; `more` are further keys."""
    description = {
        "format": _FORMAT,
        "kind": encoder.kind,
        "inputs": inputs.model_dump(mode="json"),
        "encoder": encoder.model_dump(mode="json"),
        "embedding_dimension": embedding_dimension,
        "fingerprint": fingerprint(folder, inputs, encoder),
        "recipe": dict(recipe) if recipe else None,
        "versions": package_versions(),
        **more,
    }
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")


def load_extra_tensors(folder: Path) -> dict[str, Tensor]:
    """The `extra_tensors` a folder was saved with; empty when there are none."""
    path = folder / EXTRA_TENSORS_FILE
    return load_file(path) if path.is_file() else {}


def _write_layout(folder: Path, encoder: Encoder, inputs: InputConfig) -> None:
    problem = layout_problem(inputs, encoder.config)
    if problem:
        level = logging.WARNING if encoder.config.kind == "embedder" else logging.INFO
        _say_once(level, f"not written for sentence-transformers: {problem}")
        return
    for name, text in layout_files(inputs, encoder.config, encoder.backbone.hidden_size).items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")


@functools.cache
def _say_once(level: int, message: str) -> None:
    """A run saves many folders for one reason."""
    logger.log(level, message)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _replace_folder(aside: Path, folder: Path) -> None:
    """Rename `aside` to `folder`; an earlier model folder there is removed last."""
    if not folder.exists():
        aside.rename(folder)
        return
    if any(folder.iterdir()) and not (folder / DESCRIPTION_FILE).is_file():
        raise CheckpointError(
            f"{folder} exists and is not an mmembed model folder; choose another folder"
        )
    old = folder.with_name(f".{folder.name}.old-{uuid.uuid4().hex[:8]}")
    folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of transformers inside ours; the user's setting is restored."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
