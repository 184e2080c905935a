"""A model ready for use, and how many items run through it; embedder and reranker build on it.

    items -> duplicates -> vector_cache -> windows -> preparation -> batches -> device_queue -> run

Three phases overlap: threads prepare the next window of items (decode, resize, tokenise) while the
model runs the present one and finished rows are copied back. Items are packed by token budget, not
by count; equal items run once.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from mmembed.encoder.batching import Batch, Group, Window, batches, windows
from mmembed.encoder.calibration import BatchTokens, CallBudget, memory_file, setting
from mmembed.encoder.device_queue import DeviceQueue, Rows
from mmembed.encoder.duplicates import unique_items
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.identity import files_state, fingerprint, numerics
from mmembed.encoder.preparation import Prepared, prepared_windows
from mmembed.encoder.report import EncodeReport, EncodeRun
from mmembed.encoder.vector_cache import VectorCache, file_digest
from mmembed.errors import CheckpointError, ConfigError, InputError
from mmembed.inputs.collator import EncoderInputs
from mmembed.inputs.items import PreparedItem
from mmembed.inputs.processor import Processor
from mmembed.types import Role

__all__ = ["LoadedModel", "OnError"]

OnError = Literal["raise", "skip", "null"]
_FEATURE_BYTES = 256 << 20  # of pictures that several items of a window show


class LoadedModel:
    """An encoder and its processor; a context manager that ends the decode processes.

    Threads may share it: one call encodes at a time.

    Attributes:
        halves_batches: a batch that does not fit into memory runs in halves. False: it raises
            ConfigError, for models that run on several processes in step.
    """

    halves_batches = True

    def __init__(
        self, encoder: Encoder, processor: Processor, *, folder: Path | None = None
    ) -> None:
        self.encoder = encoder
        self.processor = processor
        self.folder = folder
        self._fingerprint: str | None = None
        self._files = None if folder is None else files_state(folder)
        self._turn = threading.Lock()
        self._batch_tokens: dict[tuple[Any, ...], BatchTokens] = {}

    @property
    def fingerprint(self) -> str:
        """Names the space of the results; see `identity.fingerprint`. Computed on first use.

        Raises:
            ConfigError: the model is in no folder.
            CheckpointError: the folder was written again since the model was loaded.
        """
        if self._fingerprint is None:
            if self.folder is None:
                raise ConfigError("save the model first: only a model folder has a fingerprint")
            self._fingerprint = fingerprint(
                self.folder,
                self.processor.config,
                self.encoder.config,
                self.processor.decoder.policy,
                allow_special_tokens=self.processor.allow_special_tokens,
            )
            if files_state(self.folder) != self._files:
                self._fingerprint = None
                raise CheckpointError(
                    f"{self.folder} was written again after this model was loaded, so its files "
                    "say nothing of the vectors any more; load it again"
                )
        return self._fingerprint

    @property
    def numerics(self) -> str:
        """How vectors are computed now: kind of device, dtype, attention kernel."""
        return numerics(self.encoder.backbone)

    @property
    def space(self) -> str:
        """64 hex digits: `fingerprint` and `numerics`, everything that changes a vector."""
        return hashlib.sha256(f"{self.fingerprint} {self.numerics}".encode()).hexdigest()

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def to(self, device: str | torch.device) -> Self:
        self.encoder.to(device)
        return self

    def close(self) -> None:
        """End the decode processes. They also end with the program."""
        self.processor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _instruction(
        self, prompt_name: str | None, prompt: str | None, instruction: str | None
    ) -> str | None:
        given = [value for value in (prompt_name, prompt, instruction) if value is not None]
        if any(not isinstance(value, str) for value in given):
            raise ConfigError("prompt_name, prompt and instruction are strings or None")
        if len(given) > 1:
            raise ConfigError("give one of prompt_name, prompt and instruction, not several")
        if prompt_name is None:
            return given[0] if given else None
        known = self.processor.config.prompts
        if prompt_name not in known:
            raise ConfigError(
                f"prompt_name {prompt_name!r} is not stored with this model; it has: "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        return known[prompt_name]

    def batch_tokens(self) -> BatchTokens:
        """What has been found out about batches of this model on its present device."""
        device = self.device
        now = (device, torch.is_autocast_enabled(device.type), torch.get_num_threads())
        if now not in self._batch_tokens:
            found = BatchTokens(setting(self.encoder), device.type, memory_file())
            self._batch_tokens[now] = found
        return self._batch_tokens[now]

    def _run(
        self,
        run: EncodeRun,
        forward: Callable[[EncoderInputs], Tensor],
        *,
        label: str,
        role: Role = "document",
        on_error: OnError,
        show_progress_bar: bool | None,
        batch_size: int | None,
        batch_tokens: int | None,
        num_workers: int | None,
        cache: VectorCache | None = None,
    ) -> None:
        """Fill `run` with what `forward` makes of its items; None has its error in `run` already.

        Args:
            forward: packed inputs of B items -> B rows.

        Raises:
            InputError: of the first bad item, under `on_error="raise"`.
            ConfigError: see `halves_batches`.
            StoreError: the cache cannot be read or written.
        """
        report, total = run.report, len(run.items)
        show = show_progress_bar
        if show is None:
            show = total >= 64 and sys.stderr.isatty()
        budget = CallBudget(self.batch_tokens(), batch_tokens, can_try=batch_size is None)
        queue = DeviceQueue(forward, self.device, budget, halves_batches=self.halves_batches)
        with (
            self._turn,
            _timed(report),
            _progress(show, label, report, total) as advance,
            _threads(num_workers or self.processor.decoder.num_workers) as executor,
            cache.writing() if cache is not None else contextlib.nullcontext(),
        ):
            groups = self._without_cached(run, role, executor, cache, advance)
            left = len(groups)
            parts = windows(groups, self.processor.config)
            for window, prepared in _waited_for(
                prepared_windows(executor, self.processor, parts, role=role), report
            ):
                advance(run.note(window, prepared))
                if on_error == "raise":
                    run.raise_first(before=window.end)
                cost = sum(item.cost for item in prepared if isinstance(item, PreparedItem))
                budget.expect(cost * left // len(prepared))
                left -= len(prepared)
                packed = batches(prepared, budget=budget.next, batch_size=batch_size)
                with self.encoder.backbone.keeping_features(_FEATURE_BYTES):
                    _finish(run, window, queue.run(packed), cache, advance)
                prepared.clear()  # two windows in memory, not three
        if on_error == "raise":
            run.raise_first(before=total)
        report.sort()

    def run_prepared(
        self,
        prepared: Sequence[PreparedItem],
        forward: Callable[[EncoderInputs], Tensor],
        *,
        batch_tokens: int | None = None,
    ) -> Iterator[tuple[int, np.ndarray | InputError]]:
        """(position, row) of items that a server prepared with `processor`, in any order.

        Args:
            forward: packed inputs of B items -> B rows.
        """
        budget = CallBudget(self.batch_tokens(), batch_tokens, can_try=False)
        queue = DeviceQueue(forward, self.device, budget, halves_batches=self.halves_batches)
        packed = batches(prepared, budget=budget.next, batch_size=None)
        with self._turn, self.encoder.backbone.keeping_features(_FEATURE_BYTES):
            for batch, rows in queue.run(packed):
                yield from zip(batch.positions, rows, strict=True)

    def _without_cached(
        self,
        run: EncodeRun,
        role: Role,
        executor: Executor,
        cache: VectorCache | None,
        advance: Callable[[int], None],
    ) -> list[Group]:
        """The distinct items that the model has to see; the vectors of the others are entered."""
        digest = file_digest(self.processor.decoder.policy)
        groups = unique_items(run.items, digest=digest, run=executor.map)
        if cache is None:
            return groups
        found, groups = cache.take(groups, role, executor)
        for indices, row in found:
            run.enter(indices, row)
            run.report.num_cached += len(indices)
            advance(len(indices))
        return groups


def _finish(
    run: EncodeRun,
    window: Window,
    done: Iterable[tuple[Batch, Rows]],
    cache: VectorCache | None,
    advance: Callable[[int], None],
) -> None:
    """Enter the rows of a window's batches where they belong."""
    for batch, rows in done:
        for position, row in zip(batch.positions, rows, strict=True):
            if cache is not None and not isinstance(row, InputError):
                cache.keep(window.items[position], row)
                row = cache.cut(row)
            run.enter(window.indices[position], row)
            advance(len(window.indices[position]))


@contextlib.contextmanager
def _timed(report: EncodeReport) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        report.seconds = time.perf_counter() - started


@contextlib.contextmanager
def _threads(count: int) -> Iterator[Executor]:
    executor = ThreadPoolExecutor(max(1, count), thread_name_prefix="mmembed-prepare")
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _waited_for(prepared: Iterator[Prepared], report: EncodeReport) -> Iterator[Prepared]:
    while True:
        started = time.perf_counter()
        found = next(prepared, None)
        report.data_wait_seconds += time.perf_counter() - started
        if found is None:
            return
        yield found


def _progress(
    show: bool, label: str, report: EncodeReport, total: int
) -> contextlib.AbstractContextManager[Callable[[int], None]]:
    """Gives `advance(n)`; silent when not shown."""
    if not show:
        return contextlib.nullcontext(lambda count: None)
    from mmembed.progress import progress_bar

    started = time.perf_counter()

    def speed() -> str:
        seconds = time.perf_counter() - started
        waited = min(report.data_wait_seconds / seconds, 1.0)
        return f"{report.num_tokens / seconds:.0f} tok/s wait {waited:.0%}"

    return progress_bar(label, total, unit="items", report=speed)
