"""What a recipe will take, measured before it runs: memory, chunk size, time and disk.

Each stage is measured with the recipe's start model; later models have its shapes. A few rows of
each group of the mixture say what its batches cost. The largest batch runs first, in growing parts;
memory is a line, which a step of its own checks. Then rows of each group are timed. Nothing is
written. The arithmetic is in `forecast`.

On a CPU, memory that allocators keep of larger steps counts for later ones: there, gradient
checkpointing, which is measured last, looks less useful than it is.

All of one process. Left out: searches of `evaluation`, saving, `compile` and `tower_cache_mb`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Literal

import torch
from accelerate import Accelerator

from mmembed.config.recipe import Recipe
from mmembed.config.stage import StageConfig
from mmembed.data.conformance import check_recipe
from mmembed.data.sampler import GlobalBatch
from mmembed.errors import CheckpointError, ConfigError, InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.training import distributed
from mmembed.training.cores import cores_left_by, num_cores
from mmembed.training.forecast import (
    HEADROOM,
    Check,
    MemoryLine,
    Plan,
    Setting,
    StagePlan,
    Times,
    best_of,
    byte_text,
    disk_bytes,
    seconds_per_step,
    settings_of,
)
from mmembed.training.grad_cache import DoesNotFit
from mmembed.training.memory import available_bytes
from mmembed.training.micro_steps import (
    MicroStep,
    PreparedRows,
    Workbench,
    num_passes,
    stored_weight_bytes,
)
from mmembed.training.planned import Planned, planned_runs
from mmembed.training.stages import stage_runs
from mmembed.training.start import start_model

__all__ = ["plan"]

PATIENCE_SECONDS = 10.0  # for one micro-step, and for preparing the largest batch
TIMED_SECONDS = 30.0  # for all groups of a stage
TIMED_STEPS = 3  # of each group, while there is time
SAMPLE_ROWS = 128  # of each group
LARGEST_OF = 3  # planned batches of the most expensive group
CROWDED = 0.9  # cores that a step keeps busy on a CPU, below which it has waited for one
GROWTH = 4  # of the cost, from one part of the largest batch to the next

Report = Callable[[str], None]


def plan(
    recipe: Recipe,
    *,
    memory_bytes: int | None = None,
    media: MediaPolicy | None = None,
    cpu: bool = False,
    report: Report = lambda message: None,
) -> Plan:
    """Measure the stages of a recipe on this machine.

    Args:
        memory_bytes: what training may take; None = what is free, and what this process has.
        media, cpu: see `train`.
        report: gets a line before each part of the work.

    Raises:
        ConfigError: names the stage: its data or its model cannot be used, or it fits into the
            memory in no way.
        TrainingDiverged: the first loss or gradient is not finite.
    """
    check_recipe(recipe)
    accelerator = Accelerator(cpu=cpu)
    if distributed.world_size() > 1:
        raise ConfigError("a plan is made by one process; start it without a launcher")
    device = accelerator.device
    if memory_bytes is None:
        memory_bytes = available_bytes(device)
    alike: dict[str, list[tuple[str, StageConfig]]] = defaultdict(list)
    for index, name, stage in stage_runs(recipe):
        settings = stage.model_dump_json(exclude={"name", "seed", "steps", "epochs"})
        alike[f"{index} {settings}"].append((name, stage))
    stages = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for runs in alike.values():
            report(f"{runs[0][0]}: reading the data")
            with _naming(runs[0][0]):
                planned = planned_runs(recipe, runs)
                measurement = _Measurement(
                    recipe, planned, accelerator, memory_bytes, media, report
                )
                try:
                    with cores_left_by(planned.stage.num_workers, device):
                        stages.append(measurement.plan())
                finally:
                    measurement.bench.close()
            del measurement  # its memory must not count for the next
    return Plan(recipe.name, str(device), memory_bytes, disk_bytes(recipe, stages), tuple(stages))


class _Measurement:
    """Of one stage. Its parts in order: `plan`."""

    def __init__(
        self,
        recipe: Recipe,
        planned: Planned,
        accelerator: Accelerator,
        memory_bytes: int,
        media: MediaPolicy | None,
        report: Report,
    ) -> None:
        self.planned, self.stage = planned, planned.stage
        self.memory_bytes = memory_bytes
        self.report = lambda message: report(f"{planned.name}: {message}")
        weights = stored_weight_bytes(start_model(recipe.model))
        if weights > memory_bytes:
            raise self._too_little(f"the weights alone take {byte_text(weights)}")
        self.bench = Workbench(
            recipe,
            planned.stage,
            planned.mixture,
            accelerator,
            media=media,
            seed=planned.seed,
            total_steps=planned.steps[planned.name],
        )

    def plan(self) -> StagePlan:
        bench, stage = self.bench, self.stage
        self.report(f"reading rows of {', '.join(self.planned.batches)}")
        samples = {name: self._sample(found) for name, found in self.planned.batches.items()}
        largest = self._largest(samples)
        longest = max(max(rows.longest) for rows in (*samples.values(), largest))
        data_bytes = self._data_bytes(samples)
        self.rest_bytes = bench.meter.begin() + 3 * bench.trained_bytes
        if self.rest_bytes > HEADROOM * self.memory_bytes:
            raise self._too_little(
                f"weights, gradients and the optimizer's state take {byte_text(self.rest_bytes)}"
            )
        lines: dict[bool, MemoryLine] = {}

        def settings() -> tuple[Setting, ...]:
            return settings_of(
                stage,
                lines,
                cost=round(largest.cost),
                longest=longest,
                memory_bytes=self.memory_bytes,
                data_bytes=0 if bench.encoder.device.type == "cuda" else data_bytes,
            )

        def best() -> Setting | None:
            return best_of(settings(), stage.gradient_checkpointing)

        timed = None
        for recomputed in (False, True):
            if recomputed:
                bench.recompute()
            self.report(f"largest batch, {'with' if recomputed else 'no'} gradient checkpointing")
            due = timed is None and (recomputed or not stage.gradient_checkpointing)
            try:
                line = lines[recomputed] = self._line(largest)
                if due and (chosen := best()) is not None:
                    check = self._check(line, largest, chosen)
                    lines[recomputed] = line.raised_to(check)
                    if (chosen := best()) is not None:
                        self.report(f"timing {', '.join(samples)}")
                        timed = check, self._timed(samples, chosen)
            except DoesNotFit:
                lines.pop(recomputed, None)
        chosen = best()
        if chosen is None or timed is None:
            takes = "does not fit"
            if True in lines:
                takes = f"takes {byte_text(lines[True].peak(longest, 2))}"
            raise self._too_little(
                f"even with gradient_checkpointing an item of {longest:,} tokens (patch rows of "
                f"pictures included) {takes}",
                "lower max_query_tokens, max_document_tokens or model.image_tokens, ",
            )
        check, steps = timed
        return StagePlan(
            steps=self.planned.steps,
            times=self._times(samples, chosen, steps),
            largest_group=largest.at.group,
            largest_rows=len(largest.at.rows),
            largest_cost=round(largest.cost),
            longest_cost=longest,
            lines=(lines.get(False), lines.get(True)),
            settings=settings(),
            chosen=chosen,
            check=check,
            weight_bytes=bench.weight_bytes,
            trained_bytes=bench.trained_bytes,
            data_bytes=data_bytes,
            sampled_rows=sum(len(sample.costs) + len(sample.bad) for sample in samples.values()),
            bad_rows=sum(len(sample.bad) for sample in samples.values()),
            exact_memory=bench.meter.exact,
            micro_steps=tuple(bench.steps),
        )

    def _sample(self, batches: Sequence[GlobalBatch]) -> PreparedRows:
        """What rows of the fullest usable batch cost; not the rows, which may be large."""
        fullest = sorted(batches, key=lambda batch: -len(batch.rows))
        for at in fullest:
            try:
                self.bench.prepare(at, 2)  # starts the decoders
                return replace(self.bench.prepare(at, SAMPLE_ROWS), rows=())
            except InputError:
                if self.stage.on_bad_row == "raise" or at is fullest[-1]:
                    raise
        raise AssertionError("a group has batches")

    def _largest(self, samples: Mapping[str, PreparedRows]) -> PreparedRows:
        """The most expensive of some planned batches of the group with the most expensive ones."""
        group = max(samples, key=lambda name: samples[name].cost)
        affordable = int(PATIENCE_SECONDS / max(samples[group].seconds_per_row, 1e-6))
        fullest = sorted(self.planned.batches[group], key=lambda batch: -len(batch.rows))
        found: list[PreparedRows] = []
        usable = samples[group].at
        for at in dict.fromkeys((*fullest[:LARGEST_OF], usable)):
            if found and affordable < len(at.rows):
                break
            try:
                found.append(self.bench.prepare(at, max(2, affordable)))
            except InputError:
                if self.stage.on_bad_row == "raise":
                    raise
            affordable -= len(at.rows)
        return max(found, key=lambda rows: rows.cost)

    def _line(self, largest: PreparedRows) -> MemoryLine:
        """Steps of at least two full chunks, from one item in each up to half of the batch."""
        longest = max(largest.longest)
        most = max(longest, (sum(largest.costs) - longest) // 2)
        chunk = longest
        if not self.bench.steps:
            self._chunked(largest, chunk, "warm-up")
        steps: list[MicroStep] = []
        while True:
            try:
                steps.append(self._chunked(largest, chunk, "memory"))
            except DoesNotFit:
                if not steps:
                    raise
                break
            grown = min(most, GROWTH * chunk)
            factor = grown / chunk
            peak = self.rest_bytes + factor * (steps[-1].peak_bytes - self.rest_bytes)
            fits = peak <= HEADROOM * self.memory_bytes
            if grown == chunk or not fits or factor * steps[-1].gradient_seconds > PATIENCE_SECONDS:
                break
            chunk = grown
        return MemoryLine.through(
            steps, rest_bytes=self.rest_bytes, gradient_bytes=self.bench.trained_bytes
        )

    def _chunked(
        self, largest: PreparedRows, chunk_tokens: int, purpose: Literal["warm-up", "memory"]
    ) -> MicroStep:
        rows = largest.dearest(2 * chunk_tokens + max(largest.longest))
        return self.bench.step(rows, chunk_tokens=chunk_tokens, purpose=purpose)

    def _check(self, line: MemoryLine, largest: PreparedRows, chosen: Setting) -> Check:
        """A step as it will run, of the whole batch if that does not take too long."""
        affordable = round(self.bench.affordable_cost(PATIENCE_SECONDS))
        chunk = chosen.chunk_tokens
        if chunk is not None:
            chunk = max(max(largest.longest), min(chunk, affordable // 2))
        step = self.bench.step(largest.dearest(affordable), chunk_tokens=chunk, purpose="check")
        predicted = line.peak(step.chunk_cost, step.num_chunks)
        return Check(step.cost, step.chunk_cost, step.num_chunks, predicted, step.peak_bytes)

    def _timed(
        self, samples: Mapping[str, PreparedRows], chosen: Setting
    ) -> dict[str, list[MicroStep]]:
        """Steps of each group, of as many rows as there is time for."""
        seconds = TIMED_SECONDS / len(samples)
        timed: dict[str, list[MicroStep]] = {}
        for group, sample in samples.items():
            cost = self.bench.affordable_cost(seconds)
            count = math.ceil(cost / (sum(sample.costs) / len(sample.costs)))
            rows = self.bench.prepare(sample.at, min(max(2, count), SAMPLE_ROWS))
            steps = timed[group] = []
            spent = 0.0
            while len(steps) < TIMED_STEPS and spent + (spent / max(1, len(steps))) <= seconds:
                step = self.bench.step(rows, chunk_tokens=chosen.chunk_tokens, purpose="time")
                steps.append(step)
                spent += step.seconds
        return timed

    def _data_bytes(self, samples: Mapping[str, PreparedRows]) -> int:
        """Prepared batches and caches at their largest; the batch in use is among what is measured.

        Rows of one kind are taken to be as large as those that were prepared.
        """
        stage, planned = self.stage, self.planned
        mib = 2**20
        of_row = {name: rows.num_bytes / len(rows.costs) for name, rows in samples.items()}
        batch = max(of_row[name] * len(rows.at.rows) for name, rows in samples.items())
        ahead = min(stage.num_workers, max(1, int(stage.prepared_ahead_mb * mib / max(batch, 1))))
        rows = {name: sum(len(b.rows) for b in found) for name, found in planned.batches.items()}
        cached = min(stage.prepared_cache_mb * mib, sum(of_row[name] * rows[name] for name in rows))
        return round(ahead * batch + cached + stage.tower_cache_mb * mib)

    def _times(
        self,
        samples: Mapping[str, PreparedRows],
        chosen: Setting,
        timed: Mapping[str, list[MicroStep]],
    ) -> Times:
        """Medians of each group, scaled from the rows that were timed to its batches."""
        planned, stage = self.planned, self.stage
        step = prepare = tokens = rows = 0.0
        for group, sample in samples.items():
            share, count, seen = planned.share(group), planned.mean_rows(group), timed[group][0]
            cost = sum(sample.costs) / len(sample.costs) * count
            passes = num_passes(
                chosen.num_chunks(cost), seen.gradient_checkpointing, coupled=self.bench.coupled
            )
            scale = cost / seen.cost * passes / seen.passes
            step += share * scale * median(each.gradient_seconds for each in timed[group])
            step += share * median(each.update_seconds for each in timed[group])
            prepare += share * count * sample.seconds_per_row
            tokens += share * cost / seen.cost * seen.tokens
            rows += share * count
        steps = [each for found in timed.values() for each in found]
        busy = sum(each.cpu_seconds for each in steps) / sum(each.seconds for each in steps)
        cores = num_cores()
        if self.bench.encoder.device.type == "cpu" and busy < CROWDED:
            busy, cores = 1.0, 1  # others use the cores: what runs beside a step makes it slower
        both = seconds_per_step(
            step, prepare, num_workers=stage.num_workers, busy_cores=busy, cores=cores
        )
        workers = stage.num_workers
        waiting = prepare if workers == 0 else max(0.0, prepare / workers - step)
        # kept rows are prepared once
        fresh = planned.epoch_steps if self._all_kept(samples) else math.inf
        seconds = {
            name: min(count, fresh) * both + max(0, count - fresh) * step
            for name, count in planned.steps.items()
        }
        mean = sum(seconds.values()) / sum(planned.steps.values())
        waits = sum(min(count, fresh) * waiting for count in planned.steps.values())
        return Times(
            seconds=seconds,
            step_seconds=step,
            prepare_seconds=prepare,
            seconds_per_step=mean,
            data_wait_share=waits / sum(seconds.values()),
            tokens_per_second=tokens / mean,
            rows_per_second=rows / mean,
        )

    def _all_kept(self, samples: Mapping[str, PreparedRows]) -> bool:
        """Whether an epoch's rows fit into the cache of prepared rows."""
        total = 0.0
        for group, sample in samples.items():
            share = self.planned.share(group) * self.planned.epoch_steps
            total += share * self.planned.mean_rows(group) * sample.num_bytes / len(sample.costs)
        return total <= self.stage.prepared_cache_mb * 2**20

    def _too_little(self, found: str, advice: str = "") -> ConfigError:
        return ConfigError(
            f"{found}; there are {byte_text(self.memory_bytes)}, of which {HEADROOM:.0%} are "
            f"used: {advice}train fewer parameters (lora, freeze), or take a smaller model or a "
            "device with more memory"
        )


@contextmanager
def _naming(stage: str) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, ConfigError, InputError) as error:
        raise ConfigError(f"{stage}: {error}") from error
