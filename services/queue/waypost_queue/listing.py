"""What the queue holds, read without touching it: counts by destination, tickets, the tickets of one mail.

Used by the API and by the queue service. A count is made from subjects alone; what waits for its first attempt lies in
bundles, which are read up to a bound. An entry that can't be decoded is listed all the same, as a held ticket that says
why: what is not shown can't be released.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Literal, NamedTuple

import structlog

from . import codec, ids, subjects
from .model import Bundle, Hold, Mail, Recipient, Ticket, Wire, groups_of
from .poison import REASON_HEADER, TIME_HEADER
from .store import Store, Stored, parse_time
from .subjects import TicketState, TicketSubject

log = structlog.get_logger(__name__)

SCAN_BYTES: Final = 64 << 20  # of bundles read for one answer
STATISTICS: Final = "ctl.stats"  # request subject
_INFO_TIMEOUT: Final = 20.0  # s: a page of 100,000 subjects takes 2 s, more on a busy server
HELD_BUNDLE: Final = "bundle-"  # begins the mail token of a bundle that is held whole


class DestinationCount(Wire, frozen=True):
    """The groups (mail, domain) that wait for one destination.

    `waiting`: for their first attempt (a lower bound while more than SCAN_BYTES of bundles wait); `deferred`: stored as
    tickets, to be tried again; `held`: until someone or something releases them. `oldest`: when the oldest of them was
    accepted, Unix seconds.
    """

    domain: str
    waiting: int = 0
    deferred: int = 0
    held: int = 0
    oldest: float = 0.0


class LaneStatistics(Wire, frozen=True):
    """One consumer that has something, or someone who pulls. `pending`: not yet delivered; `in_hand`: not yet acked."""

    shard: int
    stream: Literal["intake", "queue"]
    pool: str
    lane: str
    pending: int = 0
    in_hand: int = 0
    pulls: int = 0  # pull requests that wait: 0 with `pending` = nobody serves this pool


class ShardStatistics(Wire, frozen=True):
    """Octets, counts, and times in Unix seconds (0 = there is none)."""

    shard: int
    bundles: int = 0
    oldest_bundle: float = 0.0
    intake_bytes: int = 0
    intake_limit: int = 0
    spool_bytes: int = 0
    spool_limit: int = 0
    settle_bytes: int = 0
    settle_limit: int = 0
    ready: int = 0  # from here on by the last pass over all tickets
    deferred: int = 0
    held: int = 0
    undecodable: int = 0
    oldest_ticket: float = 0.0


class QueueStatistics(Wire, frozen=True):
    """What the active queue service knows. Lists name the most numerous; `(others)` counts the rest together."""

    at: float
    by: str  # the instance that is active
    shards: tuple[ShardStatistics, ...] = ()
    lanes: tuple[LaneStatistics, ...] = ()
    destinations: tuple[tuple[str, int], ...] = ()
    tenants: tuple[tuple[str, int], ...] = ()
    held_by: tuple[tuple[str, int], ...] = ()  # cause, tickets
    marks: int = 0
    unserved_pools: tuple[str, ...] = ()


class Found(NamedTuple):
    """A ticket where it lies. `problem` is not "" when its bytes can't be decoded: `ticket` is then a stand-in."""

    subject: str
    seq: int
    ticket: Ticket
    problem: str = ""
    data: bytes = b""
    stored: float = 0.0  # stream time; of an original that is held as it is, when that was stored
    due: float = 0.0  # when its schedule fires; 0 = it has none


async def destinations(store: Store, shards: int) -> list[DestinationCount]:
    """All destinations with something queued, the most first."""
    tally: dict[str, list[float]] = {}  # domain -> waiting, deferred, held, oldest

    def count(domain: str, column: int, number: int, accepted: float) -> None:
        row = tally.get(domain)
        if row is None:
            row = tally[domain] = [0, 0, 0, accepted]
        row[column] += number
        row[3] = min(row[3], accepted)

    for shard in range(shards):
        async for subject, number in stream_subjects(store, subjects.queue_stream(shard), f"q{shard}.>"):
            at = TicketSubject(subject)
            if at.state != "guard":
                accepted = stored_mail_time(at.mail)
                count(subjects.untoken(at.domain_token), 2 if at.state == "hold" else 1, number, accepted)
        async with aclosing(bundles(store, shard)) as found:
            async for _, bundle in found:
                for mail in bundle.mails:
                    for domain in groups_of(mail):
                        count(domain, 0, 1, mail.accepted)
    rows = [
        DestinationCount(domain=d, waiting=int(w), deferred=int(f), held=int(h), oldest=o)
        for d, (w, f, h, o) in tally.items()
    ]
    return sorted(rows, key=lambda row: (-(row.waiting + row.deferred + row.held), row.domain))


async def statistics(store: Store) -> QueueStatistics:
    """What the active queue service says. Raises UnavailableError while there is none."""
    return codec.decode((await store.request(STATISTICS)).data, QueueStatistics)


