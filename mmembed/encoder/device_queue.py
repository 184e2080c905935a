"""Batches on their way through the model: one is launched while the one before is read back.

On CUDA, copies and kernels run behind the back of Python: inputs come from pinned memory, results
return into it, and a batch is packed and launched before the results of the last are looked at. On
a CPU the same code runs one batch after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mmembed.encoder.batching import Batch
from mmembed.encoder.calibration import CallBudget
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.collator import EncoderInputs, pack
from mmembed.inputs.items import PreparedItem

__all__ = ["DeviceQueue", "Rows"]

Rows = Sequence[np.ndarray | InputError]


@dataclass
class _Launched:
    batch: Batch
    rows: Tensor  # on the host; of a GPU, filled when `done`
    done: torch.cuda.Event | None
    started: float
    ended: float


class DeviceQueue:
    """Runs batches through `forward`: packed inputs of B items -> B rows.

    Args:
        budget: hears how long batches took and when memory ran out.
        halves_batches: a batch that does not fit runs in halves; False: it raises ConfigError.
    """

    def __init__(
        self,
        forward: Callable[[EncoderInputs], Tensor],
        device: torch.device,
        budget: CallBudget,
        *,
        halves_batches: bool,
    ) -> None:
        self._forward = forward
        self._device = device
        self._budget = budget
        self._halves_batches = halves_batches
        self._ended = 0.0

    def run(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Rows]]:
        """Each batch with a float32 row, or an error, for each item.

        Raises:
            ConfigError: see `halves_batches`.
        """
        before: _Launched | None = None
        for batch in batches:
            launched = self._launch(batch)
            if before is not None:
                yield before.batch, self._collect(before)
            before = launched
            if launched is None:
                yield batch, self._in_halves(batch.items)
        if before is not None:
            yield before.batch, self._collect(before)

    def _launch(self, batch: Batch) -> _Launched | None:
        """None: memory ran out."""
        started = time.perf_counter()
        try:
            rows = self._start(batch.items, batch.repeated)
        except torch.OutOfMemoryError:
            return None
        done = None
        if self._device.type == "cuda":
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self._device))
        return _Launched(batch, rows, done, started, time.perf_counter())

    def _start(self, items: Sequence[PreparedItem], repeated: Collection[Hashable] = ()) -> Tensor:
        """Rows on the host; of a GPU, they arrive later."""
        with torch.inference_mode():
            inputs = pack(items, repeated=repeated)
            if self._device.type != "cuda":
                return self._forward(inputs).cpu()
            rows = self._forward(_pinned(inputs))
            host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            return host.copy_(rows, non_blocking=True)

    def _collect(self, launched: _Launched) -> Rows:
        try:
            if launched.done is not None:
                launched.done.synchronize()
                launched.ended = time.perf_counter()
            rows: Rows = list(launched.rows.numpy())
        except torch.OutOfMemoryError:
            rows = ()
        if not rows:
            return self._in_halves(launched.batch.items)
        seconds = launched.ended - max(launched.started, self._ended)
        self._ended = launched.ended
        self._budget.measured(launched.batch, seconds)
        return rows

    def _in_halves(self, items: Sequence[PreparedItem]) -> Rows:
        """What ran out of memory, in halves until it fits; an error for an item that never does."""
        torch.cuda.empty_cache()
        cost = sum(item.cost for item in items)
        if not self._halves_batches:
            raise ConfigError(
                f"memory of {self._device} ran out for {len(items)} items, {cost:,} tokens and "
                "patches together, and the other processes wait in that forward pass; lower "
                "chunk_tokens of the stage, then the number of pixels or tokens of an item"
            )
        if len(items) == 1:
            detail = f"{cost:,} tokens and patches do not fit on {self._device}"
            return [InputError("out_of_memory", f"{detail}; lower the number of pixels or tokens")]
        self._budget.out_of_memory(cost)
        return self._split(items)

    def _split(self, items: Sequence[PreparedItem]) -> Rows:
        half = len(items) // 2
        return [*self._whole(items[:half]), *self._whole(items[half:])]

    def _whole(self, items: Sequence[PreparedItem]) -> Rows:
        if len(items) > 1 and not self._budget.fits(sum(item.cost for item in items)):
            return self._split(items)
        try:
            rows = self._start(items)
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
            return list(rows.numpy())
        except torch.OutOfMemoryError:
            pass  # the error holds the tensors of its frames
        return self._in_halves(items)


def _pinned(inputs: EncoderInputs) -> EncoderInputs:
    """The same in memory from which a GPU copies by itself."""
    moved: dict[str, Any] = {
        name: value.pin_memory() if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
    return cast(EncoderInputs, moved)
