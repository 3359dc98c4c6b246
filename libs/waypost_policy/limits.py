"""Limits over time: recipients a minute and a day, per credential, domain and address. Pure: time is an argument.

A minute is a sliding window (the last minute's count fades out as this one passes), a day is a UTC day. Each process
counts what it grants at once; what it granted goes out to the others by `drain`, and what they granted comes in by
`merge`, so a limit holds over all replicas with a lag of one round of gossip (`waypost_queue.usage`).
"""

import math
from typing import Final, Literal

from msgspec import Struct

from waypost_queue.model import UsageDelta
from waypost_queue.subjects import FAST, bulk_lane

MINUTE: Final = 60
DAY: Final = 86400
Window = Literal["minute", "day"]


class Scope(Struct, frozen=True):
    """One thing that is counted: `key` names it in gossip, `who` and `of` (whose limit it is) name it to people."""

    key: str
    who: str
    of: str
    per_minute: int | None = None  # recipients
    per_day: int | None = None  # recipients


class Exceeded(Struct, frozen=True):
    """Which limit was reached, and in how many seconds to come back."""

    scope: Scope
    window: Window
    limit: int
    seconds: int


class _Count:
    """One counter: this window's count, the one before it, and what has not been told to the others."""

    __slots__ = ("current", "previous", "untold", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.current = self.previous = self.untold = 0

    def advance(self, window: int) -> None:
        if window > self.window:
            self.previous = self.current if window == self.window + 1 else 0
            self.current = self.untold = 0
            self.window = window


class Limiter:
    """The counters of every scope that has a limit. At most `capacity` a kind of window; the oldest is forgotten."""

    def __init__(self, capacity: int = 65536) -> None:
        self._capacity = capacity
        self._minutes: dict[str, _Count] = {}
        self._days: dict[str, _Count] = {}

    def take(self, scopes: tuple[Scope, ...], recipients: int, now: float) -> Exceeded | None:
        """Count `recipients` in every scope; or in none, and say which limit is in the way."""
        if not scopes:
            return None
        for scope in scopes:
            if scope.per_minute is not None:
                wait = self._minute_wait(scope.key, scope.per_minute - recipients, now)
                if wait:
                    return Exceeded(scope, "minute", scope.per_minute, wait)
            if scope.per_day is not None:
                count = self._count(self._days, scope.key, int(now) // DAY)
                if count.current + recipients > scope.per_day:
                    return Exceeded(scope, "day", scope.per_day, DAY - int(now) % DAY)
        self._add(scopes, recipients, now)
        return None

    def give_back(self, scopes: tuple[Scope, ...], recipients: int, now: float) -> None:
        """Uncount what was taken for a mail that was not accepted."""
        if recipients:
            self._add(scopes, -recipients, now)

    def drain(self) -> list[UsageDelta]:
        """What was granted here since the last call, for the other replicas."""
        deltas = []
        for kind, counts in (("minute", self._minutes), ("day", self._days)):
            for key, count in counts.items():
                if count.untold:
                    deltas.append(UsageDelta(key=f"{kind}:{key}", window=count.window, recipients=count.untold))
                    count.untold = 0
        return deltas

    def merge(self, deltas: list[UsageDelta]) -> None:
        """What was granted elsewhere (never one's own). Windows that have passed are of no interest."""
        for delta in deltas:
            count = self._told(delta)
            if delta.window == count.window:
                count.current = max(0, count.current + delta.recipients)
            elif delta.window == count.window - 1:
                count.previous = max(0, count.previous + delta.recipients)

    def adopt(self, totals: list[UsageDelta]) -> None:
        """What all replicas granted together, this one too: counts rise to it, and are never added to."""
        for total in totals:
            count = self._told(total)
            if total.window == count.window:
                count.current = max(count.current, total.recipients)
            elif total.window == count.window - 1:
                count.previous = max(count.previous, total.recipients)

    def _told(self, delta: UsageDelta) -> _Count:
        kind, _, key = delta.key.partition(":")
        return self._count(self._minutes if kind == "minute" else self._days, key, delta.window)

    def _minute_wait(self, key: str, room: int, now: float) -> int:
        """Seconds until the sliding minute's count is at most `room`; 0 = it is."""
        minute, elapsed = divmod(now, MINUTE)
        count = self._count(self._minutes, key, int(minute))
        if room < 0:  # more at once than a minute takes: it never fits
            return MINUTE
        if count.current + count.previous * (1 - elapsed / MINUTE) <= room:
            return 0
        if count.current <= room:  # it fits once enough of the last minute has faded
            return max(1, math.ceil(MINUTE * (1 - (room - count.current) / count.previous) - elapsed))
        fade = 1 - room / count.current
        return max(1, math.ceil(MINUTE - elapsed + MINUTE * fade))

    def _add(self, scopes: tuple[Scope, ...], recipients: int, now: float) -> None:
        for scope in scopes:
            if scope.per_minute is not None:
                _change(self._count(self._minutes, scope.key, int(now) // MINUTE), recipients)
            if scope.per_day is not None:
                _change(self._count(self._days, scope.key, int(now) // DAY), recipients)

    def _count(self, counts: dict[str, _Count], key: str, window: int) -> _Count:
        count = counts.get(key)
        if count is None:
            if len(counts) >= self._capacity:
                del counts[next(iter(counts))]
            count = counts[key] = _Count(window)
        elif window > count.window:
            count.advance(window)
        return count


def _change(count: _Count, recipients: int) -> None:
    """Never below zero: what is given back may have been taken in the window before."""
    change = max(recipients, -count.current)
    count.current += change
    count.untold += change


class FairShare:
    """The lane of a mail: `fast`, or the tenant's bulk lane while the tenant is over its token bucket.

    So a flood waits behind itself. `rate` is in recipients a second, `burst` in recipients, for each tenant in each
    process.
    """

    def __init__(self, rate: float = 100.0, burst: float = 2000.0, capacity: int = 16384) -> None:
        self._rate, self._burst, self._capacity = rate, burst, capacity
        self._buckets: dict[str, tuple[float, float]] = {}  # tenant -> (tokens, at)

    def lane(self, tenant: str, recipients: int, now: float) -> str:
        """The lane of a mail with so many recipients, which are counted."""
        tokens, at = self._buckets.get(tenant) or self._open(now)
        tokens = min(self._burst, tokens + max(0.0, now - at) * self._rate)
        if tokens < recipients and tokens < self._burst:  # a mail larger than the bucket passes when it is full
            self._buckets[tenant] = (tokens, now)
            return bulk_lane(tenant)
        self._buckets[tenant] = (tokens - recipients, now)
        return FAST

    def _open(self, now: float) -> tuple[float, float]:
        """A full bucket; the oldest tenant's goes if there is no room."""
        if len(self._buckets) >= self._capacity:
            del self._buckets[next(iter(self._buckets))]
        return self._burst, now
