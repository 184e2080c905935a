"""Items are opened and tokenised in threads while the model runs the window before."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from mmembed.encoder.batching import Window
from mmembed.errors import InputError
from mmembed.inputs.items import Pair, PreparedItem
from mmembed.inputs.processor import Processor
from mmembed.inputs.visuals import part_key
from mmembed.types import Image, MultimodalInput, Role, Text

__all__ = ["Prepared", "prepared_windows"]

_TEXTS = 512
_IMAGES = 32  # distinct ones
_VIDEOS = 4

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
    tasks = []
    for positions in _tasks(window.items):
        items = [window.items[position] for position in positions]
        tasks.append((positions, executor.submit(processor.prepare_all, items, role=role)))
    return tasks


def _tasks(items: Sequence[MultimodalInput | Pair]) -> list[list[int]]:
    """Positions that are prepared in one call.

    Texts together, because one call of the tokenizer is fast; pictures together, because one call
    uses all decode processes; few videos or documents, because a call cannot be stopped. Items
    that show the same are in one call, which opens what they show once.
    """
    texts: list[int] = []
    shown: dict[tuple[Hashable, ...], list[int]] = {}
    for position, item in enumerate(items):
        media = [part for part in item.parts if not isinstance(part, Text)]
        only_images = all(isinstance(part, Image) for part in media)
        if media:
            key = (only_images, *map(part_key, media))
            shown.setdefault(key, []).append(position)
        else:
            texts.append(position)
    tasks = [texts[at : at + _TEXTS] for at in range(0, len(texts), _TEXTS)]
    for only_images, most in ((True, _IMAGES), (False, _VIDEOS)):
        alike = [positions for (kind, *_), positions in shown.items() if kind == only_images]
        for at in range(0, len(alike), most):
            tasks.append(
                [position for positions in alike[at : at + most] for position in positions]
            )
    return tasks


def _collect(window: Window, tasks: Sequence[_Task]) -> Prepared:
    prepared: list[Any] = [None] * len(window.items)
    for positions, future in tasks:
        for position, result in zip(positions, future.result(), strict=True):
            prepared[position] = result
    return window, prepared
