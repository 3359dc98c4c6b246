"""When a site may be sent to: rate, rest after failures, adaptive concurrency, and when what is spilled may come back.

Pure: time is an argument (seconds on any monotonic clock). These hold for one process; nothing here is stored.
"""

import random

from msgspec import Struct

_TRIP = 5  # connection failures in a row that make a site rest
_REST = 15.0  # seconds, doubled with each failed probe
_MOST_REST = 600.0
_MOST_BACKLOG = 3600.0  # seconds: what is spilled looks again within an hour, whatever the estimate
_FIRST_WINDOW = 10.0

_random = random.SystemRandom()


class Breaker(Struct):
    """Rests a site whose hosts can't be reached; then lets one attempt through to see.

    `admit` hands out the probe: whoever got True while `resting_until` is set must say how it ended.
    """

    failures: int = 0
    rests: int = 0
    resting_until: float = 0.0
    probing: bool = False

    def admit(self, now: float) -> bool:
        """Whether an attempt may be made now."""
        if not self.resting_until:
            return True
        if now < self.resting_until or self.probing:
            return False
        self.probing = True
        return True

    def failed(self, now: float) -> bool:
        """No host could be reached; whether the site begins to rest, or goes on resting, by this."""
        self.failures += 1
        if self.resting_until and not self.probing:
            return False  # an attempt from before the rest
        if self.failures < _TRIP and not self.probing:
            return False
        self.probing = False
        self.resting_until = now + min(_REST * 2**self.rests, _MOST_REST) * _random.uniform(0.9, 1.1)
        self.rests = min(self.rests + 1, 10)
        return True

    def succeeded(self) -> None:
        """A host was reached."""
        self.failures = self.rests = 0
        self.resting_until = 0.0
        self.probing = False

    def gave_up(self) -> None:
        """The attempt ended without having learned anything (cancelled): another may probe."""
        self.probing = False


class Bucket(Struct):
    """A token bucket of messages: `rate` a second, and as many at once as ten seconds bring."""

    rate: float
    tokens: float = 1.0
    at: float = 0.0

    def take(self, now: float) -> bool:
        """Takes a token if there is one."""
        self.tokens = min(self.tokens + (now - self.at) * self.rate, max(self.rate * 10, 1.0))
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Window(Struct):
    """How many connections a site bears: halved when it throttles or refuses, grown by one for each full round."""

    value: float = _FIRST_WINDOW
    shrunk_at: float = float("-inf")

    def capacity(self, limit: int) -> int:
        return max(min(int(self.value), limit), 1)

    def good(self, limit: int) -> None:
        if self.value < limit:
            self.value = min(self.value + 1.0 / self.value, limit)

    def bad(self, now: float, limit: int) -> None:
        """Once a second at most: the replies to one burst are one signal."""
        if now - self.shrunk_at >= 1.0:
            self.value = max(min(self.value, limit) / 2, 1.0)
            self.shrunk_at = now


class Backlog(Struct):
    """Books what is spilled into the future, one after the other, at the rate that the site takes mail.

    So a million mails to a slow site come back spread over the time that it needs, not all at once.
    """

    next_free: float = 0.0

    def book(self, now: float, not_before: float, rate: float) -> float:
        """Seconds from now until this one may look again; `rate` in mails a second."""
        slot = max(self.next_free, not_before, now)
        self.next_free = slot + 1.0 / max(rate, 0.001)
        if slot - now > _MOST_BACKLOG:
            return _random.uniform(_MOST_BACKLOG / 2, _MOST_BACKLOG)
        return max(slot - now, 0.1)
