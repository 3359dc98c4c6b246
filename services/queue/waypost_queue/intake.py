"""INTAKE: where a mail becomes durable. All mails of a lane that are ready at one moment are one message, a bundle.

Natural group commit: the first mail of a lane starts a flush, whatever comes while it is on its way makes up the next
one. No timer: an idle lane commits at once, a busy one shares its fsyncs among ever more mails. Nothing here answers a
250; `put` returns once the stream has the mail on disk, and whoever awaits it answers.

A publish that finds no leader, or whose answer is lost, is repeated with the same `Nats-Msg-Id` for `RETRY_FOR`
seconds, which outlasts a leader election. The server's memory of ids does not survive a kill for what was acked
meanwhile, so from the first lost answer on the bundle is marked: its worker looks for outcomes before it sends.
"""

import asyncio
import time
from collections import deque
from typing import Final

import msgspec
import opentelemetry.metrics
import structlog

from . import codec, ids, subjects
from .errors import ApiError, FullError, StoreError, UnavailableError, UnknownFateError
from .model import INLINE_LIMIT, Mail, Wire
from .store import Store
from .streams import FULL_AT, Layout

log = structlog.get_logger(__name__)

MAX_MAILS: Final = 64  # a bundle
MAX_BYTES: Final = 1 << 20  # octets a bundle; a single mail with very many recipients may be larger
MAX_MAIL: Final = 4 << 20  # octets of one encoded mail, half of the server's max_payload
MAX_WAITING: Final = 128 << 20  # octets that wait, over all lanes: then 451, the memory of the process is bounded
RETRY_FOR: Final = 20.0  # s from the first mail of a bundle: longer than an election (4 to 8 s measured)
ROOM_EVERY: Final = 1.0  # s between looks at how full the streams are
_FIRST_DELAY: Final = 0.05  # s, doubled up to
_LAST_DELAY: Final = 1.0
# Not refusals: 10158, the first copy of this id is being replicated; 10167, the stream has too much in hand.
_BUSY: Final = frozenset({10158, 10167})

_meter = opentelemetry.metrics.get_meter("waypost")
COMMITTED = _meter.create_counter(
    "waypost.intake.mails", unit="{mail}", description="Mails that INTAKE has on disk: each may get its 250."
)
BUNDLES = _meter.create_counter(
    "waypost.intake.bundles",
    unit="{bundle}",
    description="Bundles stored; mails per bundle is the group commit's gain.",
)
COMMIT_TIME = _meter.create_histogram(
    "waypost.intake.commit.duration",
    unit="s",
    description="From the start of a bundle's publish to its acknowledgement, retries included.",
    explicit_bucket_boundaries_advisory=(
        0.0005,
        0.001,
        0.002,
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
        0.25,
        0.5,
        1,
        2.5,
        5,
        10,
        20,
    ),
)
RETRIED = _meter.create_counter(
    "waypost.intake.retries",
    unit="{publish}",
    description="Publishes of bundles that were repeated, by cause: unavailable (no leader), unanswered or busy.",
)
REFUSED = _meter.create_counter(
    "waypost.intake.refused",
    unit="{mail}",
    description="Mails that were not stored, by reason: full (452) or unavailable (451).",
)


class IntakeError(Exception):
    """The mail is not known to be stored: no 250."""


class IntakeFullError(IntakeError):
    """No room: nothing was stored (452 4.3.1)."""


class IntakeUnavailableError(IntakeError):
    """No acknowledgement in time (451 4.3.0); the mail may be stored all the same, and its sender may send it again."""


class _Packed(Wire, frozen=True):
    """`model.Bundle` with its mails encoded already."""

    mails: tuple[msgspec.Raw, ...]
    marked: bool = False
    origin_seq: int = 0
    origin_time: float = 0.0


class _Waiting(msgspec.Struct, eq=False):
    """One mail and whoever awaits it."""

    data: bytes
    done: "asyncio.Future[None]"
    since: float  # monotonic


class _Lane:
    """What waits for the next bundle of a (pool, lane), and the task that flushes while anything does."""

    __slots__ = ("prefix", "task", "waiting")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.waiting: deque[_Waiting] = deque()
        self.task: asyncio.Task[None] | None = None


_encode_mail = msgspec.msgpack.Encoder().encode


