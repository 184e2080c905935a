"""Checkpoints: folders that are complete or not there. Safetensors and JSON only.

A checkpoint is a model folder, loadable like any other, plus the optimizer's state and the place in
the data. It is written beside its final name, every file is flushed to disk, a manifest with the
checksum of each file is added, and then the folder is renamed; a crash leaves either the whole
checkpoint or a folder that no reader looks at.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmembed.encoder.checkpoint import INT8_STEP, load_extra_tensors, save_encoder
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.lora import adapted_layers, save_adapter
from mmembed.errors import CheckpointError
from mmembed.inputs.processor import Processor
from mmembed.training.objectives import Objectives

__all__ = [
    "ADAPTER_FOLDER",
    "TrainingState",
    "checkpoints",
    "latest_checkpoint",
    "load_objectives",
    "load_optimizer",
    "objective_tensors",
    "optimizer_tensors",
    "read_manifest",
    "read_state",
    "remove_older_checkpoints",
    "save_checkpoint",
]

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
ADAPTER_FOLDER = "adapter"  # low-rank updates apart; the weights beside it have them added
_STATE_FILE = "training_state.json"
_OPTIMIZER_FILE = "optimizer.safetensors"
_THETA = "temperature.theta."
_LEARNT = "objective."
_STEP_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class TrainingState:
    """Where a stage stands. Randomness is a function of seeds and these numbers.

    Args:
        step: optimizer steps done.
        epoch, batch: the next global batch.
        fingerprint: of the settings; a checkpoint continues only the run it came from.
    """

    step: int
    epoch: int
    batch: int
    fingerprint: str


def save_checkpoint(
    folder: Path,
    encoder: Encoder,
    processor: Processor,
    objectives: Objectives,
    state: TrainingState,
    *,
    optimizer: torch.optim.Optimizer | None,
    recipe: dict[str, Any],
) -> Path:
    """Write a model folder with its manifest; with `optimizer`, one that training can continue.

    Raises:
        OSError: the disk is full, ...; nothing is left under the final name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        save_encoder(
            aside,
            encoder,
            processor,
            recipe=recipe,
            extra_tensors=objective_tensors(objectives),
        )
        if adapted_layers(encoder.backbone.model):
            save_adapter(aside / ADAPTER_FOLDER, encoder)
        if optimizer is not None:
            tensors = optimizer_tensors(optimizer, encoder, objectives)
            (aside / "training").mkdir()
            save_file(tensors, aside / "training" / _OPTIMIZER_FILE)
        _write_json(aside / _STATE_FILE, asdict(state))
        _commit(aside, folder, state)
    finally:
        if aside.exists():
            shutil.rmtree(aside)
    return folder


def _commit(aside: Path, folder: Path, state: TrainingState) -> None:
    files = {}
    for path in sorted(path for path in aside.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(aside).as_posix()] = {
            "sha256": digest,
            "bytes": path.stat().st_size,
        }
    _write_json(aside / MANIFEST_FILE, {"fingerprint": state.fingerprint, "files": files})
    for path in (aside, *(path for path in aside.rglob("*") if path.is_dir())):
        _sync_folder(path)
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)
    _sync_folder(folder.parent)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint after comparing every file with it.

    Raises:
        CheckpointError: naming the first file that is missing or differs.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} has no readable {MANIFEST_FILE} ({type(error).__name__}); "
            "it is not a complete checkpoint"
        ) from None
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder} lacks {name}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise CheckpointError(f"{path} differs from its checksum; the file is damaged")
    return manifest


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest intact checkpoint of a stage folder; damaged ones are named and passed over."""
    for _, path in sorted(_step_folders(folder), reverse=True):
        try:
            read_manifest(path)
        except CheckpointError as error:
            logger.warning("checkpoint passed over: %s", error)
            continue
        return path
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a stage folder in the order of their steps."""
    return [path for _, path in sorted(_step_folders(folder))]


def remove_older_checkpoints(folder: Path, *, kept: int) -> None:
    """Keep the newest `kept`; called after a new one has been committed."""
    for path in checkpoints(folder)[:-kept]:
        shutil.rmtree(path)


def read_state(folder: Path) -> TrainingState:
    """The place in the data at which a checkpoint was written."""
    return TrainingState(**json.loads((folder / _STATE_FILE).read_text(encoding="utf-8")))


# -- tensors ----------------------------------------------------------------------------------


def objective_tensors(objectives: Objectives) -> dict[str, Tensor]:
    """theta of each task, and what the losses learn, under their names in a model folder."""
    thetas = objectives.temperature.named_theta()
    learnt = objectives.learnt.state_dict()
    tensors = {_THETA + name: theta for name, theta in thetas.items()} | {
        _LEARNT + name: value.detach().clone() for name, value in learnt.items()
    }
    step = objectives.quantizer_step
    return tensors if step is None else tensors | {INT8_STEP: step.detach().abs().clone()}


def load_objectives(objectives: Objectives, folder: Path) -> None:
    """Take over what a model folder was saved with; what it lacks keeps its first value."""
    tensors = load_extra_tensors(folder)
    objectives.temperature.load_theta(
        {name.removeprefix(_THETA): value for name, value in tensors.items() if _THETA in name}
    )
    own = objectives.learnt.state_dict()
    stored = {name: tensors[_LEARNT + name] for name in own if _LEARNT + name in tensors}
    objectives.learnt.load_state_dict(own | stored)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, objectives: Objectives
) -> dict[str, Tensor]:
    """The optimizer's state as `parameter name / state name` -> tensor."""
    return {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in _named(model, objectives)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, objectives: Objectives, folder: Path
) -> None:
    """Restore what `save_checkpoint` stored.

    Raises:
        CheckpointError: state of a parameter that the model does not have.
    """
    parameters = dict(_named(model, objectives))
    for name, value in load_file(folder / "training" / _OPTIMIZER_FILE).items():
        parameter_name, _, key = name.rpartition("/")
        if parameter_name not in parameters:
            raise CheckpointError(f"{folder}: optimizer state of unknown {parameter_name!r}")
        parameter = parameters[parameter_name]
        optimizer.state[parameter][key] = value.to(parameter.device)


def _named(model: nn.Module, objectives: Objectives) -> list[tuple[str, nn.Parameter]]:
    return [
        *((f"model.{name}", parameter) for name, parameter in model.named_parameters()),
        *objectives.named_parameters(),
    ]


def _step_folders(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _STEP_FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match.group(1)), path))
    return found


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there, and renames need no flush
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
