"""When a request may be sent: rate limits, waits that a server asked for, and backoff.

Pure arithmetic over a clock that is passed in; `client.py` does the waiting.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["Backoff", "Pace", "TokenBucket", "retry_after_seconds"]


class TokenBucket:
    """At most `per_minute` units a minute, of which one second's worth (or one unit) at once.

    A caller that takes more than there is goes into debt and is told how long to wait, so waiting
    callers are served in the order in which they came. Not thread-safe.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self._per_second = per_minute / 60.0
        self._capacity = max(1.0, self._per_second)
        self._level = self._capacity
        self._filled_at = now

    def take(self, units: float, now: float) -> float:
        """Take `units` and give the seconds to wait before using them."""
        elapsed = max(0.0, now - self._filled_at)
        self._level = min(self._capacity, self._level + elapsed * self._per_second)
        self._filled_at = max(now, self._filled_at)
        self._level -= units
        return max(0.0, -self._level / self._per_second)


class Pace:
    """The limits of all threads of one client together. Thread-safe."""

    def __init__(
        self,
        *,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        now: float,
    ) -> None:
        self._lock = threading.Lock()
        self._requests = TokenBucket(requests_per_minute, now) if requests_per_minute else None
        self._tokens = TokenBucket(tokens_per_minute, now) if tokens_per_minute else None
        self._closed_until = now

    def enter(self, num_tokens: float, now: float) -> float:
        """Reserve one request of about `num_tokens` tokens; seconds to wait before sending it."""
        with self._lock:
            waits = [self._closed_until - now, 0.0]
            if self._requests is not None:
                waits.append(self._requests.take(1.0, now))
            if self._tokens is not None:
                waits.append(self._tokens.take(num_tokens, now))
            return max(waits)

    def settle(self, estimated: float, used: float, now: float) -> None:
        """Correct the reservation by what the server says was used."""
        with self._lock:
            if self._tokens is not None:
                self._tokens.take(used - estimated, now)

    def close_for(self, seconds: float, now: float) -> None:
        """A server that is overloaded says so to one thread and means all of them."""
        with self._lock:
            self._closed_until = max(self._closed_until, now + seconds)


class Backoff:
    """Exponential waits with jitter: half of the wait is certain, half is drawn. Thread-safe."""

    def __init__(self, *, first_seconds: float, most_seconds: float, seed: int) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def seconds(self, attempt: int) -> float:
        """The wait after failed attempt number `attempt`, from 0."""
        longest = min(self._most, self._first * 2.0 ** min(attempt, 60))
        with self._lock:
            return longest * (0.5 + 0.5 * self._random.random())


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """What `Retry-After` asks for, as seconds or as an HTTP date; None when it says nothing."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None
