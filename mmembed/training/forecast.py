"""From measured micro-steps to what a run will take: the arithmetic of the planner.

`cost` counts tokens and patch rows, the unit of `chunk_tokens`; see `chunk_cost`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmembed.config.recipe import Recipe
from mmembed.config.stage import StageConfig
from mmembed.training.micro_steps import MicroStep
from mmembed.training.stages import stage_runs

__all__ = [
    "HEADROOM",
    "Check",
    "MemoryLine",
    "Plan",
    "Setting",
    "StagePlan",
    "Times",
    "best_of",
    "byte_text",
    "disk_bytes",
    "seconds_per_step",
    "settings_of",
]

HEADROOM = 0.9  # of the memory; allocators need room, and a batch may be larger than those seen


@dataclass(frozen=True)
class MemoryLine:
    """Peak memory is `rest_bytes` + `bytes_per_cost` * the cost of the largest chunk.

    Args:
        rest_bytes: weights, gradients, the optimizer's state, and on a CPU the process.
        gradient_bytes: of `rest_bytes`. In a single chunk they come while activations go.
    """

    rest_bytes: float
    bytes_per_cost: float
    gradient_bytes: int

    @classmethod
    def through(
        cls, steps: Sequence[MicroStep], *, rest_bytes: int, gradient_bytes: int
    ) -> MemoryLine:
        """The line of the last two steps; of one, with the `rest_bytes` that were seen."""
        *_, last = steps
        other = next((s for s in steps[-2::-1] if s.chunk_cost < last.chunk_cost), None)
        if other is None:
            slope = (last.peak_bytes - rest_bytes) / last.chunk_cost
        else:
            slope = (last.peak_bytes - other.peak_bytes) / (last.chunk_cost - other.chunk_cost)
        slope = max(slope, 1.0)
        return cls(last.peak_bytes - slope * last.chunk_cost, slope, gradient_bytes)

    def peak(self, chunk_cost: int, num_chunks: int) -> int:
        at = self.rest_bytes + self.bytes_per_cost * chunk_cost
        return round(at if num_chunks > 1 else max(self.rest_bytes, at - self.gradient_bytes))

    def raised_to(self, check: Check) -> MemoryLine:
        """Through a step that took more than predicted; this line if it took less."""
        more = max(0, check.observed_bytes - check.predicted_bytes) / check.chunk_cost
        slope = self.bytes_per_cost + more
        return MemoryLine(self.rest_bytes, slope, self.gradient_bytes)


@dataclass(frozen=True)
class Setting:
    """A way to run the largest batch.

    Args:
        chunk_tokens: None = all at once.
        peak_bytes: predicted; None = memory ran out in steps with this `gradient_checkpointing`.
    """

    chunk_tokens: int | None
    gradient_checkpointing: bool
    peak_bytes: int | None
    fits: bool

    def num_chunks(self, cost: float) -> int:
        return 1 if self.chunk_tokens is None else math.ceil(cost / self.chunk_tokens)


@dataclass(frozen=True)
class Check:
    """A step whose peak was predicted before it ran."""

    cost: int
    chunk_cost: int
    num_chunks: int
    predicted_bytes: int
    observed_bytes: int


@dataclass(frozen=True)
class Times:
    """Of the steps of a stage.

    Args:
        seconds: of each run, by its folder.
        step_seconds, prepare_seconds: of a mean batch; preparing on one thread.
        seconds_per_step: of both together, less where `prepared_cache_mb` keeps all rows.
        data_wait_share: of the time, spent waiting for batches.
    """

    seconds: Mapping[str, float]
    step_seconds: float
    prepare_seconds: float
    seconds_per_step: float
    data_wait_share: float
    tokens_per_second: float
    rows_per_second: float


@dataclass(frozen=True)
class StagePlan:
    """A stage, or soup members that differ in seed and length only.

    Args:
        steps: of each run, by its folder.
        largest_group, largest_rows, largest_cost: the largest batch seen.
        longest_cost: of the most expensive item seen.
        lines: of memory, without and with gradient checkpointing; None = memory ran out.
        settings: as written in the recipe, then others.
        chosen: as written if that fits, else the least change. It is what was timed, but where only
            switching gradient checkpointing off fits, that was still on.
        check: of what was chosen before; if it took more than predicted, its line has been raised,
            and `settings` and `chosen` follow from that.
        data_bytes: prepared batches and caches on the host at their largest.
        sampled_rows, bad_rows: that were prepared; that cannot be used.
        exact_memory: False where peaks are bounds; see `PeakMeter`.
    """

    steps: Mapping[str, int]
    times: Times
    largest_group: str
    largest_rows: int
    largest_cost: int
    longest_cost: int
    lines: tuple[MemoryLine | None, MemoryLine | None]
    settings: tuple[Setting, ...]
    chosen: Setting
    check: Check
    weight_bytes: int
    trained_bytes: int
    data_bytes: int
    sampled_rows: int
    bad_rows: int
    exact_memory: bool
    micro_steps: tuple[MicroStep, ...]

    @property
    def name(self) -> str:
        return next(iter(self.steps))

    @property
    def written(self) -> Setting:
        return self.settings[0]

    @property
    def fits(self) -> bool:
        return self.written.fits


@dataclass(frozen=True)
class Plan:
    """All stages. `disk_bytes`: of checkpoints and models, one being written included."""

    recipe: str
    device: str
    memory_bytes: int
    disk_bytes: int
    stages: tuple[StagePlan, ...]

    @property
    def fits(self) -> bool:
        """Whether every stage fits as it is written."""
        return all(stage.fits for stage in self.stages)

    @property
    def steps(self) -> int:
        return sum(sum(stage.steps.values()) for stage in self.stages)

    @property
    def seconds(self) -> float:
        return sum(sum(stage.times.seconds.values()) for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        totals = {"fits": self.fits, "steps": self.steps, "seconds": self.seconds}
        return {**asdict(self), **totals}


def settings_of(
    stage: StageConfig,
    lines: Mapping[bool, MemoryLine],
    *,
    cost: int,
    longest: int,
    memory_bytes: int,
    data_bytes: int,
) -> tuple[Setting, ...]:
    """As written; then, as written and the other way about gradient checkpointing, all at once and
    in the largest chunks that fit.

    Args:
        lines: measured so far, by gradient checkpointing; without that of the stage, memory ran out
            in its steps.
        cost, longest: of the largest batch and of its most expensive item.
        data_bytes: of prepared data in the same memory.
    """
    room = HEADROOM * memory_bytes - data_bytes
    found: dict[tuple[int | None, bool], Setting] = {}

    def add(chunk_tokens: int | None, recomputed: bool) -> Setting:
        chunk = min(cost, max(chunk_tokens or cost, longest))
        peak = lines[recomputed].peak(chunk, math.ceil(cost / chunk))
        setting = Setting(chunk_tokens, recomputed, peak + data_bytes, peak <= room)
        return found.setdefault((chunk_tokens, recomputed), setting)

    written = stage.gradient_checkpointing
    if written in lines:
        add(stage.chunk_tokens, written)
    else:
        setting = Setting(stage.chunk_tokens, written, None, fits=False)
        found[stage.chunk_tokens, written] = setting
    for recomputed in sorted(lines, key=lambda each: each != written):
        whole = add(None, recomputed)
        line = lines[recomputed]
        largest = int((room - line.rest_bytes) / line.bytes_per_cost)
        if not whole.fits and largest >= longest:
            add(max(longest, _two_digits(min(largest, cost - 1))), recomputed)
    return tuple(found.values())


def best_of(settings: Sequence[Setting], gradient_checkpointing: bool) -> Setting | None:
    """As written if that fits, else the least change that does: chunks, then checkpointing."""
    fitting = [setting for setting in settings if setting.fits]
    if settings and settings[0].fits:
        return settings[0]
    same = [s for s in fitting if s.gradient_checkpointing == gradient_checkpointing]
    return next(iter(same or fitting), None)


def seconds_per_step(
    step: float, prepare: float, *, num_workers: int, busy_cores: float, cores: int
) -> float:
    """Threads prepare beside the step, on the same cores: whichever is short decides.

    Args:
        step: seconds alone, in which it keeps `busy_cores` busy.
        prepare: seconds of one thread.
    """
    if num_workers == 0:
        return step + prepare
    return max(step, prepare / num_workers, (step * busy_cores + prepare) / cores)


def disk_bytes(recipe: Recipe, stages: Sequence[StagePlan]) -> int:
    """What a run leaves behind, and one checkpoint that is being written.

    A signal makes a stage write one without `save_every`, too.
    """
    total = largest = 0
    for index, name, stage in stage_runs(recipe):
        found = next(each for each in stages if name in each.steps)
        checkpoint = found.weight_bytes + 2 * found.trained_bytes
        if stage.lora.rank is not None:
            checkpoint += found.trained_bytes
        kept = stage.keep_checkpoints
        if index == len(recipe.stages) - 1:
            kept = max(kept, recipe.soup.checkpoints or 0)
        if stage.save_every is None:
            kept = 0
        else:
            kept = min(kept, (found.steps[name] - 1) // stage.save_every)
        kept += stage.keep_best is not None
        total += found.weight_bytes + kept * checkpoint
        largest = max(largest, checkpoint)
    if recipe.soup.method is not None:
        total += stages[-1].weight_bytes
    return total + largest


def byte_text(count: float) -> str:
    """1.5 GiB, 310 MiB."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB"


def _two_digits(number: int) -> int:
    """Rounded down: 34567 -> 34000."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit
