"""Which items run together: in bounded windows, sorted by length, by token budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from mmembed.errors import InputError
from mmembed.inputs.items import Pair, PreparedItem
from mmembed.inputs.processor import InputConfig
from mmembed.types import Image, MultimodalInput, Page, Part, Text

__all__ = ["Batch", "Group", "Window", "batches", "windows"]

# Bounds the memory of prepared items: a window holds so many texts, or fewer media. The first is
# small, so that the model starts early; a thousand texts still share one.
_FIRST_WINDOW_WEIGHT = 1024
_WINDOW_WEIGHT = 4096
_TOKENS_PER_WEIGHT = 8  # a picture of 256 tokens weighs as much as 32 texts

Group = tuple[MultimodalInput | Pair, list[int]]  # equal items and all their positions


@dataclass
class Window:
    """Unique items prepared together; `indices[i]` are the caller's positions of `items[i]`."""

    items: list[MultimodalInput | Pair] = field(default_factory=list)
    indices: list[list[int]] = field(default_factory=list)

    @property
    def end(self) -> int:
        """One past the highest first position: every earlier item has been seen."""
        return max(indices[0] for indices in self.indices) + 1


@dataclass
class Batch:
    """Items of one forward pass, each with its position in the window.

    `cost` are their tokens of both towers, `budget` those that there was room for, `repeated` the
    `picture_ids` that the window has more than once.
    """

    budget: int
    positions: list[int] = field(default_factory=list)
    items: list[PreparedItem] = field(default_factory=list)
    cost: int = 0
    repeated: frozenset[Hashable] = frozenset()


def windows(groups: Sequence[Group], config: InputConfig) -> Iterator[Window]:
    """Consecutive windows of bounded weight; the first ones are smaller."""
    window, weight, most = Window(), 0, _FIRST_WINDOW_WEIGHT
    for item, indices in groups:
        cost = sum(_weight(part, config) for part in item.parts)
        if window.items and weight + cost > most:
            yield window
            window, weight, most = Window(), 0, min(2 * most, _WINDOW_WEIGHT)
        window.items.append(item)
        window.indices.append(indices)
        weight += cost
    if window.items:
        yield window


def batches(
    prepared: Sequence[PreparedItem | InputError],
    *,
    budget: Callable[[], int],
    batch_size: int | None,
) -> Iterator[Batch]:
    """Items that run together: longest first, equal lengths side by side.

    A single item above the budget runs alone. Longest first, so that running out of memory shows
    at once and not in the last batch.

    Args:
        budget: tokens of both towers; asked anew for each batch.
    """
    usable = [(i, item) for i, item in enumerate(prepared) if isinstance(item, PreparedItem)]
    usable.sort(key=lambda pair: (pair[1].num_tokens, pair[1].cost, -pair[0]), reverse=True)
    shown = Counter(key for _, item in usable for key in item.picture_ids or ())
    repeated = frozenset(key for key, count in shown.items() if count > 1)
    batch: Batch | None = None
    for position, item in usable:
        if batch is not None and (
            batch.cost + item.cost > batch.budget or len(batch.items) == batch_size
        ):
            yield batch
            batch = None
        if batch is None:
            batch = Batch(budget(), repeated=repeated)
        batch.positions.append(position)
        batch.items.append(item)
        batch.cost += item.cost
    if batch is not None:
        yield batch


def _weight(part: Part, config: InputConfig) -> int:
    """Of a prepared part in memory, about; that of a short text is 1."""
    if isinstance(part, Text):
        return 1
    if isinstance(part, Image):
        tokens = part.max_tokens or config.image_tokens.max
    elif isinstance(part, Page):
        tokens = part.max_tokens or config.page_tokens.max
    else:
        frames = len(part.source) if isinstance(part.source, tuple) else part.num_frames
        tokens = (part.max_tokens or config.frame_tokens.max) * (frames or config.num_frames)
    return max(1, min(tokens, config.max_tokens) // _TOKENS_PER_WEIGHT)
