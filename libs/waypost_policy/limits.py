"""Limits over time: recipients a minute and a day, per credential, domain and address. Pure: time is an argument.

A minute is a sliding window (the last minute's count fades out), a day is a UTC day. Each process counts what it grants
at once, and merges what the others tell (`taken` out, `merge` in), so that a limit holds over all replicas with a lag of
one gossip round.
"""

from msgspec import Struct
from waypost_queue.subjects import FAST


class Scope(Struct, frozen=True):
    """One counted thing: `key` names it for gossip, `who` and `of` for people."""

    key: str
    who: str
    of: str
    per_minute: int | None = None
    per_day: int | None = None


class Exceeded(Struct, frozen=True):
    """What was exceeded and when to come back."""

    scope: Scope
    window: str  # "minute" | "day"
    limit: int
    seconds: int


class Limiter:
    """Counters of all scopes that have a limit. Memory is bounded by `capacity` scopes."""

    def take(self, scopes: tuple[Scope, ...], recipients: int, now: float) -> Exceeded | None:
        """Count `recipients` in every scope, or in none and say which was exceeded."""
        raise NotImplementedError

    def give_back(self, scopes: tuple[Scope, ...], recipients: int, now: float) -> None:
        """What was taken for a mail that was not accepted."""
        raise NotImplementedError


class FairShare:
    """Which lane a mail takes: `fast`, or the tenant's bulk lane while the tenant is over its token bucket."""

    def lane(self, tenant: str, recipients: int, now: float) -> str:
        """The lane, with the recipients counted."""
        return FAST
