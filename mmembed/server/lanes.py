"""The threads round one model: items of many requests run together, each as if it were alone.

    submit -> lanes: texts | media, prepared in threads -> fair queue -> model thread -> answers

While the model runs, the next batch gathers; a batch with room left waits a moment for texts that
are being tokenised, for nothing else. Texts never wait for media to be decoded. All threads are
daemons: a second Ctrl-C ends the process at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import Tensor

from mmembed.encoder.duplicates import unique_items
from mmembed.encoder.loaded_model import LoadedModel
from mmembed.errors import InputError, MissingDependencyError
from mmembed.inputs.collator import EncoderInputs
from mmembed.inputs.items import Pair, PreparedItem
from mmembed.server.admission import estimated_cost, shows_media
from mmembed.server.errors import EngineFault, EngineTimeout, Overloaded, RequestError, Stopping
from mmembed.server.metrics import Metrics
from mmembed.server.settings import ServerSettings
from mmembed.server.waiting import FairQueue, Lane, Request, Throughput, Unit
from mmembed.types import MultimodalInput, Role

__all__ = ["ModelEngine"]

logger = logging.getLogger(__name__)

_TEXTS = 64  # prepared in one call
_PAIRS = 8  # idem, that show media: the query's is opened once, and seen once
_READY_ROUNDS = 2  # of the model: what is prepared and waits, of one request
_ALL_READY_ROUNDS = 32  # and of all
_GATHER_SECONDS = 0.002
_DEVICE_BATCHES = {"cuda": 4}  # taken at once, so that a GPU never waits for Python
_JOIN_SECONDS = 5.0  # for what is under way when the time to stop is over
_FAULTS = 3  # in a row, after which the server says that it is not ready
_NONFINITE = "the model gave NaN or infinity for this item"

State = Literal["starting", "ready", "stopping"]


class ModelEngine:
    """Threads round one model. `start` it; `stop` it from the event loop that used it.

    Args:
        forward: packed inputs of B items -> B rows.
        warm_up: runs before the engine is ready, because a first answer takes longer than others.
        name: in metrics.

    Attributes:
        batch_tokens: tokens of both towers that run together.
    """

    def __init__(
        self,
        model: LoadedModel,
        forward: Callable[[EncoderInputs], Tensor],
        settings: ServerSettings,
        *,
        warm_up: MultimodalInput | Pair,
        name: str,
        metrics: Metrics | None = None,
    ) -> None:
        self.settings = settings
        self.state: State = "starting"
        self.name = name
        self._model = model
        self._forward = forward
        self._warm_up = warm_up
        self._config = model.processor.config
        self._max_tokens = min(settings.max_item_tokens, self._config.max_tokens)
        self._changed = threading.Condition()
        self._lanes = {"text": Lane(), "media": Lane()}
        self._ready = FairQueue()
        self._cost = 0
        self.batch_tokens = settings.batch_tokens or model.batch_tokens().best
        # what the model takes at once
        self._room = self.batch_tokens * _DEVICE_BATCHES.get(model.device.type, 1)
        self._requests: set[Request] = set()
        self._throughput = Throughput()
        self._faults = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self.report_to(metrics or Metrics())

    def report_to(self, metrics: Metrics) -> None:
        """Count there from now on."""
        self.metrics = metrics
        metrics.gauge("queue_cost", lambda: self._cost, engine=self.name)
        metrics.gauge("queue_requests", lambda: len(self._requests), engine=self.name)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be accepted and has a chance."""
        return self.state == "ready" and self._faults < _FAULTS and not self._is_full(0)

    def start(self) -> None:
        """Start the threads; returns when requests are accepted."""
        assert not self._threads, "started twice"
        item = self._model.processor.prepare(self._warm_up)
        list(self._model.run_prepared([item], self._forward))
        media = max(1, self._model.processor.decoder.num_workers)
        for lane, count in (("text", 1), ("media", media)):
            for _ in range(count):
                self._spawn(partial(self._prepare_next, lane), lane)
        self._spawn(self._run_next, "model")
        self.state = "ready"

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new requests, finish those accepted within the time, end the threads."""
        self.state = "stopping"
        waiting = [request.future for request in self._requests]
        if waiting:
            await asyncio.wait(waiting, timeout=grace_seconds)
        with self._changed:
            self._closed = True
            for request in list(self._requests):
                self._give_up(request, Stopping())
            self._changed.notify_all()
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))

    async def _submit(self, items: Sequence[MultimodalInput | Pair | None], role: Role) -> Request:
        """Items through the model; None has its error already. The request is done then.

        Raises:
            Overloaded, EngineTimeout, Stopping, EngineFault: see there.
        """
        if self.state != "ready":
            raise Stopping
        request = Request(len(items), role, asyncio.get_running_loop())
        texts, media = self._units(request, items)
        if not texts and not media:
            return request
        request.cost = sum(unit.cost for unit in (*texts, *media))
        with self._changed:
            if self._is_full(request.cost):
                self.metrics.count("rejected_total", engine=self.name)
                raise Overloaded(self._retry_after())
            self._requests.add(request)
            self._cost += request.cost
            self._lanes["text"].add(texts)
            self._lanes["media"].add(media)
            self._changed.notify_all()
        seconds = self.settings.request_timeout_seconds
        try:
            await asyncio.wait_for(request.future, seconds)
        except TimeoutError:
            raise EngineTimeout(seconds) from None
        finally:
            with self._changed:
                if not request.closed:  # too late, or the client left
                    self.metrics.count("cancelled_total", engine=self.name)
                    self._give_up(request, None)
        return request

    def _units(
        self, request: Request, items: Sequence[MultimodalInput | Pair | None]
    ) -> tuple[list[Unit], list[Unit]]:
        """Texts and media; equal items once."""
        groups = unique_items(items)
        request.num_left = len(groups)
        texts = [group for group in groups if not shows_media(group[0])]
        media = [group for group in groups if shows_media(group[0])]
        most = _PAIRS if media and isinstance(media[0][0], Pair) else 1
        return self._cut(request, texts, _TEXTS), self._cut(request, media, most)

    def _cut(self, request: Request, groups: list[Any], most: int) -> list[Unit]:
        """Units of `most` groups, fewer of long ones."""
        units: list[Unit] = []
        room = 0
        for group in groups:
            cost = estimated_cost(group[0], self._config)
            if not units or len(units[-1].groups) == most or (most > 1 and cost > room):
                units.append(Unit(request, [], 0))
                room = 4 * self.batch_tokens
            units[-1].groups.append(group)
            units[-1].cost += cost
            room -= cost
        return units

    def _is_full(self, cost: int) -> bool:
        """A large request is taken when half of the queue is free, so that small ones never
        keep it out for good."""
        most = self.settings.max_queue_cost
        if not self._cost:
            return False
        if self._cost + min(cost, most // 2) > most:
            return True
        rate = self._throughput.per_second
        return rate is not None and self._cost / rate > self.settings.request_timeout_seconds / 2

    def _retry_after(self) -> float:
        rate = self._throughput.per_second
        return 1.0 if rate is None else min(self._cost / rate / 2, 60.0)

    def _spawn(self, step: Callable[[], bool], what: str) -> None:
        def work() -> None:
            going = True
            while going:
                try:
                    going = step()
                except Exception:  # of our own making: the thread lives on, the log has it
                    logger.exception("%s %s thread", self.name, what)

        thread = threading.Thread(target=work, name=f"mmembed-{self.name}-{what}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _prepare_next(self, lane: str) -> bool:
        with self._changed:
            while (unit := self._lanes[lane].take(self._may_prepare)) is None:
                if self._closed:
                    return False
                self._changed.wait()
        request = unit.request
        started = time.perf_counter()
        try:
            results = self._model.processor.prepare_all(
                [item for item, _ in unit.groups], role=request.role, max_tokens=self._max_tokens
            )
        except Exception as error:
            with self._changed:
                self._lanes[lane].num_to_come -= 1
                self._give_up(request, self._fault(error))
            return True
        seconds = time.perf_counter() - started
        self.metrics.observe("prepare_seconds", seconds, engine=self.name, lane=lane)
        with self._changed:
            self._lanes[lane].num_to_come -= 1
            if not request.closed:
                self._enter(unit, results)
            self._changed.notify_all()
        return True

    def _may_prepare(self, request: Request) -> bool:
        """So that prepared pictures never fill the memory."""
        return (
            request.ready_cost < _READY_ROUNDS * self._room
            and self._ready.cost < _ALL_READY_ROUNDS * self._room
        )

    def _enter(self, unit: Unit, results: Sequence[PreparedItem | InputError]) -> None:
        """What was prepared, to the model; under the lock."""
        request, estimated = unit.request, unit.cost
        cost = 0
        pieces: list[Unit] = []
        for (item, positions), result in zip(unit.groups, results, strict=True):
            if isinstance(result, InputError):
                self._done(request, positions, result)
                continue
            cost += result.cost
            for position in positions:
                request.tokens[position] = result.num_tokens
                request.patches[position] = result.cost - result.num_tokens
                if result.truncated:
                    request.truncated.append(position)
            if not pieces or not isinstance(item, Pair):  # pairs may share a picture
                pieces.append(Unit(request, [], 0))
            pieces[-1].prepared.append(result)
            pieces[-1].positions.append(positions)
            pieces[-1].cost += result.cost
        self._spend(request, estimated - cost)
        for piece in pieces:
            self._ready.push(piece)
        self._close_if_done(request)

    def _run_next(self) -> bool:
        most = self.batch_tokens
        room = self._room
        with self._changed:
            if 0 < self._ready.cost < room and self._lanes["text"].num_to_come:
                self._changed.wait(_GATHER_SECONDS)
            while not (units := self._ready.take(room)):
                if self._closed:
                    return False
                self._changed.notify_all()  # what was given up made room for others
                self._changed.wait()
        items = [item for unit in units for item in unit.prepared]
        cost = sum(unit.cost for unit in units)
        started = time.perf_counter()
        rows = self._rows(items, most)
        seconds = time.perf_counter() - started
        self.metrics.observe("batch_items", len(items), engine=self.name)
        self.metrics.observe("batch_cost", cost, engine=self.name)
        self.metrics.observe("model_seconds", seconds, engine=self.name)
        with self._changed:
            if 2 * cost >= most:  # small batches say nothing of what could be done
                self._throughput.add(cost, seconds)
            at = 0
            for unit in units:
                self._enter_rows(unit, rows[at : at + len(unit.prepared)])
                at += len(unit.prepared)
            self._changed.notify_all()
        return True

    def _rows(self, items: Sequence[PreparedItem], most: int) -> list[Any]:
        """A row, an InputError or an EngineFault for each item."""
        rows: list[Any] = [None] * len(items)
        try:
            for position, row in self._model.run_prepared(items, self._forward, batch_tokens=most):
                finite = isinstance(row, InputError) or np.isfinite(row).all()
                rows[position] = row if finite else InputError("nonfinite", _NONFINITE)
        except Exception:
            logger.exception("%s: a batch of %d items", self.name, len(items))
            self.metrics.count("model_faults_total", engine=self.name)
            if len(items) > 1:  # one of them may be at fault
                return [self._rows([item], most)[0] for item in items]
            self._faults += 1
            return [EngineFault()]
        self._faults = 0
        return rows

    def _enter_rows(self, unit: Unit, rows: Sequence[Any]) -> None:
        request = unit.request
        if request.closed:
            return
        self._spend(request, unit.cost)
        for positions, row in zip(unit.positions, rows, strict=True):
            if isinstance(row, RequestError):
                self._give_up(request, row)
                return
            self._done(request, positions, row)
        self._close_if_done(request)

    def _done(self, request: Request, positions: Sequence[int], outcome: Any) -> None:
        request.enter(positions, outcome)
        request.num_left -= 1
        if isinstance(outcome, InputError):
            self.metrics.count(
                "item_errors_total", len(positions), engine=self.name, code=outcome.code
            )

    def _spend(self, request: Request, cost: int) -> None:
        request.cost -= cost
        self._cost -= cost

    def _close_if_done(self, request: Request) -> None:
        if not request.num_left:
            self.metrics.count("tokens_total", sum(request.tokens), engine=self.name)
            self._give_up(request, None)

    def _give_up(self, request: Request, error: Exception | None) -> None:
        """End a request: done, failed or left by its client; under the lock."""
        if request in self._requests:
            self._requests.remove(request)
            self._cost -= request.cost
        request.close(error)

    def _fault(self, error: Exception) -> RequestError:
        """Of a request that could not be prepared, where no item is at fault."""
        if isinstance(error, MissingDependencyError):
            return RequestError(501, "not_installed", str(error))
        logger.error("%s: preparing items", self.name, exc_info=error)
        return EngineFault()
