"""How a model is spread over processes: one class for each way, from the same recipe.

`ddp`: every process holds everything. `fsdp2`: parameters, gradients and optimizer state are cut
over the processes. `zero1`, `zero2`, `zero3`: DeepSpeed cuts the optimizer state, then also the
gradients, then also the parameters; see `zero`. None of them changes what is computed, so a run may
be continued with another one, or with another number of processes. One process needs none.

FSDP2 is torch's `fully_shard`, which is what accelerate's plugin calls: that is to be had on GPUs
only, and this can be tested without.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import get_int_from_env
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mmembed.config.files import config_folders
from mmembed.config.recipe import Recipe
from mmembed.config.stage import StageConfig
from mmembed.encoder.encoder import Encoder
from mmembed.errors import ConfigError
from mmembed.training import distributed
from mmembed.training.blank_item import blank_item
from mmembed.training.objectives import Objectives
from mmembed.training.optim import build_optimizer

__all__ = [
    "DISTRIBUTIONS",
    "Backend",
    "Sharded",
    "build_backend",
    "check_distribution",
    "clip_factor",
    "first_has",
]

logger = logging.getLogger(__name__)

DISTRIBUTIONS = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
# Any launcher's; accelerate reads the same.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# What starts accelerate's own versions of the above, which would wrap the model a second time.
_OTHERS = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")


class Backend:
    """One process, or DistributedDataParallel; and what the other ways replace.

    Attributes:
        equal_chunks: all processes must run as many forward passes, and see pictures in the same
            ones.
        rests: a parameter that a step does not use may be left without gradient.
    """

    equal_chunks = False
    rests = True

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def loading_device(self) -> torch.device:
        """Where the whole model is loaded; `prepare` puts it, or a part of it, on `device`."""
        return self.device

    def prepare(
        self, encoder: Encoder, objectives: Objectives, stage: StageConfig
    ) -> tuple[nn.Module, Any]:
        """What embeds with gradients that are averaged over processes, and its optimizer."""
        optimizer = build_optimizer(encoder, objectives, stage)
        model, prepared = self.accelerator.prepare(encoder, optimizer)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model.device_ids = None  # it would move all inputs; the encoder moves what it needs
        return model, prepared

    def no_sync(self, model: nn.Module) -> AbstractContextManager[object]:
        """Gradients of backward passes in it stay here until the first one outside."""
        context: AbstractContextManager[object] = self.accelerator.no_sync(model)
        return context

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip_gradients(self, optimizer: Any, max_norm: float) -> float:
        """Scale all gradients to a norm of at most `max_norm`; returns the norm before."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return float(self.accelerator.clip_grad_norm_(parameters, max_norm))

    def gathered_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The state dict of `model`, whole and on the CPU; None: `model` has it already.

        Called by all processes; those but the first get empty tensors.
        """
        return None

    def free(self) -> None:
        """Forget what was prepared."""
        self.accelerator.free_memory()


class Sharded(Backend):
    """FSDP2: each layer of the towers gathers its parameters when it runs.

    Gradients are exchanged after every chunk: kept until the last one, they would be whole, and
    larger than all that is saved. Each process loads the whole model into main memory, and its part
    of each layer goes to its device.

    With `dtype: bfloat16`, autograd keeps autocast's bfloat16 copy of each weight of a chunk that
    has a graph, which is half the memory of the whole model in float32; `gradient_checkpointing`
    leaves those of a layer or two.
    """

    equal_chunks = True

    @property
    def loading_device(self) -> torch.device:
        return torch.device("cpu")

    def prepare(
        self, encoder: Encoder, objectives: Objectives, stage: StageConfig
    ) -> tuple[nn.Module, Any]:
        modules = encoder.backbone.model.modules()
        layers = [module for module in modules if isinstance(module, GradientCheckpointingLayer)]
        distributed.shard(layers, encoder, self.device)
        # the first pass makes the buffers; made while a held-out pool is embedded, in inference
        # mode, they could not be trained with
        with torch.no_grad():
            encoder(blank_item(encoder))
        return encoder, build_optimizer(encoder, objectives, stage)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[object]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_gradients(self, optimizer: Any, max_norm: float) -> float:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        cut: list[Tensor] = []
        whole: list[Tensor] = []
        for gradient in gradients:
            part = distributed.local_part(gradient)
            (whole if part is gradient else cut).append(part)
        squares = distributed.sum_of(_square(cut, self.device)) + _square(whole, self.device)
        norm = math.sqrt(squares.item()) if squares.isfinite() else math.nan
        if math.isfinite(norm):
            for part in (*cut, *whole):
                part.mul_(clip_factor(norm, max_norm))
        return norm

    def gathered_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        return {name: first_has(distributed.whole(t)) for name, t in model.state_dict().items()}


def _square(tensors: list[Tensor], device: torch.device) -> Tensor:
    """The squared norm of all of them."""
    if not tensors:
        return torch.zeros((), device=device)
    return torch.nn.utils.get_total_norm(tensors).square()


def clip_factor(norm: float, max_norm: float) -> float:
    """As `clip_grad_norm_` scales."""
    return min(1.0, max_norm / (norm + 1e-6))


def first_has(tensor: Tensor) -> Tensor:
    """`tensor` on the CPU for the first process, nothing for others."""
    if not distributed.is_main_process():
        return tensor.new_empty(0, device="cpu")
    return tensor.detach().to("cpu", copy=True)


def check_distribution(distribution: str, recipe: Recipe) -> None:
    """Refuse what cannot work with several processes, before any data is read.

    One process is not told of what only several cannot do: see `build_backend`.

    Args:
        distribution: one of `DISTRIBUTIONS`, or a file of DeepSpeed's settings.

    Raises:
        ConfigError: naming the setting and what to take instead.
    """
    foreign = [name for name in _OTHERS if os.environ.get(name, "").lower() == "true"]
    if foreign:
        raise ConfigError(
            f"{foreign[0]} is set, which `accelerate launch` does for its --use_... options; leave "
            "them away and pass --distribution to mmembed train"
        )
    settings = _deepspeed_settings(distribution)
    if distribution == "ddp" or get_int_from_env(_WORLD_SIZES, 1) <= 1:
        return
    named = f"distribution {distribution!r}"
    if recipe.kind == "reranker":
        raise ConfigError(
            f"{named}: a reranker reads its head outside the model's forward pass, where the head "
            "is not whole; take 'ddp'"
        )
    for index, stage in enumerate(recipe.stages):
        where = f"stages.{index}"
        if settings is not None and stage.lora.rank is not None:
            raise ConfigError(
                f"{where}.lora with {named}: DeepSpeed's optimizer is not tested with low-rank "
                "updates; take 'ddp', or 'fsdp2' where the frozen weights do not fit"
            )
        if stage.tower_cache_mb:
            raise ConfigError(
                f"{where}.tower_cache_mb with {named}: the tower runs on all processes or on none, "
                "and caches differ; set it to 0, or take 'ddp'"
            )
        if stage.compile:
            raise ConfigError(
                f"{where}.compile with {named} is not tested; set it to false, or take 'ddp'"
            )


def build_backend(distribution: str, accelerator: Accelerator) -> Backend:
    """The way that `distribution` names; for one process always the plain one.

    Raises:
        ConfigError: an unknown name or an unusable file; DeepSpeed would take another device.
        MissingDependencyError: DeepSpeed is asked for and not installed.
    """
    settings = _deepspeed_settings(distribution)
    if distributed.world_size() == 1:
        if distribution != "ddp":
            logger.warning(
                "distribution %r cuts a model over several processes, and this is one: it has no "
                "effect; start more with mmembed launch or torchrun",
                distribution,
            )
        return Backend(accelerator)
    if settings is not None:
        from mmembed.training.zero import Zero

        return Zero(accelerator, settings)
    return Sharded(accelerator) if distribution == "fsdp2" else Backend(accelerator)


def _deepspeed_settings(distribution: str) -> Mapping[str, Any] | None:
    """What a name or a file says; None for what is not DeepSpeed's."""
    if distribution in ("ddp", "fsdp2"):
        return None
    path = Path(distribution)
    if distribution in DISTRIBUTIONS:
        path = next(
            found
            for folder in config_folders()
            if (found := folder / "deepspeed" / f"{distribution}.json").is_file()
        )
    elif path.suffix != ".json" or not path.is_file():
        raise ConfigError(
            f"distribution {distribution!r} is none of {', '.join(DISTRIBUTIONS)} and no .json "
            "file of DeepSpeed's settings"
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        stage = settings["zero_optimization"]["stage"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: no settings of DeepSpeed with zero_optimization.stage "
            f"({type(error).__name__}: {error})"
        ) from None
    ours = {"zero_optimization", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}
    logs = {"steps_per_print", "wall_clock_breakdown", "comms_logger", "communication_data_type"}
    foreign = sorted(settings.keys() - ours - logs)
    offload = [name for name in settings["zero_optimization"] if name.startswith("offload")]
    if stage not in (1, 2, 3) or foreign or offload:
        raise ConfigError(
            f"{path}: stage must be 1, 2 or 3, found {stage!r}; and the recipe or this program "
            f"sets what else there is: remove {', '.join([*foreign, *offload]) or 'nothing'}"
        )
    checked: Mapping[str, Any] = settings
    return checked
