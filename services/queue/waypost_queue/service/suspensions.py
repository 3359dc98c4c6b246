"""The end of a suspension: what it held goes on its way, at a rate; what a person held stays.

Level-triggered: a pass over the held tickets compares each one's scope with the configuration in force, so that an end
that came while no queue service ran is seen too. Delivery holds what comes while a suspension lasts.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import opentelemetry.metrics
import structlog
from msgspec import structs

from waypost_queue import listing, subjects
from waypost_queue.clock import StreamClock
from waypost_queue.config import Snapshot
from waypost_queue.errors import FencedError
from waypost_queue.store import Store

from . import moves

log = structlog.get_logger(__name__)
_meter = opentelemetry.metrics.get_meter("waypost")

RELEASED = _meter.create_counter(
    "waypost.suspensions.released", unit="{ticket}", description="Tickets released because their suspension had ended"
)

RATE: Final = 50.0  # tickets a second and scope, unless a DestinationPolicy says messagesPerMinute
_PASS: Final = 60.0  # s that one pass may take: the next sees what came meanwhile
_SCOPES: Final = 200  # suspensions that end at once; the next pass takes the others


def ended(scope: str, snapshot: Snapshot) -> bool:
    """Whether the suspension that `scope` names is over: resumed, or its object is gone.

    A configuration that was never written says nothing: then nothing is released.
    """
    kind, _, name = scope.partition(":")
    if snapshot.meta.generation == 0:
        return False
    if kind == "domain":
        domain = snapshot.domains.get(name)
        return domain is None or domain.suspend not in ("Outbound", "All")
    if kind == "policy":
        policy = snapshot.policies.get(name)
        return policy is None or not policy.suspended
    return False


def rate(scope: str, snapshot: Snapshot) -> float:
    """Tickets a second."""
    kind, _, name = scope.partition(":")
    policy = snapshot.policies.get(name) if kind == "policy" else None
    if policy is not None and policy.limits.messages_per_minute:
        return policy.limits.messages_per_minute / 60
    return RATE


class Suspensions:
    """Releases in one shard. `snapshot()` is the configuration in force."""

    def __init__(self, store: Store, shard: int, clock: StreamClock, snapshot: Callable[[], Snapshot]) -> None:
        self._store = store
        self._shard = shard
        self._stream = subjects.queue_stream(shard)
        self._clock = clock
        self._snapshot = snapshot

    async def release(self) -> int:
        """Releases what a minute's rate allows, each scope beside the others; how many tickets. Raises StoreError."""
        due = await self._due()
        counts = await asyncio.gather(*(self._drain(scope, entries) for scope, entries in due.items()))
        for scope, number in zip(due, counts, strict=True):
            log.info("suspensions.released", scope=scope, shard=self._shard, tickets=number)
        return sum(counts)

    async def _due(self) -> dict[str, list[str]]:
        """Scope -> subjects of tickets to be released now."""
        snapshot = self._snapshot()
        due: dict[str, list[str]] = {}
        async with aclosing(self._store.direct(self._stream, f"q{self._shard}.hold.>")) as held:
            async for stored in held:
                scope = _suspended_by(listing.read(stored))
                if not scope or not ended(scope, snapshot) or (scope not in due and len(due) >= _SCOPES):
                    continue
                entries = due.setdefault(scope, [])
                if len(entries) < max(1, int(rate(scope, snapshot) * _PASS)):
                    entries.append(stored.subject)
        return due

    async def _drain(self, scope: str, entries: list[str]) -> int:
        """Releases one scope's tickets at its rate, and stops if it is suspended again meanwhile."""
        released = 0
        started = time.monotonic()
        for subject in entries:
            snapshot = self._snapshot()
            if not ended(scope, snapshot):
                break
            stored = await self._store.last(self._stream, subject)
            if stored is None or _suspended_by(found := listing.read(stored)) != scope:
                continue  # someone acted on it meanwhile
            now = self._clock.now()
            ticket = structs.replace(
                moves.unheld(found.ticket, now), verdict="release", verdict_by=f"end of {scope}", due=now
            )
            try:
                await moves.publish(self._store, moves.to_ready(found.subject, found.seq, ticket))
            except FencedError:
                continue
            RELEASED.add(1)
            released += 1
            ahead = released / rate(scope, snapshot) - (time.monotonic() - started)
            if ahead > 0:
                await asyncio.sleep(ahead)
        return released


def _suspended_by(found: listing.Found) -> str:
    """The scope of the suspension that holds a ticket; "" when another cause does."""
    hold = found.ticket.hold
    return hold.scope if hold is not None and hold.cause == "suspended" else ""
