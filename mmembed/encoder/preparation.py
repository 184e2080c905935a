"""Items are opened and tokenised in threads while the model runs the window before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from mmembed.encoder.batching import Window
from mmembed.errors import InputError
from mmembed.inputs.items import PreparedItem
from mmembed.inputs.processor import Processor
from mmembed.types import Role, Text

__all__ = ["Prepared", "prepared_windows"]

_TEXTS_PER_TASK = 512
_MEDIA_PER_TASK = 4

Prepared = tuple[Window, list[PreparedItem | InputError]]
_Task = tuple[list[int], Future[Any]]  # positions in the window, and their items to come


def prepared_windows(
    executor: Executor, processor: Processor, all_windows: Iterator[Window], *, role: Role
) -> Iterator[Prepared]:
    """Windows with their prepared items. At most two are in memory: one in use, one to come."""
    pending: list[tuple[Window, list[_Task]]] = []
    for window in all_windows:
        pending.append((window, _submit(executor, processor, window, role)))
        if len(pending) > 1:
            yield _collect(*pending.pop(0))
    for window, tasks in pending:
        yield _collect(window, tasks)


def _submit(executor: Executor, processor: Processor, window: Window, role: Role) -> list[_Task]:
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
            tasks.append((chosen, executor.submit(processor.prepare_all, items, role=role)))
    return tasks


def _collect(window: Window, tasks: Sequence[_Task]) -> Prepared:
    prepared: list[Any] = [None] * len(window.items)
    for positions, future in tasks:
        for position, result in zip(positions, future.result(), strict=True):
            prepared[position] = result
    return window, prepared
