"""One stage of training, to be read from top to bottom in `train_stage`.

Batches arrive prepared; `forward` takes them through the model to a loss; what the loop below adds
is the optimizer's step, the records and the checkpoints.
"""

from __future__ import annotations

import contextlib
import math
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from mmembed.config.stage import StageConfig
from mmembed.data.bad_rows import BadRows
from mmembed.data.loader import BatchLoader
from mmembed.data.mixture import Mixture
from mmembed.data.sampler import BatchSampler, GlobalBatch
from mmembed.encoder.encoder import Encoder
from mmembed.errors import TrainingDiverged
from mmembed.inputs.processor import Processor
from mmembed.training import distributed, state
from mmembed.training.backends import Backend
from mmembed.training.cores import cores_left_by
from mmembed.training.forward import Batch, batch_gradients, collator, hashed_seed
from mmembed.training.heldout import HeldOut
from mmembed.training.interrupts import stop_requests
from mmembed.training.metrics import MetricsLog, Mirror, StepClock, numbers, peak_memory_bytes
from mmembed.training.objectives import build_objectives
from mmembed.training.observation import CollapseAlarm
from mmembed.training.optim import Schedule, freeze_parameters
from mmembed.training.progress import StageLine
from mmembed.training.run_files import METRICS_FILE
from mmembed.training.step_folders import (
    TrainingState,
    checkpoint_folder,
    read_state,
    remove_older_checkpoints,
)

__all__ = ["StageResult", "count_steps", "train_stage"]

SKIPPED_FILE = "skipped.jsonl"


@dataclass(frozen=True)
class StageResult:
    """`folder` is the trained model, or the last checkpoint of a stage that a signal stopped."""

    folder: Path
    steps: int
    stopped_by: int | None = None