async def tickets(
    store: Store,
    shards: int,
    domain: str | None = None,
    state: TicketState | None = None,
    limit: int = 100,
) -> list[Found]:
    """Up to `limit` tickets of a destination domain and state, shard by shard, the longest stored first."""
    out: list[Found] = []
    where = "*" if domain is None else subjects.token(domain)
    for shard in range(shards):
        if len(out) >= limit:
            break
        pattern = f"q{shard}.{state or '*'}.*.*.{where}.*.*"
        batch = min(limit - len(out), 500)
        async with aclosing(store.direct(subjects.queue_stream(shard), pattern, batch=batch)) as stream:
            async for stored in stream:
                if state is None and TicketSubject(stored.subject).state == "guard":
                    continue
                out.append(read(stored))
                if len(out) >= limit:
                    break
    return out


async def tickets_of(store: Store, mail: str) -> list[Found]:
    """Every ticket of a mail (one a destination domain; an old one may still stand beside its successor)."""
    shard = ids.shard_of(mail)
    return await entries_at(store, shard, f"q{shard}.*.*.*.*.{mail}.*")


async def entries_at(store: Store, shard: int, pattern: str) -> list[Found]:
    """The last entry of each subject that matches, guards left out: asked of the leader, so none is missed."""
    stream = subjects.queue_stream(shard)
    out = []
    async for subject, _ in stream_subjects(store, stream, pattern):
        if TicketSubject(subject).state == "guard":
            continue
        stored = await store.last(stream, subject)
        if stored is not None:
            out.append(read(stored))
    return sorted(out, key=lambda found: found.seq)


async def bundles(store: Store, shard: int, seq: int = 1) -> AsyncGenerator[tuple[int, Bundle], None]:
    """The bundles of a shard from sequence `seq` on, up to SCAN_BYTES; those that can't be decoded are left out."""
    read_bytes = 0
    async with aclosing(store.direct(subjects.intake_stream(shard), f"intake{shard}.>", seq, 64)) as stream:
        async for stored in stream:
            try:
                yield stored.seq, codec.decode(stored.data, Bundle)
            except codec.UndecodableError as error:
                log.debug("listing.bundle_undecodable", seq=stored.seq, reason=str(error))
            read_bytes += len(stored.data)
            if read_bytes > SCAN_BYTES:
                return


async def stream_subjects(store: Store, stream: str, pattern: str) -> AsyncGenerator[tuple[str, int], None]:
    """Each subject that matches, with the number of its messages, by pages of STREAM.INFO from the leader."""
    offset = 0
    while True:
        body: dict[str, Any] = {"subjects_filter": pattern, "offset": offset}
        info = await store.api(f"STREAM.INFO.{stream}", body, _INFO_TIMEOUT)
        page: dict[str, int] = info["state"].get("subjects") or {}
        for item in page.items():
            yield item
        offset += len(page)
        if not page or offset >= info.get("total", 0):
            return


def read(stored: Stored) -> Found:
    """A QUEUE entry as a ticket; a stand-in that names the problem when it can't be decoded."""
    try:
        return Found(
            stored.subject, stored.seq, codec.decode(stored.data, Ticket), "", stored.data, stored.time, due_of(stored)
        )
    except codec.UndecodableError as error:
        at = TicketSubject(stored.subject)
        domain = subjects.untoken(at.domain_token)
        original = float(stored.headers.get(TIME_HEADER, stored.time))
        accepted = original if at.mail.startswith(HELD_BUNDLE) else stored_mail_time(at.mail)
        what = "a bundle of mails" if at.mail.startswith(HELD_BUNDLE) else "a ticket"
        reason = stored.headers.get(REASON_HEADER, str(error))
        stand_in = Ticket(
            mail=Mail(
                id=f"{at.mail}-{at.shard:x}" if at.mail.startswith(HELD_BUNDLE) else at.mail,
                sender="",
                recipients=(Recipient(address="", domain=domain),),
                size=len(stored.data),
                accepted=accepted,
            ),
            domain=domain,
            n=at.n,
            indexes=(at.n,),
            pool=at.pool,
            lane=at.lane,
            hold=Hold(cause="format", reason=f"{what} that can't be decoded: {reason}", since=stored.time),
        )
        return Found(stored.subject, stored.seq, stand_in, str(error), stored.data, original, due_of(stored))


def shard_of(entry: str) -> int:
    """The shard of a mail id, or of a bundle that is held whole (`bundle-<seq>-<shard>`). Raises ValueError."""
    if entry.startswith(HELD_BUNDLE):
        _, _, shard = entry.removeprefix(HELD_BUNDLE).partition("-")
        return int(shard, 16)
    return ids.shard_of(ids.parse_mail_id(entry))


def due_of(stored: Stored) -> float:
    """When the schedule in a message fires, Unix seconds; 0 when there is none."""
    try:
        return parse_time(stored.headers.get("Nats-Schedule", "").removeprefix("@at "))
    except ValueError:
        return 0.0


def stored_mail_time(mail: str) -> float:
    """When the mail of a subject token was accepted, by its id; a held bundle has none and counts as new."""
    try:
        return ids.time_of(ids.parse_mail_id(mail))
    except ValueError:
        return float("inf")
