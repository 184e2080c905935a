"""Features of pictures that the vision tower has seen, so that it sees each picture once.

Of a frozen tower for a whole training run; of any tower while one call encodes.

Stands between the packed inputs and the tower: pictures are recognised by content, only new ones
go through it, and only their pixels are moved to its device. Where a batch repeats, its features
do to the bit; in another batch, a picture's own features would round otherwise, because matrix
products round by the number of their rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TowerCache"]

# Of the room, for the pictures that come first.
_FIRST_SHARE = 0.75


@dataclass(frozen=True)
class _Nameless:
    """Stands for the key of a picture that has none."""

    place: int


class TowerCache:
    """Features in the memory of the host, by picture.

    The first pictures stay. Every epoch has its own order, in which the oldest picture is the
    next one as often as any: with room for a share c of the pictures, dropping the least recently
    used would find c + (1 - c) ln(1 - c) of them, keeping the first finds c. The rest of the room
    is for the latest, which the second pass of a gradient cache asks for.

    Args:
        capacity_bytes: for features.

    Attributes:
        num_bytes: of features now.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.num_bytes = 0
        self._capacity = capacity_bytes
        self._first_bytes = 0
        self._first: dict[Hashable, Tensor] = {}
        self._latest: OrderedDict[Hashable, Tensor] = OrderedDict()

    def of_pictures(
        self,
        keys: Sequence[Hashable],
        pixels: Tensor,
        grids: Tensor,
        run: Callable[[Tensor, Tensor], Tensor],
        device: torch.device,
    ) -> Tensor:
        """(levels, tokens, D) of V pictures in order, on `device`.

        Args:
            keys: one for each picture; equal keys are equal pixels on an equal grid. What has None
                is not kept.
            pixels: (P, patch_dim) patch rows of all pictures; grids: (V, 3), on the CPU.
            run: the tower, without a graph: patch rows, grids -> (levels, tokens, D) on `device`.
        """
        keys = [_Nameless(place) if key is None else key for place, key in enumerate(keys)]
        parts: dict[Hashable, Tensor] = {}
        new: dict[Hashable, int] = {}  # place of the first picture of each unknown key
        for place, key in enumerate(keys):
            if key in parts or key in new:
                continue
            kept = self._get(key)
            if kept is None:
                new[key] = place
            else:
                parts[key] = kept.to(device, non_blocking=True)
        if new:
            if len(new) < len(keys):
                rows = pixels.split(grids.prod(1).tolist())
                pixels = torch.cat([rows[place] for place in new.values()])
                grids = grids[list(new.values())]
            computed = run(pixels, grids)
            merged = len(pixels) // computed.shape[1]  # patch rows of a token
            sizes = (grids.prod(1) // merged).tolist()
            for key, part in zip(new, computed.split(sizes, dim=1), strict=True):
                parts[key] = part
                if not isinstance(key, _Nameless):
                    self._put(key, part)
            if len(new) == len(keys):
                return computed
        return torch.cat([parts[key] for key in keys], dim=1)

    def _get(self, key: Hashable) -> Tensor | None:
        if key in self._latest:
            self._latest.move_to_end(key)
            return self._latest[key]
        return self._first.get(key)

    def _put(self, key: Hashable, part: Tensor) -> None:
        assert not part.requires_grad, "features of a tower that is trained go out of date"
        if self._first_bytes + part.nbytes <= _FIRST_SHARE * self._capacity:
            self._first[key] = part.to("cpu", copy=True)
            self._first_bytes += part.nbytes
        elif self._first_bytes + part.nbytes <= self._capacity:
            self._latest[key] = part.to("cpu", copy=True)
        else:
            return
        self.num_bytes += part.nbytes
        while self.num_bytes > self._capacity:
            _, oldest = self._latest.popitem(last=False)
            self.num_bytes -= oldest.nbytes
