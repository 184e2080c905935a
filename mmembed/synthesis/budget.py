"""What a run may cost, counted by what the server says it used, and reserved before it is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mmembed.errors import MMEmbedError
from mmembed.synthesis.pipeline import Limits

__all__ = ["Budget", "BudgetSpent", "text_tokens", "tokens_of_messages"]

BYTES_PER_TOKEN = 3.0  # ours: English has 4 to 5 a token, Chinese 3 to 5; better too many tokens


class BudgetSpent(MMEmbedError, ValueError):  # noqa: N818  ends a run as planned
    """The next request could go beyond the limits of the run."""


def text_tokens(text: str) -> float:
    """About how many tokens a text has; rather too many."""
    return len(text.encode(errors="replace")) / BYTES_PER_TOKEN


def tokens_of_messages(messages: Sequence[Mapping[str, Any]], picture_tokens: float) -> float:
    """Of a request without its pictures, and `picture_tokens` for those."""
    total = picture_tokens
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            total += text_tokens(content)
        else:
            total += sum(text_tokens(part["text"]) for part in content if "text" in part)
    return total + text_tokens(json.dumps([{"role": m["role"]} for m in messages]))


class Budget:
    """Spent and reserved. Thread-safe.

    A request is sent only when its expected input and its longest possible answer fit, so that
    all requests together stay within `max_cost` as far as the input is not underestimated.
    """

    def __init__(self, limits: Limits, *, num_requests: int, tokens: tuple[int, int]) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self.num_requests = num_requests
        self.spent = self.cost(*tokens)
        self._reserved = 0.0

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """0 without prices."""
        prices = self._limits.price_per_million
        if prices is None:
            return 0.0
        return (input_tokens * prices.input + output_tokens * prices.output) / 1e6

    def reserve(self, input_tokens: float, max_tokens: float) -> float:
        """Count a request in; gives what `settle` takes back.

        Raises:
            BudgetSpent: it could go beyond a limit.
        """
        most = self.cost(input_tokens, max_tokens)
        limits = self._limits
        with self._lock:
            if limits.max_requests is not None and self.num_requests >= limits.max_requests:
                raise BudgetSpent(
                    f"{self.num_requests} requests were made, which is max_requests; raise it and "
                    "run the same command to go on"
                )
            if limits.max_cost is not None:
                committed = self.spent + self._reserved
                if committed + most > limits.max_cost:
                    raise BudgetSpent(
                        f"{committed:.4f} are spent or under way and the next request may cost "
                        f"{most:.4f}, which is more than max_cost {limits.max_cost:g}; raise it "
                        "and run the same command to go on"
                    )
            self.num_requests += 1
            self._reserved += most
        return most

    def settle(self, reserved: float, input_tokens: float, output_tokens: float) -> None:
        """The answer came and used so much; nothing, when the request failed."""
        with self._lock:
            self._reserved -= reserved
            self.spent += self.cost(input_tokens, output_tokens)
