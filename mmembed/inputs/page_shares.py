"""One document drawn by several decode processes: who draws which pages, and their outcome.

Used by `sandbox.MediaDecoder` when it has more processes than parts to decode. Each process opens
the document and draws its share of the pages; what becomes of them happens when all are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mmembed.errors import InputError
from mmembed.inputs.decode_pool import DecodeJob, Take
from mmembed.inputs.media import DecodedMedia, MediaPart, join
from mmembed.types import Page

__all__ = ["PageShares", "num_shares"]


def num_shares(part: MediaPart, num_parts: int, num_workers: int) -> int:
    """How many processes open the document of a part when `num_parts` are decoded together."""
    if not isinstance(part, Page) or (part.pages is not None and part.pages.strip().isdigit()):
        return 1
    return max(1, num_workers // num_parts)


class PageShares:
    """The jobs of one document, and its outcome when they are done.

    Args:
        make_job: the job of share `(i, count)`, given what becomes of its pages and which it is.
        take: what becomes of all pages together; runs where the last share arrives.
    """

    def __init__(
        self, count: int, make_job: Callable[[Take, tuple[int, int]], DecodeJob], take: Take
    ) -> None:
        self._take = take
        self._lock = threading.Lock()
        self._shares: dict[int, DecodedMedia] = {}
        self._taken: Any = None
        self.jobs = [make_job(self._taking(index), (index, count)) for index in range(count)]

    @property
    def outcome(self) -> Any:
        """What `take` made of the pages, or the error of the first page that has one."""
        outcomes = (job.outcome for job in self.jobs)
        return next((one for one in outcomes if isinstance(one, InputError)), self._taken)

    def _taking(self, index: int) -> Take:
        def keep(share: DecodedMedia) -> None:
            with self._lock:
                self._shares[index] = share
                complete = len(self._shares) == len(self.jobs)
            if complete:
                pages = join(self._shares[number] for number in range(len(self.jobs)))
                self._shares.clear()
                self._taken = self._take(pages)

        return keep
