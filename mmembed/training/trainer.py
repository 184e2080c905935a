"""One stage of training, to be read from top to bottom in `train_stage`.

Batches arrive prepared; `forward` takes them through the model to a loss; what the loop below adds
is the optimizer's step, the records and the checkpoints.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from rich.progress import Progress

from mmembed.config.stage import StageConfig
from mmembed.data.loader import BatchLoader
from mmembed.data.mixture import Mixture
from mmembed.data.sampler import BatchSampler, GlobalBatch
from mmembed.encoder.encoder import Encoder
from mmembed.errors import TrainingDiverged
from mmembed.inputs.processor import Processor
from mmembed.training import distributed, state
from mmembed.training.forward import Batch, batch_loss, collator, hashed_seed
from mmembed.training.metrics import MetricsLog, StepClock
from mmembed.training.objectives import build_objectives
from mmembed.training.optim import Schedule, build_optimizer, freeze_parameters

__all__ = ["StageResult", "train_stage"]

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class StageResult:
    """`folder` is the trained model, or the last checkpoint of an interrupted stage."""

    folder: Path
    steps: int
    interrupted: bool


def train_stage(
    stage: StageConfig,
    encoder: Encoder,
    processor: Processor,
    mixture: Mixture,
    *,
    accelerator: Accelerator,
    folder: Path,
    model_folder: Path,
    fingerprint: str,
    recipe: dict[str, Any],
    seed: int,
    resume_from: Path | None = None,
    progress: Progress | None = None,
    label: str = "training",
    kept_checkpoints: int = 2,
) -> StageResult:
    """Train `encoder` in place and save it as `model_folder`.

    Args:
        folder: for checkpoints and metrics.
        resume_from: a checkpoint of this stage that `encoder` was loaded from.
        fingerprint, recipe: written into checkpoints.
        kept_checkpoints: the newest so many stay.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; no weight was changed by that step.
        InputError: an item cannot be used; names dataset and row.
    """
    sampler = BatchSampler(mixture, stage.batch_size, stage.sampling, batch_sizes=stage.batch_sizes)
    total_steps = _total_steps(stage, sampler)
    freeze_parameters(encoder.backbone.model, stage.freeze)
    objectives = build_objectives(stage, mixture).to(encoder.device)
    optimizer = build_optimizer(encoder, objectives, stage)
    start = state.TrainingState(step=0, epoch=0, batch=0, fingerprint=fingerprint)
    if resume_from is not None:
        start = state.read_state(resume_from)
        state.load_objectives(objectives, resume_from)
        state.load_optimizer(optimizer, encoder, objectives, resume_from)
    schedule = Schedule(optimizer, stage, total_steps=total_steps)
    model, optimizer = accelerator.prepare(encoder.train(), optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    loader: BatchLoader[Batch] = BatchLoader(
        sampler.batches(start.epoch, start.batch),
        mixture,
        collator(encoder, processor, stage),
        num_workers=stage.num_workers,
        cache_bytes=stage.prepared_cache_mb * 2**20,
        rank=distributed.process_rank(),
        world_size=distributed.world_size(),
    )
    autocast = torch.autocast(
        encoder.device.type, dtype=torch.bfloat16, enabled=stage.dtype == "bfloat16"
    )
    loss_of = batch_loss(encoder, stage, mixture, objectives, autocast, seed=seed)
    bar = progress.add_task(label, total=total_steps, completed=start.step) if progress else None

    def save(target: Path, step: int, at: GlobalBatch, *, resumable: bool) -> None:
        distributed.wait_for_all()
        if _is_main():
            state.save_checkpoint(
                target,
                encoder,
                processor,
                objectives,
                state.TrainingState(step, at.epoch, at.number + 1, fingerprint),
                optimizer=optimizer.optimizer if resumable else None,
                recipe=recipe,
            )
            state.remove_older_checkpoints(folder, kept=kept_checkpoints)
        distributed.wait_for_all()

    step, clock, interrupted = start.step, StepClock(), False
    with (
        torch.random.fork_rng(devices=_cuda_devices(encoder)),
        MetricsLog(folder / METRICS_FILE, from_step=start.step, enabled=_is_main()) as log,
        contextlib.closing(loader.__iter__()) as batches,  # ends the preparing threads
        _interrupts() as stop,
    ):
        for at, batch in batches:
            torch.manual_seed(_step_seed(seed, step))
            learning_rate = schedule.set_step(step)
            output, share = loss_of(model, batch, at, step)
            accelerator.backward(output.loss * share)
            distributed.average_gradients(objectives.parameters())
            grad_norm = accelerator.clip_grad_norm_(parameters, stage.max_grad_norm or math.inf)
            finite = math.isfinite(output.loss.item()) and math.isfinite(float(grad_norm))
            if distributed.true_on_any(not finite, encoder.device):  # before any weight changes
                raise TrainingDiverged(
                    step=step + 1,
                    loss=output.loss.item(),
                    grad_norm=float(grad_norm),
                    source=", ".join(batch.sources),
                )
            optimizer.step()
            objectives.temperature.project_()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            clock.add_tokens(batch.num_tokens)
            if bar is not None and progress is not None:
                progress.update(bar, completed=step, loss=f"{output.loss.item():.3f}")
            if step % stage.log_every == 0 or step == total_steps:
                log.write(
                    step=step,
                    epoch=at.epoch,
                    source=", ".join(batch.sources),
                    loss=output.loss.item(),
                    learning_rate=learning_rate,
                    grad_norm=float(grad_norm),
                    temperature=objectives.temperature.values(),
                    **{name: value.item() for name, value in output.metrics.items()},
                    **clock.read(loader.wait_seconds),
                )
            if step >= total_steps:
                break
            interrupted = distributed.true_on_any(stop.is_set(), encoder.device)
            if interrupted or (stage.save_every and step % stage.save_every == 0):
                save(folder / f"step-{step:06d}", step, at, resumable=True)
            if interrupted:
                break
    if interrupted:
        return StageResult(folder / f"step-{step:06d}", step, interrupted=True)
    save(model_folder, step, at, resumable=False)
    return StageResult(model_folder, step, interrupted=False)


def _total_steps(stage: StageConfig, sampler: BatchSampler) -> int:
    if stage.steps is not None:
        return stage.steps
    assert stage.epochs is not None
    whole = int(stage.epochs)
    # Weights draw different rows each epoch, so epochs may differ by a batch.
    steps = sum(len(sampler.epoch_batches(epoch)) for epoch in range(whole))
    rest = stage.epochs - whole
    if rest:
        steps += math.ceil(rest * len(sampler.epoch_batches(whole)))
    return max(1, steps)


def _step_seed(seed: int, step: int) -> int:
    """Of dropout: a function of (seed, step, process), so that there is no state to save."""
    return hashed_seed(f"{seed} {step} {distributed.process_rank()}")


def _cuda_devices(encoder: Encoder) -> list[torch.device]:
    return [encoder.device] if encoder.device.type == "cuda" else []


def _is_main() -> bool:
    return distributed.is_main_process()


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """The first Ctrl-C asks the loop to stop after its step; the second one ends the program."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return
    previous = signal.getsignal(signal.SIGINT)

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
