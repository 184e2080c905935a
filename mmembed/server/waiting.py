"""Requests on their way through an engine, and who comes next.

A request is cut into units: what is prepared together and runs together. Units of all requests
share two orders. To be prepared: one unit of each request in turn. To be run: by start-time fair
queueing, where each request has a clock of its own that runs as fast as its units cost; so a small
request passes a large one that came before it, and the large one goes on in between.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmembed.encoder.batching import Group
from mmembed.errors import InputError
from mmembed.inputs.items import PreparedItem
from mmembed.types import Role

__all__ = ["FairQueue", "Lane", "Request", "Throughput", "Unit"]


@dataclass
class Unit:
    """Items of one request that are prepared in one call and run together."""

    request: Request
    groups: list[Group]
    cost: int  # estimated, then known
    prepared: list[PreparedItem] = field(default_factory=list)
    positions: list[list[int]] = field(default_factory=list)  # of `prepared`, in the request


class Request:
    """One call of an engine.

    Attributes:
        outcomes: of each item: a row, or its error.
        tokens, patches: of each item.
        cost: of what is not done yet.
        ready_cost: of what is prepared and waits for the model.
    """

    def __init__(self, num_items: int, role: Role, loop: asyncio.AbstractEventLoop) -> None:
        self.role = role
        self.future: asyncio.Future[None] = loop.create_future()
        self.outcomes: list[Any] = [None] * num_items
        self.tokens = [0] * num_items
        self.patches = [0] * num_items
        self.truncated: list[int] = []
        self.num_left = 0
        self.cost = 0
        self.ready_cost = 0
        self.clock = 0.0
        self.closed = False
        self._loop = loop

    def enter(self, positions: Sequence[int], outcome: Any) -> None:
        """The row or the error of equal items."""
        for position in positions:
            given = outcome.at(position) if isinstance(outcome, InputError) else outcome
            self.outcomes[position] = given

    def close(self, error: Exception | None = None) -> None:
        """Answer, from any thread; the first answer counts."""
        if self.closed:
            return
        self.closed = True

        def answer() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(answer)


class Lane:
    """Units to be prepared: one of each request in turn. Not thread-safe.

    Attributes:
        num_to_come: units that wait or are being prepared; who took one counts it off.
    """

    def __init__(self) -> None:
        self.num_to_come = 0
        self._turns: deque[deque[Unit]] = deque()

    def add(self, units: Sequence[Unit]) -> None:
        if units:
            self._turns.append(deque(units))
            self.num_to_come += len(units)

    def take(self, may: Callable[[Request], bool]) -> Unit | None:
        """The next unit of a request that may go on, if there is one."""
        for _ in range(len(self._turns)):
            units = self._turns.popleft()
            if units[0].request.closed:
                self.num_to_come -= len(units)
                continue
            if not may(units[0].request):
                self._turns.append(units)
                continue
            unit = units.popleft()
            if units:
                self._turns.append(units)
            return unit
        return None


class FairQueue:
    """Prepared units in the order in which they run. Not thread-safe.

    Attributes:
        cost: of all of them.
    """

    def __init__(self) -> None:
        self.cost = 0
        self._heap: list[tuple[float, int, Unit]] = []
        self._number = itertools.count()
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, unit: Unit) -> None:
        request = unit.request
        request.clock = max(request.clock, self._now) + unit.cost
        request.ready_cost += unit.cost
        self.cost += unit.cost
        heapq.heappush(self._heap, (request.clock, next(self._number), unit))

    def take(self, budget: int) -> list[Unit]:
        """The units that come next and fit together; at least one, unless all were given up."""
        taken: list[Unit] = []
        while self._heap:
            clock, _, unit = self._heap[0]
            given_up = unit.request.closed
            if taken and unit.cost > budget and not given_up:
                break
            heapq.heappop(self._heap)
            self.cost -= unit.cost
            unit.request.ready_cost -= unit.cost
            if not given_up:
                self._now = max(self._now, clock)
                budget -= unit.cost
                taken.append(unit)
        return taken


class Throughput:
    """Cost per second of busy time; recent work counts most."""

    _MEMORY_SECONDS = 20.0

    def __init__(self) -> None:
        self._cost = 0.0
        self._seconds = 0.0

    def add(self, cost: int, seconds: float) -> None:
        kept = max(0.0, 1 - seconds / self._MEMORY_SECONDS)
        self._cost = self._cost * kept + cost
        self._seconds = self._seconds * kept + seconds

    @property
    def per_second(self) -> float | None:
        return self._cost / self._seconds if self._seconds > 0 else None
