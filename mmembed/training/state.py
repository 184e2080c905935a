"""What is in a checkpoint: a model folder, the optimizer's state, and the place in the data.

A checkpoint is loadable like any other model folder. Safetensors and JSON only. How it comes to be
whole or not there, and which ones are kept, is the business of `step_folders`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmembed.encoder.checkpoint import INT8_STEP, load_extra_tensors, save_encoder
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.lora import adapted_layers, save_adapter
from mmembed.errors import CheckpointError, ConfigError
from mmembed.inputs.processor import Processor
from mmembed.training import distributed
from mmembed.training.backends import Backend, first_has
from mmembed.training.objectives import Objectives
from mmembed.training.step_folders import TRAINING_FOLDER, TrainingState, new_checkpoint

__all__ = [
    "ADAPTER_FOLDER",
    "load_objectives",
    "load_optimizer",
    "objective_tensors",
    "on_first",
    "optimizer_tensors",
    "save_checkpoint",
    "save_from_all",
]

ADAPTER_FOLDER = "adapter"  # low-rank updates apart; the weights beside it have them added
_OPTIMIZER_FILE = "optimizer.safetensors"
_THETA = "temperature.theta."
_LEARNT = "objective."
_FAILED = -2


def on_first(action: Callable[[], int | None], device: torch.device, where: Path) -> int | None:
    """`action` by the first process; called by all together, and all get its number (from 0 up).

    Raises:
        Exception: whatever `action` raises, on the first process.
        ConfigError: on the others then, naming `where`.
    """
    number, error = None, None
    if distributed.is_main_process():
        try:
            number = action()
        except Exception as caught:  # the others wait for an answer
            error = caught
    found = -1 if number is None else number
    found = distributed.number_of_main(_FAILED if error is not None else found, device)
    if error is not None:
        raise error
    if found == _FAILED:
        raise ConfigError(f"{where}: the first process stopped here; its message says why")
    return None if found < 0 else found


def save_from_all(
    folder: Path,
    encoder: Encoder,
    processor: Processor,
    objectives: Objectives,
    state: TrainingState,
    *,
    optimizer: torch.optim.Optimizer | None,
    recipe: dict[str, Any],
    backend: Backend,
) -> None:
    """`save_checkpoint` by the first process; called by all processes together.

    What is cut over the processes is gathered before one of them writes, so a checkpoint does not
    tell how many there were.

    Raises:
        OSError: it could not be written; the other processes raise, too.
    """
    weights = backend.gathered_weights(encoder.backbone.model)
    moments: torch.optim.Optimizer | Mapping[str, Tensor] | None = optimizer
    if weights is not None and optimizer is not None:
        moments = optimizer_tensors(optimizer, encoder, objectives)

    def save() -> None:
        save_checkpoint(
            folder,
            encoder,
            processor,
            objectives,
            state,
            optimizer=moments,
            recipe=recipe,
            weights=weights,
        )

    on_first(save, encoder.device, folder)


def save_checkpoint(
    folder: Path,
    encoder: Encoder,
    processor: Processor,
    objectives: Objectives,
    state: TrainingState,
    *,
    optimizer: torch.optim.Optimizer | Mapping[str, Tensor] | None,
    recipe: dict[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a model folder with its manifest; with `optimizer`, one that training can continue.

    Args:
        optimizer: or the `optimizer_tensors` of one.
        weights: of the backbone, where `encoder` has only its part of them.

    Raises:
        OSError: the disk is full, ...; nothing is left under the final name.
    """
    with new_checkpoint(folder, state) as aside:
        save_encoder(
            aside,
            encoder,
            processor,
            recipe=recipe,
            extra_tensors=objective_tensors(objectives),
            weights=weights,
        )
        if adapted_layers(encoder.backbone.model):
            save_adapter(aside / ADAPTER_FOLDER, encoder, weights=weights)
        if optimizer is not None:
            tensors = (
                dict(optimizer)
                if isinstance(optimizer, Mapping)
                else optimizer_tensors(optimizer, encoder, objectives)
            )
            (aside / TRAINING_FOLDER).mkdir()
            save_file(tensors, aside / TRAINING_FOLDER / _OPTIMIZER_FILE)
    return folder


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
    """The optimizer's state as `parameter name / state name` -> tensor.

    Where it is cut over the processes, all of them call this, and the first one gets it.
    """
    return {
        f"{name}/{key}": first_has(distributed.whole(value)).contiguous()
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
    for name, value in load_file(folder / TRAINING_FOLDER / _OPTIMIZER_FILE).items():
        parameter_name, _, key = name.rpartition("/")
        if parameter_name not in parameters:
            raise CheckpointError(f"{folder}: optimizer state of unknown {parameter_name!r}")
        parameter = parameters[parameter_name]
        optimizer.state[parameter][key] = distributed.sharded_like(value, parameter)


def _named(model: nn.Module, objectives: Objectives) -> list[tuple[str, nn.Parameter]]:
    return [
        *((f"model.{name}", parameter) for name, parameter in model.named_parameters()),
        *objectives.named_parameters(),
    ]
