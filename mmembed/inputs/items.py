"""What the processor takes beside single items, and what it gives: tensors of one prompt each."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from mmembed.types import MultimodalInput, Part

__all__ = ["Pair", "PreparedItem"]


@dataclass(frozen=True)
class Pair:
    """A query and a document in one prompt, for a reranker.

    The instruction is the query's; the prompt has no place for one of the document.
    """

    query: MultimodalInput
    document: MultimodalInput

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.query.parts + self.document.parts


@dataclass
class PreparedItem:
    """One item, ready to be packed. L tokens, P patch rows, V pictures.

    Arrays may be shared with other items: they are read, never written. `picture_ids` are equal
    where pictures are known to be equal, because one opened part shows both; None: not known.
    """

    input_ids: np.ndarray  # (L,) int64
    position_ids: np.ndarray  # (3, L) int64
    patches: np.ndarray | None = None  # (P, patch_dim) uint8
    grid_thw: np.ndarray | None = None  # (V, 3) int64
    truncated: bool = False
    warnings: tuple[str, ...] = ()
    picture_ids: tuple[Hashable, ...] | None = None  # V

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def cost(self) -> int:
        """Tokens of both towers, the unit of `batch_tokens`: a patch row counts as one."""
        return len(self.input_ids) + (0 if self.patches is None else len(self.patches))

    @property
    def num_bytes(self) -> int:
        arrays = (self.input_ids, self.position_ids, self.patches, self.grid_thw)
        return sum(array.nbytes for array in arrays if array is not None)
