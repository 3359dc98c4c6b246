"""The seam between the queue's engine and whoever delivers: what is handed over, and what comes back.

The engine (`engine`) pulls, owns, recovers, settles and acks, in the order that docs/architecture.md gives; the handler
attempts, and decides what its outcomes mean (retry, expiry, reports). Nothing here is stored.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from .model import ControlMark, Hold, Mail, Recipient, Reply, Report, Settled, Ticket


class Work(Struct, frozen=True, kw_only=True):
    """One group (mail, destination domain) to attempt: `indexes` are what remains of it."""

    mail: Mail  # of a ticket: `recipients` are the ticket's own; use `recipients` below
    domain: str
    n: int
    indexes: tuple[int, ...]
    recipients: dict[int, Recipient]  # by original index
    shard: int
    pool: str
    lane: str
    stored_at: float  # stream time of the message (of a marked one: its original's)
    now: float  # the stream's clock
    ticket: Ticket | None  # None: the first attempt, out of a bundle
    recovered: bool
    mark: ControlMark | None  # a control mark on this mail, if any: heed it before an attempt
    body: Callable[[], Awaitable[bytes]]  # the content; raises BodyMissingError
    owned: Callable[[], bool]  # look with nothing awaited before the bytes that deliver (the final dot)

    @property
    def attempts_made(self) -> int:
        return self.ticket.attempt if self.ticket is not None else 0


class Wait(Struct, frozen=True, kw_only=True):
    """What must wait becomes a ticket: scheduled at `at` (stream's clock), or held."""

    indexes: tuple[int, ...]
    at: float
    pool: str
    lane: str
    attempt: int  # attempts made, this one included if it was one
    last: Reply | None = None
    hold: Hold | None = None
    held_total: float = 0.0
    delay_notified: bool = False
    first_attempt: float = 0.0


class Decision(Struct, frozen=True, kw_only=True):
    """What a handler made of a group. Every index of the work is in `settled` or in `wait`, never in both or neither.

    `owed`: DSNs (failure, success, relayed) that go with `settled`; `delay`: a delay notice about `wait`.
    """

    settled: tuple[Settled, ...] = ()
    owed: tuple[Report, ...] = ()
    delay: Report | None = None
    wait: Wait | None = None


class BodyMissingError(Exception):
    """A mail whose body is in no store: the engine holds it with an alarm."""


class Handler(Protocol):
    """Whoever delivers. It keeps no state that a crash would miss."""

    async def attempt(self, work: Work) -> Decision:
        """Attempts the group and decides. May raise OwnershipLostError (nothing is published, the message comes back).

        Any other exception is a fault of ours: the engine logs it with a traceback and lets the message come back.
        """

    async def report(self, work: Work, report: Report) -> Mail:
        """The DSN for `report` as a mail with `id == report.id`, content inline, one or more recipients.

        Called again by recovery with the same report: the result must be equivalent. Raises BodyMissingError.
        """

    def settled(self, work: Work, decision: Decision) -> None:
        """All of the decision is on disk: tell the world (events). Must not block, must not raise."""

    def lane_for_retry(self, mail: Mail) -> str:
        """The lane of a ticket that the engine itself makes (third delivery of a bundle, takeover)."""
