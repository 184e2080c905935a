"""A model ready for use, and how many items run through it; embedder and reranker build on it.

Three phases overlap: threads prepare the next window of items (decode, resize, tokenise) while the
model runs the present one and finished rows are copied back. Items are packed by token budget, not
by count; equal items run once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from mmembed.encoder.batching import Window, batches, unique_items, windows
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.identity import fingerprint
from mmembed.encoder.report import EncodeRun
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.collator import EncoderInputs, pack
from mmembed.inputs.items import Pair, PreparedItem
from mmembed.inputs.processor import Processor
from mmembed.types import MultimodalInput, Role, Text

__all__ = ["LoadedModel", "OnError"]

OnError = Literal["raise", "skip", "null"]
_TEXTS_PER_TASK = 512
_MEDIA_PER_TASK = 4

Prepared = tuple[Window, list[PreparedItem | InputError]]


class LoadedModel:
    """An encoder and its processor; a context manager that ends the decode processes.

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

    @property
    def fingerprint(self) -> str:
        """Names the space of the results; see `identity.fingerprint`. Computed on first use."""
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
        return self._fingerprint

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

    def _run(
        self,
        items: Sequence[MultimodalInput | Pair | None],
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
    ) -> None:
        """Fill `run` with what `forward` makes of the items; None has its error in `run` already.

        Args:
            forward: packed inputs of B items -> B rows.

        Raises:
            InputError: of the first bad item, under `on_error="raise"`.
            ConfigError: see `halves_batches`.
        """
        groups = unique_items(items)
        show = show_progress_bar
        if show is None:
            show = len(items) >= 64 and sys.stderr.isatty()
        budget = batch_tokens or (16384 if self.device.type == "cuda" else 2048)
        with _progress(show, label, len(items)) as advance:
            for window, prepared in self._prepared(windows(groups), role, num_workers):
                advance(run.note(window, prepared))
                if on_error == "raise":
                    run.raise_first(before=window.end)
                for batch in batches(prepared, batch_tokens=budget, batch_size=batch_size):
                    rows = self._forward([item for _, item in batch], forward)
                    for (position, _), row in zip(batch, rows, strict=True):
                        run.enter(window.indices[position], row)
                        advance(len(window.indices[position]))
        if on_error == "raise":
            run.raise_first(before=len(items))
        run.report.sort()

    def _prepared(
        self, all_windows: Iterator[Window], role: Role, num_workers: int | None
    ) -> Iterator[Prepared]:
        """Windows with their prepared items; the next window is prepared meanwhile."""
        workers = num_workers or self.processor.decoder.num_workers
        executor = ThreadPoolExecutor(max(1, workers), thread_name_prefix="mmembed-prepare")
        try:
            pending: list[tuple[Window, list[tuple[list[int], Future[Any]]]]] = []
            for window in all_windows:
                pending.append((window, self._submit(executor, window, role)))
                if len(pending) > 1:
                    yield _collect(*pending.pop(0))
            for window, tasks in pending:
                yield _collect(window, tasks)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _submit(
        self, executor: ThreadPoolExecutor, window: Window, role: Role
    ) -> list[tuple[list[int], Future[Any]]]:
        texts: list[int] = []
        media: list[int] = []
        for position, item in enumerate(window.items):
            only_text = all(isinstance(part, Text) for part in item.parts)
            (texts if only_text else media).append(position)
        tasks = []
        for positions, size in ((texts, _TEXTS_PER_TASK), (media, _MEDIA_PER_TASK)):
            for begin in range(0, len(positions), size):
                chosen = positions[begin : begin + size]
                items = [window.items[position] for position in chosen]
                tasks.append(
                    (chosen, executor.submit(self.processor.prepare_all, items, role=role))
                )
        return tasks

    def _forward(
        self, prepared: Sequence[PreparedItem], forward: Callable[[EncoderInputs], Tensor]
    ) -> list[np.ndarray | InputError]:
        """A float32 row for each item; halves the batch when memory runs out."""
        try:
            with torch.inference_mode():
                return list(forward(pack(prepared)).cpu().numpy())
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        if not self.halves_batches:
            raise ConfigError(
                f"memory of {self.device} ran out for {len(prepared)} items, "
                f"{sum(item.cost for item in prepared):,} tokens and patches together, and the "
                "other processes wait in that forward pass; lower chunk_tokens of the stage, then "
                "the number of pixels or tokens of an item"
            )
        if len(prepared) == 1:
            detail = f"{prepared[0].cost:,} tokens and patches do not fit on {self.device}"
            return [InputError("out_of_memory", f"{detail}; lower the number of pixels or tokens")]
        half = len(prepared) // 2
        first, second = (
            self._forward(part, forward) for part in (prepared[:half], prepared[half:])
        )
        return first + second


def _collect(window: Window, tasks: Sequence[tuple[list[int], Future[Any]]]) -> Prepared:
    prepared: list[Any] = [None] * len(window.items)
    for positions, future in tasks:
        for position, result in zip(positions, future.result(), strict=True):
            prepared[position] = result
    return window, prepared


def _progress(show: bool, label: str, total: int) -> Any:
    """A context manager giving `advance(n)`; silent when not shown."""
    if not show:
        return nullcontext(lambda count: None)
    from mmembed.encoder.progress import progress_bar

    return progress_bar(label, total, unit="items")