def train_stage(
    stage: StageConfig,
    encoder: Encoder,
    processor: Processor,
    mixture: Mixture,
    *,
    backend: Backend,
    folder: Path,
    model_folder: Path,
    fingerprint: str,
    sources: dict[str, str],
    recipe: dict[str, Any],
    seed: int,
    resume_from: Path | None = None,
    progress: Progress | None = None,
    label: str = "training",
    kept_checkpoints: int = 2,
    mirror: Mirror | None = None,
) -> StageResult:
    """Train `encoder` in place and save it as `model_folder`.

    Args:
        backend: spreads the model over the processes.
        folder: for checkpoints and metrics.
        resume_from: a checkpoint of this stage that `encoder` was loaded from.
        fingerprint, sources, recipe: written into checkpoints.
        kept_checkpoints: the newest so many stay.
        mirror: gets every row of the metrics, too.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; no weight was changed by that step.
        InputError: an item cannot be used; names dataset and row.
        ConfigError: see `backend.prepare` and `HeldOut`.
    """
    sampler = BatchSampler(mixture, stage.batch_size, stage.sampling, batch_sizes=stage.batch_sizes)
    total_steps = count_steps(stage, sampler)
    start = TrainingState(step=0, epoch=0, batch=0, fingerprint=fingerprint)
    if resume_from is not None:
        start = read_state(resume_from)
    freeze_parameters(encoder.backbone.model, stage.freeze)
    if stage.gradient_checkpointing:
        encoder.backbone.recompute_activations()
    if stage.tower_cache_mb:
        encoder.backbone.keep_features(stage.tower_cache_mb * 2**20)
    if stage.compile:
        encoder.backbone.compile_layers()
    objectives = build_objectives(stage, mixture).to(backend.device)
    if resume_from is not None:
        state.load_objectives(objectives, resume_from)
    model, optimizer = backend.prepare(encoder.train(), objectives, stage)
    if resume_from is not None:
        state.load_optimizer(optimizer, encoder, objectives, resume_from)
    schedule = Schedule(optimizer, stage, total_steps=total_steps)
    bad_rows = None
    if stage.on_bad_row == "skip":
        bad_rows = BadRows(
            sampler,
            folder / SKIPPED_FILE,
            max_fraction=stage.max_bad_fraction,
            is_main=_is_main(),
            exchange=lambda lines: distributed.joined(lines, encoder.device),
        )
    loader: BatchLoader[Batch] = BatchLoader(
        sampler.batches(start.epoch, start.batch),
        mixture,
        collator(encoder, processor, stage),
        num_workers=stage.num_workers,
        cache_bytes=stage.prepared_cache_mb * 2**20,
        ahead_bytes=stage.prepared_ahead_mb * 2**20,
        bad_rows=bad_rows,
        rank=distributed.process_rank(),
        world_size=distributed.world_size(),
    )
    gradients = batch_gradients(
        encoder,
        stage,
        mixture,
        objectives,
        backend,
        seed=seed,
        equal_chunks=backend.equal_chunks,
        always_blank=not backend.rests,
    )
    held_out = HeldOut(
        stage,
        encoder,
        processor,
        folder=folder,
        seed=seed,
        total_steps=total_steps,
        equal_chunks=backend.equal_chunks,
    )
    line = StageLine(progress, label, total=total_steps, completed=start.step)
    alarm = CollapseAlarm(label, from_step=math.ceil(stage.warmup_ratio * total_steps))

    def save(target: Path, step: int, at: GlobalBatch, *, resumable: bool) -> None:
        score = held_out.score_at(step)
        state.save_from_all(
            target,
            encoder,
            processor,
            objectives,
            TrainingState(step, at.epoch, at.number + 1, fingerprint, sources, score),
            optimizer=optimizer if resumable else None,
            recipe=recipe,
            backend=backend,
        )
        state.on_first(
            lambda: remove_older_checkpoints(folder, kept=kept_checkpoints, every=stage.save_every),
            encoder.device,
            folder,
        )

    step, stopped = start.step, False
    clock = StepClock(num_processes=distributed.world_size())
    with (
        torch.random.fork_rng(devices=_cuda_devices(encoder)),
        cores_left_by(stage.num_workers, encoder.device),
        MetricsLog(
            folder / METRICS_FILE, from_step=start.step, enabled=_is_main(), mirror=mirror
        ) as log,
        contextlib.closing(loader.__iter__()) as batches,  # ends the preparing threads
        stop_requests() as stop,
    ):
        if step == 0 and held_out.due(0):
            log.write(step=0, **held_out.evaluate(0))
        for at, batch in batches:
            objectives.observing = logged = _is_due(step + 1, stage.log_every, total_steps)
            torch.manual_seed(_step_seed(seed, step))
            learning_rate = schedule.set_step(step)
            output = gradients(model, batch, at, step)
            distributed.average_gradients(objectives.parameters())
            grad_norm = backend.clip_gradients(optimizer, stage.max_grad_norm or math.inf)
            finite = math.isfinite(output.loss.item()) and math.isfinite(grad_norm)
            if distributed.true_on_any(not finite, encoder.device):  # before any weight changes
                raise TrainingDiverged(
                    step=step + 1,
                    loss=output.loss.item(),
                    grad_norm=grad_norm,
                    rows=mixture.named_rows(at.rows),
                )
            optimizer.step()
            objectives.temperature.project_()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            loss = output.loss.item()
            clock.count(batch.num_tokens, len(at.rows), mixture.loss(at.group), loss)
            if logged:
                measured = numbers(output.metrics)
                row = log.write(
                    step=step,
                    epoch=at.epoch,
                    source=", ".join(batch.sources),
                    skipped_rows=loader.skipped_rows,
                    loss=loss,
                    learning_rate=learning_rate,
                    grad_norm=grad_norm,
                    temperature=objectives.temperature.values(),
                    **measured,
                    collapsed=alarm(step, measured),
                    **clock.read(loader.wait_seconds),
                    peak_memory_bytes=peak_memory_bytes(encoder.device),
                )
            line.show(step, loss, row if logged else None)
            if held_out.due(step):
                with clock.paused():
                    log.write(step=step, **held_out.evaluate(step))
            stopped = distributed.true_on_any(bool(stop), encoder.device)
            if stopped or step >= total_steps:
                break
            if (stage.save_every and step % stage.save_every == 0) or held_out.is_best_at(step):
                with clock.paused():
                    save(checkpoint_folder(folder, step), step, at, resumable=True)
        done = step >= total_steps
        target = model_folder if done else checkpoint_folder(folder, step)
        if not (done and held_out.publish_best(model_folder)):
            save(target, step, at, resumable=not done)
        stopped = distributed.true_on_any(bool(stop), encoder.device)
    return StageResult(target, step, (stop.signal or signal.SIGTERM) if stopped else None)


def _is_due(step: int, every: int, total_steps: int) -> bool:
    return step % every == 0 or step == total_steps


def count_steps(stage: StageConfig, sampler: BatchSampler) -> int:
    """Optimizer steps of a stage."""
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
