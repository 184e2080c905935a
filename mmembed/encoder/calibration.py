"""How many tokens run together: a default for each device, tried against its neighbours.

Large calls try half and twice the default on their own batches, so that nothing is computed in
vain, and what is clearly faster is used from then on. The choice is remembered in a small file of
the user's cache folder, for one shape of model on one kind of device. Vectors do not depend on it
beyond rounding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from mmembed.encoder.batching import Batch
from mmembed.encoder.encoder import Encoder
from mmembed.store.durable import write_atomically
from mmembed.tables.cache import cache_folder

__all__ = ["BatchTokens", "CallBudget", "memory_file", "sample_texts", "setting"]

logger = logging.getLogger(__name__)

_DEFAULTS = {"cuda": 16384}
_ELSEWHERE = 2048  # fits the caches of a CPU core
_ROUNDS = 5
_GAIN = 1.05
_MOST_BYTES = 2**20
_MOST_SETTINGS = 256


class BatchTokens:
    """The batch tokens of one model on one device.

    Args:
        setting: names model, device, dtype and threads; see `setting`.
        device_type: `cuda`, `cpu`, ...: decides the default.
        memory: the file that remembers choices; None or an unusable one: without.

    Attributes:
        limit: what fits, where memory ran out in this process. Not kept on disk: another process
            may have held the memory.
        insists: try in calls of any size.
    """

    insists = False

    def __init__(self, setting: str, device_type: str, memory: Path | None) -> None:
        self.default = _DEFAULTS.get(device_type, _ELSEWHERE)
        self.candidates = (self.default, self.default // 2, self.default * 2)
        self.limit: int | None = None
        self._setting = setting
        self._memory = memory
        remembered = _read(memory).get(setting)
        self.chosen = remembered if remembered in self.candidates else None
        self._gains: dict[int, list[float]] = {budget: [] for budget in self.candidates[1:]}

    @property
    def best(self) -> int:
        """What calls use, as far as is known."""
        return self.chosen or self.default

    @property
    def round_cost(self) -> int:
        """Tokens of both towers in one round of trials."""
        return 2 * sum(self.candidates)

    def trial_cost(self) -> int:
        """Tokens of both towers that all remaining rounds take; 0 when there is nothing to try."""
        if self.chosen is not None or self.limit is not None:
            return 0
        return (_ROUNDS - min(map(len, self._gains.values()))) * self.round_cost

    def plan(self) -> list[int]:
        """The budgets of one round: there and back, since lengths fall within a window."""
        return [*self.candidates, *reversed(self.candidates)]

    def count(self, seconds_per_token: dict[int, float]) -> None:
        """Enter a complete round; the last one decides."""
        for budget, gains in self._gains.items():
            gains.append(seconds_per_token[self.default] / seconds_per_token[budget])
        if len(gains) < _ROUNDS:
            return
        # the gain that all rounds but one reach: noise must not choose
        surely = {budget: sorted(gains)[1] for budget, gains in self._gains.items()}
        best = max(surely, key=surely.__getitem__)
        self.chosen = best if surely[best] >= _GAIN else self.default
        middle = {budget: round(median(gains), 2) for budget, gains in self._gains.items()}
        logger.info("batch_tokens %d; speed against %d: %s", self.chosen, self.default, middle)
        _remember(self._memory, self._setting, self.chosen)

    def forget(self) -> None:
        """Try again from the start."""
        self.chosen = self.limit = None
        for gains in self._gains.values():
            gains.clear()


class CallBudget:
    """The budget of each batch of one call.

    Args:
        tokens: of the model on this device; learns from the call.
        explicit: what the caller gave; always wins, but for what does not fit into memory.
        can_try: whether batches are bounded by their tokens only.
    """

    def __init__(self, tokens: BatchTokens, explicit: int | None, *, can_try: bool) -> None:
        self._tokens = tokens
        self._explicit = explicit
        self._can_try = can_try and explicit is None
        self._limit = explicit or tokens.limit
        self._trying = False
        self._plan: deque[int] = deque()
        self._round: list[tuple[int, int, float]] = []

    def expect(self, cost: int) -> None:
        """At the start of a window: what the call still has before it, about.

        A round lies within one window.
        """
        self._plan.clear()
        self._round.clear()
        needed = self._tokens.trial_cost()
        enough = cost >= 2 * needed or self._tokens.insists
        self._trying = self._can_try and needed > 0 and enough

    def next(self) -> int:
        """The budget of the next batch."""
        if self._trying:
            if not self._plan:
                self._plan.extend(self._tokens.plan())
            return self._plan.popleft()
        budget = self._explicit or self._tokens.best
        return budget if self._limit is None else min(budget, self._limit)

    def measured(self, batch: Batch, seconds: float) -> None:
        """After each batch of a window, in order."""
        if not self._trying:
            return
        self._round.append((batch.budget, batch.cost, seconds))
        plan = self._tokens.plan()
        if len(self._round) < len(plan):
            return
        done, self._round = self._round, []
        if any(2 * cost < budget for budget, cost, _ in done):  # what was left of a window
            return
        self._tokens.count({budget: _per_token(done, budget) for budget in set(plan)})
        self._trying = self._tokens.trial_cost() > 0

    def fits(self, cost: int) -> bool:
        """False: memory ran out for batches like this."""
        return self._limit is None or cost <= self._limit

    def out_of_memory(self, cost: int) -> None:
        """Later batches are at most half as large: of this call, without `explicit` of all."""
        self._limit = min(self._limit or cost, max(1, cost // 2))
        self._trying = False
        if self._explicit is None:
            self._tokens.limit = self._limit


def _per_token(measured: Sequence[tuple[int, int, float]], wanted: int) -> float:
    chosen = [(cost, seconds) for budget, cost, seconds in measured if budget == wanted]
    return max(sum(seconds for _, seconds in chosen), 1e-9) / sum(cost for cost, _ in chosen)


def setting(encoder: Encoder) -> str:
    """Names what decides the speed of a batch: the model's shape, device, dtype and threads."""
    model: Any = encoder.backbone.model
    shape = {
        name: value
        for name, value in model.config.to_dict().items()
        if name not in ("_name_or_path", "transformers_version", "architectures")
    }
    shape["attention"] = encoder.config.attention
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()
    device, dtype = encoder.device, str(model.dtype)
    if torch.is_autocast_enabled(device.type):
        dtype = f"{torch.get_autocast_dtype(device.type)} autocast"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        name = f"{device.type} {capability}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{digest[:16]} {dtype} on {name}, torch {torch.__version__}"


def memory_file() -> Path | None:
    """In the user's cache; None without a home. It only ever holds what can be measured again."""
    folder = cache_folder()
    return None if folder is None else folder / "batch_tokens.json"


def sample_texts(round_cost: int) -> list[str]:
    """Texts of common lengths, enough of them for some rounds."""
    lengths = np.random.default_rng(0).lognormal(np.log(40), 0.8, max(1024, round_cost // 14))
    return [f"{number} " + "of the " * int(min(n, 500) / 2) for number, n in enumerate(lengths)]


def _read(memory: Path | None) -> dict[str, int]:
    """Settings and their batch tokens; nothing of a file that is not ours."""
    try:
        if memory is None or memory.stat().st_size > _MOST_BYTES:
            return {}
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if type(value) is int}


def _remember(memory: Path | None, setting: str, batch_tokens: int) -> None:
    if memory is None:
        return
    found = {**_read(memory), setting: batch_tokens}
    recent = dict(list(found.items())[-_MOST_SETTINGS:])
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps(recent, indent=1).encode("ascii") + b"\n")
    except OSError as error:
        logger.info("batch_tokens are not remembered: %s", error.strerror or error)