class Intake:
    """Commits mails to one shard. An ingress process keeps to one shard, or its bundles shrink."""

    def __init__(self, store: Store, shard: int, layout: Layout, *, retry_for: float = RETRY_FOR) -> None:
        self.shard = shard
        self._store = store
        self._pools = frozenset(layout.pools)
        self._retry_for = retry_for
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._bytes = 0  # that wait or are on their way
        self._room = ""
        self._was_full = False  # a publish was refused for want of room since the last look
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Looks at the room that is left, then each second. Raises nothing while NATS is away: `room` says it later."""
        await self._measure()
        self._watcher = asyncio.create_task(self._watch_room(), name="intake-room")

    async def close(self) -> None:
        """Waits for what is on its way (at most `RETRY_FOR` seconds); later mails are refused."""
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def room(self) -> str:
        """Why no mail can be taken now (then 452 4.3.1 before its content is read), or ""."""
        return self._room

    def put(self, mail: Mail, *, pool: str, lane: str) -> "asyncio.Future[None]":
        """Commits `mail`; await the result. On return the stream has it on disk.

        Its content is inline and at most 128 KiB, or in the spool already. Raises IntakeFullError or
        IntakeUnavailableError, for this mail alone; ValueError for a mail that no bundle could hold. Whoever is
        cancelled while awaiting takes its mail back if it is not on its way yet.
        """
        if self._closed:
            raise IntakeUnavailableError("shutting down")
        content = mail.content
        if content is not None and len(content) > INLINE_LIMIT:
            raise ValueError(f"a content of {len(content)} octets goes to the spool first: the limit is {INLINE_LIMIT}")
        data = _encode_mail(mail)
        size = len(data)
        if size > MAX_MAIL:
            raise ValueError(f"an envelope of {size} octets is larger than {MAX_MAIL}: too many recipients")
        if self._bytes + size > MAX_WAITING:
            REFUSED.add(1, {"reason": "unavailable"})
            raise IntakeUnavailableError("too much waits for the store")
        key = (pool, lane)
        queue = self._lanes.get(key)
        if queue is None:
            queue = self._lanes[key] = self._new_lane(pool, lane)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        queue.waiting.append(_Waiting(data, done, time.monotonic()))
        self._bytes += size
        if queue.task is None:
            # The task begins after what is ready to run now: that is the moment whose mails it takes.
            queue.task = loop.create_task(self._flush(queue))
        return done

    def _new_lane(self, pool: str, lane: str) -> _Lane:
        if pool not in self._pools:
            raise IntakeUnavailableError(f"no delivery pool {pool!r}; there are: {', '.join(sorted(self._pools))}")
        if lane not in subjects.LANES:
            raise ValueError(f"no lane {lane!r}; there are: {', '.join(subjects.LANES)}")
        return _Lane(subjects.intake(self.shard, pool, lane, ""))

    # -- flushing

    async def _flush(self, lane: _Lane) -> None:
        """Publishes bundles one after the other until nothing waits."""
        bundle: list[_Waiting] = []
        try:
            while lane.waiting:
                bundle = self._take(lane.waiting)
                if bundle:
                    await self._commit(lane, bundle)
                    self._bytes -= sum([len(waiting.data) for waiting in bundle])
                    bundle = []
        except Exception:
            log.exception("intake.flush_failed", lane=lane.prefix, mails=len(bundle) + len(lane.waiting))
        finally:
            # Nothing is left here but after a fault of ours or a cancellation: whoever waits hears of it, none hangs.
            for waiting in (*bundle, *lane.waiting):
                self._bytes -= len(waiting.data)
                _fail(waiting, IntakeUnavailableError("the commit was broken off"))
            lane.waiting.clear()
            lane.task = None

    def _take(self, queue: deque[_Waiting]) -> list[_Waiting]:
        """The next bundle; mails that nobody awaits any more are left out: they never got, nor get, a 250."""
        taken: list[_Waiting] = []
        room = MAX_BYTES
        while queue and len(taken) < MAX_MAILS:
            size = len(queue[0].data)
            if size > room and taken:
                break
            waiting = queue.popleft()
            if waiting.done.done():
                self._bytes -= size
                continue
            taken.append(waiting)
            room -= size
        return taken

    async def _commit(self, lane: _Lane, bundle: list[_Waiting]) -> None:
        """Publishes one bundle and resolves its mails. A bundle that is refused whole is tried mail by mail."""
        started = time.perf_counter()
        try:
            await self._publish(lane, bundle)
        except _RefusedError as refused:
            if refused.certain and len(bundle) > 1:
                # Perhaps only one of them is too much: its refusal is its own.
                for waiting in bundle:
                    if not waiting.done.done():
                        await self._commit(lane, [waiting])
                return
            if refused.full:
                self._room = self._room or "the queue's store is full"
                self._was_full = True
            REFUSED.add(len(bundle), {"reason": "full" if refused.full else "unavailable"})
            kind = IntakeFullError if refused.full else IntakeUnavailableError
            for waiting in bundle:
                _fail(waiting, kind(str(refused)))
            return
        for waiting in bundle:
            if not waiting.done.done():
                waiting.done.set_result(None)
        BUNDLES.add(1)
        COMMITTED.add(len(bundle))
        COMMIT_TIME.record(time.perf_counter() - started)

    async def _publish(self, lane: _Lane, bundle: list[_Waiting]) -> None:
        """Until the PubAck, or raises _RefusedError."""
        now = time.time()
        ident = ids.ulid(now)
        subject = lane.prefix + ident
        headers = {"Nats-Msg-Id": ident}
        mails = tuple([msgspec.Raw(waiting.data) for waiting in bundle])
        payload = codec.encode(_Packed(mails=mails))
        deadline = bundle[0].since + self._retry_for
        delay = _FIRST_DELAY
        unanswered = False
        while True:
            try:
                if not self._store.fit:
                    raise UnavailableError("whether this server keeps mail safe is not known yet")
                await self._store.publish(subject, payload, headers)
                return
            except UnknownFateError as error:
                reason: StoreError = error
                RETRIED.add(1, {"cause": "unanswered"})
                if not unanswered:
                    unanswered = True
                    payload = codec.encode(_Packed(mails=mails, marked=True, origin_time=now))
            except UnavailableError as error:
                reason = error
                RETRIED.add(1, {"cause": "unavailable"})
            except ApiError as error:
                if error.err_code in _BUSY:
                    reason = error
                    RETRIED.add(1, {"cause": "busy"})
                else:
                    # A lost answer before this refusal may have been a PubAck: then nothing goes under another id.
                    log.warning("intake.refused", lane=lane.prefix, mails=len(bundle), error=str(error))
                    raise _RefusedError(str(error), isinstance(error, FullError), certain=not unanswered) from error
            left = deadline - time.monotonic()
            if left <= 0:
                log.warning("intake.unavailable", lane=lane.prefix, mails=len(bundle), error=str(reason))
                raise _RefusedError(str(reason), full=False, certain=False) from reason
            await asyncio.sleep(min(delay, left))
            delay = min(delay * 2, _LAST_DELAY)

    # -- room

    async def _watch_room(self) -> None:
        while True:
            await asyncio.sleep(ROOM_EVERY)
            if self._was_full:
                # What refused a mail may be the whole server's store, which the streams' own figures do not show:
                # stay closed for this round, then let a mail try.
                self._was_full = False
            else:
                await self._measure()

    async def _measure(self) -> None:
        """Sets `room` by the fuller of INTAKE and SPOOL. While nobody answers, the last known answer stands."""
        reasons = []
        for stream in (subjects.intake_stream(self.shard), subjects.spool_stream(self.shard)):
            try:
                info = await self._store.api(f"STREAM.INFO.{stream}", timeout=2.0)
            except StoreError as error:
                log.debug("intake.room_unknown", stream=stream, error=str(error))
                return
            limit = info["config"].get("max_bytes", -1)
            used = info["state"]["bytes"]
            if limit > 0 and used >= limit * FULL_AT:
                reasons.append(f"{stream} is {used / limit:.0%} full")
        reason = "; ".join(reasons)
        if reason != self._room:
            log.warning("intake.room", reason=reason or "there is room again")
        self._room = reason


class _RefusedError(Exception):
    """A bundle was not stored; `certain`: surely not, so that its mails may be tried under other ids."""

    def __init__(self, reason: str, full: bool, *, certain: bool) -> None:
        super().__init__(reason)
        self.full = full
        self.certain = certain


def _fail(waiting: _Waiting, error: IntakeError) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(error)
