"""One pass over the tickets of a shard: what is counted, and what looks as if it needed healing.

A pass reads each ticket once (Direct Get: about 40 us each) and serves the statistics and all sweeps that need to see
every ticket. Such a read may be stale, so whatever it suspects is looked at again on the leader before it is touched.
"""

from collections import Counter
from contextlib import aclosing
from typing import Final

import msgspec

from waypost_queue import codec, listing, subjects
from waypost_queue.model import Wire
from waypost_queue.store import Store, Stored
from waypost_queue.subjects import TicketSubject

MAX_SUSPECTS: Final = 1000  # of one kind in one pass; the next pass sees the others
MAX_NAMES: Final = 2000  # destinations or tenants counted by name; the others are counted together
OTHERS: Final = "(others)"


class _MailGlance(Wire, frozen=True):
    tenant: str = ""


class _HoldGlance(Wire, frozen=True):
    cause: str
    scope: str = ""


class _Glance(Wire, frozen=True):
    """The few fields of a ticket that a pass looks at."""

    mail: _MailGlance
    hold: _HoldGlance | None = None


class Census(msgspec.Struct):
    """What one pass over a shard saw."""

    shard: int
    states: Counter[str] = msgspec.field(default_factory=Counter)
    destinations: Counter[str] = msgspec.field(default_factory=Counter)
    tenants: Counter[str] = msgspec.field(default_factory=Counter)
    held_by: Counter[str] = msgspec.field(default_factory=Counter)  # cause
    scopes: set[str] = msgspec.field(default_factory=set)  # of holds by suspension
    undecodable: int = 0
    held_bundles: int = 0
    oldest: float = float("inf")  # acceptance of the oldest mail with a ticket
    ready_lanes: set[tuple[str, str]] = msgspec.field(default_factory=set)  # (pool, lane) with ready tickets
    overdue: list[tuple[str, int]] = msgspec.field(default_factory=list)  # (subject, sequence)
    crowded: set[str] = msgspec.field(default_factory=set)  # groups with more than one entry


async def take(
    store: Store, shard: int, *, now: float, overdue_after: float, unneeded: set[str] | None = None
) -> Census:
    """Passes over all tickets of a shard. `now`: the stream's clock; `overdue_after`: seconds.

    `unneeded`: mail ids of stored bodies; each that has a ticket is taken out of the set.
    """
    census = Census(shard)
    seen: set[int] = set()
    async with aclosing(store.direct(subjects.queue_stream(shard), f"q{shard}.>")) as stream:
        async for stored in stream:
            at = TicketSubject(stored.subject)
            if unneeded is not None:
                unneeded.discard(at.mail)
            if at.state == "guard":
                continue
            _count(census, at, stored)
            # an entry without a schedule never fires: it was due when it was stored
            due = listing.due_of(stored) or stored.time
            if at.state == "sched" and now - due > overdue_after and len(census.overdue) < MAX_SUSPECTS:
                census.overdue.append((stored.subject, stored.seq))
            group = f"q{shard}.*.*.*.{at.domain_token}.{at.mail}.{at.n}"
            known = hash(group)
            if known in seen and len(census.crowded) < MAX_SUSPECTS:
                census.crowded.add(group)
            seen.add(known)
    return census


def _count(census: Census, at: TicketSubject, stored: Stored) -> None:
    census.states[at.state] += 1
    if at.state == "ready":
        census.ready_lanes.add((at.pool, at.lane))
    if at.mail.startswith(listing.HELD_BUNDLE):
        census.held_bundles += 1
        census.held_by["format"] += 1
        return
    census.oldest = min(census.oldest, listing.stored_mail_time(at.mail))
    _bounded(census.destinations, subjects.untoken(at.domain_token))
    try:
        glance = codec.decode(stored.data, _Glance)
    except codec.UndecodableError:
        census.undecodable += 1
        if at.state == "hold":
            census.held_by["format"] += 1
        return
    _bounded(census.tenants, glance.mail.tenant)
    if at.state == "hold" and glance.hold is not None:
        census.held_by[glance.hold.cause] += 1
        if glance.hold.cause == "suspended":
            census.scopes.add(glance.hold.scope)


def _bounded(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < MAX_NAMES else OTHERS] += 1
