"""The engine: pulls bundles and tickets of a pool, has their groups attempted, settles and acks them.

A message's way: `pull` brings it, this module unpacks it into groups (mail, destination domain), `recovery` says what
became of those that may have been in other hands, the handler attempts what is left, `settling` stores what came of it
in the order that loses nothing, and only then is the message acked. Whatever goes wrong in between, the message is let
go: it comes back by `ack_wait`, to whoever pulls then.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import opentelemetry.metrics
import structlog
from msgspec import Struct, structs

from . import codec, tickets
from .background import end
from .clock import StreamClock
from .errors import OwnershipLostError, StoreError
from .held import Held, KeepAlive
from .job import BodyStore, Group, Job, Shared
from .model import Bundle, ControlMark, Hold, Mail, Report, Ticket, groups_of
from .outcomes import Scanner
from .pause import reached
from .poison import HELD, hold_unreadable
from .pull import SLOW_AFTER, Budget, Lane, Puller
from .recovery import check_body, recover
from .reports import outstanding, publish_all
from .room import Room
from .settle import Settler
from .settling import OWED_AGAIN, hold_body_missing, settle, store_waiting
from .store import Store
from .streams import Layout
from .subjects import LANES
from .work import BodyMissingError, Decision, Handler, Wait, Work

log = structlog.get_logger(__name__)

_meter = opentelemetry.metrics.get_meter("waypost")
ACKED = _meter.create_counter(
    "waypost.queue.acked", unit="{message}", description="Messages that were settled whole and acked, by kind."
)
LET_GO = _meter.create_counter(
    "waypost.queue.let_go",
    unit="{message}",
    description="Messages left to come back: not surely ours any more, or a fault on the way. By kind.",
)
RETAKEN = _meter.create_counter(
    "waypost.queue.retaken", unit="{ticket}", description="Returned tickets that were replaced by a successor."
)

CLOCK_SKEW = 300.0  # s: an acceptance time that is off by more yields to the stream's
THIRD = 3  # deliveries
ALONE_FROM = 2  # times that a ticket came back unsettled; then it runs alone
ALONE_WAIT = 10.0  # s for the others to finish, then it is put off
ALONE_AGAIN = 30.0  # s until then
SCHEDULE_SPREAD = 0.2  # s between the tickets of a bundle that is broken up


class Slots(Struct, frozen=True, kw_only=True):
    """What a worker may have in hand. Each lane of each shard has room for one, whatever these say."""

    bundles: int = 64  # each at most 64 mails and 1 MiB
    tickets: int = 512
    slow: int = 512  # of each kind: in hand for more than a few seconds, accounted apart
    bytes: int = 256 << 20


class Stats(Struct, frozen=True, kw_only=True):
    """A worker at this moment."""

    in_hand: int
    slow: int
    bytes: int
    attempts: int  # under way
    store_full: bool
    lanes: int
    lanes_ready: int  # those that pull: on a connection, with a consumer


class Engine:
    """One pool's queue, over all shards."""

    def __init__(
        self,
        store: Store,
        layout: Layout,
        handler: Handler,
        *,
        pool: str,
        spool: BodyStore,
        marks: Callable[[str], ControlMark | None],
        worker: str,
        slots: Slots | None = None,
    ) -> None:
        """`marks`: the control mark on a mail, if any. `worker` names this process in outcomes and logs.

        Raises ValueError when the layout's times would let two workers own a message.
        """
        layout.timing.check()
        self._store = store
        self._timing = layout.timing
        self._handler = handler
        self._slots = slots = slots if slots is not None else Slots()
        self._room = Room(store, self._resume)
        self._keep_alive = KeepAlive(layout.timing)
        shards = range(layout.shards)
        self._shards = {
            shard: (Settler(store, shard, worker, self._room), Scanner(store, shard), StreamClock(store, shard))
            for shard in shards
        }
        self._shared = Shared(store, layout.timing, handler, spool, marks, self._room, self._keep_alive, self._shards)
        self._budgets = {
            "bundle": Budget(slots.bundles, slots.slow),
            "ticket": Budget(slots.tickets, slots.slow),
        }
        lanes = [
            Lane(budget, kind, shard, pool, name)
            for name in LANES
            for shard in shards
            for kind, budget in self._budgets.items()
        ]
        self._puller = Puller(store, layout.timing, lanes, slots.bytes, lambda: self._room.closed, self._deliver)
        self._jobs: dict[asyncio.Task[None], tuple[Held, Lane]] = {}
        self._latest: dict[tuple[str, int], asyncio.Task[None]] = {}  # by stream and sequence
        self._tasks: list[asyncio.Task[None]] = []
        self._attempts = 0
        self._quiet = asyncio.Event()  # no attempt is under way
        self._quiet.set()
        self._together = asyncio.Event()  # cleared while a ticket runs alone
        self._together.set()
        self._alone = asyncio.Lock()

    async def start(self) -> None:
        """Begins to pull. Raises StoreError when the streams' clocks can't be read yet."""
        for _, _, clock in self._shards.values():
            await clock.refresh()
        self._puller.start()
        self._tasks = [
            asyncio.create_task(self._keep_alive.run(self._tick)),
            *(asyncio.create_task(clock.run()) for _, _, clock in self._shards.values()),
        ]

    async def drain(self, timeout: float) -> None:
        """Pulls no more, lets what is in hand finish for at most `timeout` seconds, writes the outcomes, stops."""
        await self._puller.stop()
        if self._jobs:
            _, late = await asyncio.wait(self._jobs, timeout=timeout)
            if late:
                log.warning("engine.drain_cut", messages=len(late), effect="they come back to another worker")
            await end(late)
        for settler, scanner, _ in self._shards.values():
            await settler.close(5.0)
            await scanner.close()
        await end(self._tasks)
        await self._room.close()

    def stats(self) -> Stats:
        return Stats(
            in_hand=len(self._jobs),
            slow=sum(budget.slow for budget in self._budgets.values()),
            bytes=self._puller.bytes,
            attempts=self._attempts,
            store_full=self._room.closed,
            lanes=len(self._puller.lanes),
            lanes_ready=self._puller.ready(),
        )

    # -- messages in hand

    def _resume(self) -> None:
        self._puller.resume()

    def _tick(self, now: float) -> None:
        self._puller.tick(now)
        for held, lane in self._jobs.values():
            if not held.slow and now - held.received > SLOW_AFTER:
                self._puller.slow(held, lane)

    def _deliver(self, held: Held, lane: Lane) -> None:
        key = (lane.stream, held.seq)
        held.earlier = self._latest.get(key)
        suspicious = lane.suspicious(held) or held.earlier is not None
        self._keep_alive.add(held)
        task = asyncio.create_task(self._run(held, lane, suspicious))
        self._jobs[task] = (held, lane)
        self._latest[key] = task
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        held, lane = self._jobs.pop(task)
        if self._latest.get((lane.stream, held.seq)) is task:
            del self._latest[lane.stream, held.seq]
        self._keep_alive.remove(held)
        self._puller.finished(held, lane)

    async def _run(self, held: Held, lane: Lane, suspicious: bool) -> None:
        if held.earlier is not None:
            # It lost the message, but perhaps after the remote's 250: only once it has ended is its outcome on disk.
            await asyncio.wait((held.earlier,))
            held.earlier = None
        job = Job(self._shared, held, lane)
        reached("after_recv")
        try:
            if lane.kind == "bundle":
                await self._bundle(job, suspicious)
            else:
                await self._ticket(job, suspicious)
        except (OwnershipLostError, StoreError) as error:
            LET_GO.add(1, {"kind": lane.kind})
            log.info("engine.let_go", kind=lane.kind, subject=held.subject, seq=held.seq, reason=str(error))
        except Exception:
            LET_GO.add(1, {"kind": lane.kind})
            log.exception("engine.fault", kind=lane.kind, subject=held.subject, seq=held.seq)

    async def _ack(self, job: Job) -> None:
        reached("before_ack")
        await job.held.ack()
        ACKED.add(1, {"kind": job.lane.kind})
        reached("after_ack")

    # -- bundles

    async def _bundle(self, job: Job, suspicious: bool) -> None:
        held = job.held
        try:
            bundle = codec.decode(held.data, Bundle)
        except codec.UndecodableError as error:
            await hold_unreadable(job, error)
            await self._ack(job)
            return
        if bundle.marked and bundle.origin_time:
            job.stored_at = bundle.origin_time
        groups: list[Group] = []
        for each in bundle.mails:
            mail = _in_time(each, job.stored_at)
            recipients = dict(enumerate(mail.recipients))
            by_domain = groups_of(mail)
            job.groups[mail.id] = tuple((domain, indexes[0]) for domain, indexes in by_domain.items())
            groups += [Group(mail, domain, indexes[0], indexes, recipients) for domain, indexes in by_domain.items()]
        if suspicious or bundle.marked:
            await self._recovered_bundle(job, groups)
        elif len(groups) == 1:
            await self._attempt(job, groups[0], groups[0].indexes)
        else:
            await _all([self._attempt(job, group, group.indexes) for group in groups])
        await self._ack(job)
        large = {mail.id for mail in bundle.mails if mail.chunks}
        for mail_id, places in job.groups.items():
            if job.recovered or mail_id in large or job.spooled(mail_id):
                await check_body(job, mail_id, held.seq, places)

    async def _recovered_bundle(self, job: Job, groups: Sequence[Group]) -> None:
        outcomes = await recover(job, groups)
        rests: list[tuple[Group, tuple[int, ...]]] = []
        for group in groups:
            if group.successor:
                continue
            rest = outcomes.rest(group.mail.id, group.indexes)
            owed = outcomes.owed(group.mail.id, group.n)
            group.fence = group.last
            if not await self._paid(job, group, rest, owed) and rest:
                rests.append((group, rest))
        if job.held.deliveries >= THIRD:
            log.warning("engine.third_delivery", seq=job.held.seq, effect="one ticket a group", groups=len(rests))
            await _all([self._break_up(job, place, *each) for place, each in enumerate(rests)])
            return
        barred = await tickets.bar(job, [group for group, _ in rests])
        reached("after_guard")
        if barred:
            # An earlier owner's ticket may have come, been delivered and gone between the look and the guard, which a
            # fence on "none" can't tell; its outcome can.
            await self._shared.scanner(job.shard).refresh(outcomes)
        mine = [(group, outcomes.rest(group.mail.id, rest)) for group, rest in rests if group in barred]
        await _all([self._attempt(job, group, rest) for group, rest in mine if rest])
        if len(mine) != len(rests):
            raise OwnershipLostError("another owner has taken a group over")

    async def _break_up(self, job: Job, place: int, group: Group, rest: tuple[int, ...]) -> None:
        """A bundle that came for the third time becomes one marked ticket a group, unattempted."""
        at = job.now + self._timing.retake_delay + place * SCHEDULE_SPREAD
        await store_waiting(job, group, job.work(group, rest, None), self._unattempted(job, group, rest, at))

    def _unattempted(self, job: Job, group: Group, rest: tuple[int, ...], at: float) -> Wait:
        wait = tickets.held_wait(job.work(group, rest, None), Hold(cause="poison", reason="", since=at))
        return structs.replace(wait, at=at, hold=None, lane=self._handler.lane_for_retry(group.mail))

    async def _paid(self, job: Job, group: Group, rest: tuple[int, ...], owed: Sequence[Report]) -> bool:
        """Stores the DSNs that a group owes. True: they could not be, so a ticket owes them now, `rest` unattempted."""
        if job.recovered:
            owed = await outstanding(job, group, owed)
        if not owed:
            return False
        work = job.work(group, tuple(group.recipients), None)
        try:
            left = await publish_all(job, work, owed)
        except BodyMissingError as error:
            wait = hold_body_missing(job, structs.replace(work, indexes=rest), error)
            await store_waiting(job, group, work, wait, tuple(owed))
            return True
        if not left:
            return False
        await store_waiting(job, group, work, self._unattempted(job, group, rest, job.now + OWED_AGAIN), left)
        return True

    # -- tickets

    async def _ticket(self, job: Job, suspicious: bool) -> None:
        held = job.held
        try:
            ticket = codec.decode(held.data, Ticket)
        except codec.UndecodableError as error:
            await hold_unreadable(job, error)
            await self._ack(job)
            return
        await self._settle_ticket(job, ticket, suspicious)
        await self._ack(job)
        await check_body(job, ticket.mail.id, ticket.bundle, ticket.groups)

    async def _settle_ticket(self, job: Job, ticket: Ticket, suspicious: bool) -> None:
        """Does what the ticket is there for; afterwards it can be acked."""
        group = Group.of_ticket(ticket, job.held.seq)
        rest, owed = ticket.indexes, ticket.dsn_owed
        if ticket.marked and ticket.origin_time:
            job.stored_at = ticket.origin_time
        if suspicious or ticket.marked:
            outcomes = await recover(job, [group], ticket.scanned if ticket.marked else 0)
            if group.successor:
                return
            rest = outcomes.rest(ticket.mail.id, rest)
            known = {report.id for report in owed}
            owed += tuple(r for r in outcomes.owed(ticket.mail.id, ticket.n) if r.id not in known)
        if await self._paid(job, group, rest, owed) or not rest:
            return
        if ticket.alone and await self._died_alone(job, group, rest):
            return
        if suspicious:
            await self._retake(job, ticket, group, rest)
        elif ticket.alone:
            await self._attempt_alone(job, ticket, group, rest)
        else:
            await self._attempt(job, group, rest)

    async def _retake(self, job: Job, ticket: Ticket, group: Group, rest: tuple[int, ...]) -> None:
        """A returned ticket is not attempted: its successor is, which shuts every earlier owner out."""
        returned = ticket.returned + (job.held.deliveries > 1)
        successor = self._successor(job, ticket, group, rest, job.now + self._timing.retake_delay)
        if returned >= ALONE_FROM and not ticket.alone:
            log.warning("engine.runs_alone_next", mail=ticket.mail.id, destination=ticket.domain, returned=returned)
        await tickets.store(
            job,
            structs.replace(successor, returned=returned, alone=returned >= ALONE_FROM or ticket.alone),
            group.fence,
        )
        RETAKEN.add(1)
        reached("retaken")

    def _successor(self, job: Job, ticket: Ticket, group: Group, rest: tuple[int, ...], due: float) -> Ticket:
        """The same ticket once more, marked, for what is left of it."""
        return structs.replace(
            ticket,
            mail=structs.replace(ticket.mail, recipients=tuple(group.recipients[index] for index in rest)),
            indexes=rest,
            due=due,
            pool=ticket.pool or job.pool,
            lane=ticket.lane or job.lane.name,
            marked=True,
            origin_seq=ticket.origin_seq or job.held.seq,
            origin_time=job.stored_at,
            scanned=job.outcomes.upto if job.outcomes is not None else ticket.scanned,
            dsn_owed=(),
            owed_to={},
        )

    # -- attempts

    async def _attempt(self, job: Job, group: Group, indexes: tuple[int, ...]) -> None:
        """Attempts a group and stores what came of it; anew while a control mark wants another decision."""
        work: Work | None = job.work(group, indexes, self._shared.mark(group.mail.id, group.domain))
        while work is not None:
            while self._room.closed or not self._together.is_set():
                await self._room.wait()
                await self._together.wait()
            work = await settle(job, group, work, await self._decide(job, work))

    async def _decide(self, job: Job, work: Work) -> Decision:
        job.held.need()
        self._attempts += 1
        self._quiet.clear()
        reached("own_attempt")
        limit = asyncio.timeout(self._timing.attempt_limit)
        try:
            async with limit:
                decision = await self._handler.attempt(work)
        except BodyMissingError as error:
            if await self._shared.store.at(job.lane.stream, job.held.seq) is None:
                raise OwnershipLostError("another owner is done with it") from error
            return Decision(wait=hold_body_missing(job, work, error))
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise OwnershipLostError(f"the attempt took more than {self._timing.attempt_limit:g} s") from error
        finally:
            self._attempts -= 1
            if self._attempts == 0:
                self._quiet.set()
        reached("after_send")
        return decision

    # -- a ticket that came back too often

    async def _attempt_alone(self, job: Job, ticket: Ticket, group: Group, rest: tuple[int, ...]) -> None:
        """Attempts the ticket while nothing else is, noted in KV: if this worker dies now, it was this ticket.

        An attempt that raises died alone as well.
        """
        async with self._alone:
            self._together.clear()
            try:
                async with asyncio.timeout(ALONE_WAIT):
                    await self._quiet.wait()
            except TimeoutError:
                self._together.set()
                await tickets.store(job, self._successor(job, ticket, group, rest, job.now + ALONE_AGAIN), group.fence)
                return
            key = _alone_key(group)
            try:
                job.held.need()
                await self._shared.state.put(key, b"")
                work: Work | None = job.work(group, rest, self._shared.mark(group.mail.id, group.domain))
                while work is not None:
                    work = await settle(job, group, work, await self._decide_alone(job, work))
                await self._shared.state.delete(key)
            except (OwnershipLostError, StoreError, asyncio.CancelledError):
                await self._forget(key)
                raise
            finally:
                self._together.set()

    async def _decide_alone(self, job: Job, work: Work) -> Decision:
        try:
            return await self._decide(job, work)
        except (OwnershipLostError, StoreError):
            raise
        except Exception as error:
            log.exception("engine.fault", kind="ticket", mail=work.mail.id, effect="held")
            return Decision(wait=_poison(job, work, f"its attempt failed with {type(error).__name__} time and again"))

    async def _died_alone(self, job: Job, group: Group, rest: tuple[int, ...]) -> bool:
        """Holds a ticket whose worker died while it ran nothing else."""
        key = _alone_key(group)
        if await self._shared.state.get(key) is None:
            return False
        log.error("poison.died_alone", mail=group.mail.id, destination=group.domain, effect="held")
        work = job.work(group, rest, None)
        await store_waiting(job, group, work, _poison(job, work, "a worker died each time that it attempted this"))
        await self._forget(key)
        return True

    async def _forget(self, key: str) -> None:
        try:
            await self._shared.state.delete(key)
        except StoreError as error:
            log.warning("engine.alone_mark_left", key=key, error=str(error))


def _in_time(mail: Mail, stored_at: float) -> Mail:
    """The mail with an acceptance time that can be believed: the stream's, where it is far off that."""
    return structs.replace(mail, accepted=stored_at) if abs(mail.accepted - stored_at) > CLOCK_SKEW else mail


def _alone_key(group: Group) -> str:
    return f"alone.{group.mail.id}.{group.n}"


def _poison(job: Job, work: Work, reason: str) -> Wait:
    HELD.add(1, {"cause": "poison"})
    return tickets.held_wait(work, Hold(cause="poison", reason=reason, since=job.now))


async def _all(groups: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Runs the groups of a bundle at once, each to its end. Raises OwnershipLostError if one did not get there."""
    results = await asyncio.gather(*groups, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        if not isinstance(failure, (OwnershipLostError, StoreError)):
            log.error("engine.fault", kind="bundle", exc_info=failure)
    if failures:
        raise OwnershipLostError(f"{len(failures)} of {len(results)} groups: {failures[0]}")
