"""EVENTS: telling the world what happened to each mail, without ever making a mail wait for it.

`emit` puts an encoded event into a bounded buffer and returns; a task publishes the buffer in batches. While the store
is away or full the buffer holds what it can and counts what it can't: events may be lost, and may come twice (their
`id` tells), and nothing rests on them.
"""

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import opentelemetry.metrics
import structlog

from . import codec, subjects
from .errors import ApiError, FullError, StoreError
from .events import Event, EventBatch
from .model import Wire
from .ordered import Batch, OrderedReader, Start
from .store import Store

log = structlog.get_logger(__name__)

MAX_EVENTS: Final = 100  # a batch
MAX_BYTES: Final = 256 * 1024  # octets a batch; a single larger event goes alone
MAX_WAITING: Final = 16 << 20  # octets that wait
MAX_READ: Final = 2000  # events a call of a reader
LINGER: Final = 0.02  # s that the first event of a batch waits for others: nobody waits for it
_RETRY_FIRST: Final = 0.25  # s, doubled up to
_RETRY_LAST: Final = 5.0

_meter = opentelemetry.metrics.get_meter("waypost")
SENT = _meter.create_counter("waypost.events.sent", unit="{event}", description="Events that EVENTS has on disk.")
LOST = _meter.create_counter(
    "waypost.events.lost",
    unit="{event}",
    description="Events that were dropped, by reason: overflow (the store was away or full for too long), refused, "
    "shutdown.",
)
UNREADABLE = _meter.create_counter(
    "waypost.events.unreadable", unit="{batch}", description="Batches of EVENTS that this version could not decode."
)


class _Packed(Wire, frozen=True):
    """`events.EventBatch` with its events encoded already."""

    events: tuple[msgspec.Raw, ...]


_encode = msgspec.msgpack.Encoder().encode
_prefix = ""
_number = itertools.count()


def _renew_prefix() -> None:
    """Each process its own: a forked worker must not repeat its parent's ids."""
    global _prefix, _number
    _prefix = os.urandom(9).hex()
    _number = itertools.count()


_renew_prefix()
os.register_at_fork(after_in_child=_renew_prefix)


def new_id() -> str:
    """An event id, unique over all processes."""
    return f"{_prefix}{next(_number):x}"


class EventLog:
    """The events of one service; `worker` is set in those that name none."""

    def __init__(self, store: Store, service: str, worker: str) -> None:
        self._store = store
        self._subject = subjects.events(service)
        self._worker = worker
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._overflowed = 0  # not yet logged
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="eventlog")

    def emit(self, event: Event) -> None:
        """Takes an event; never blocks, never raises for want of room."""
        if not event.worker and self._worker:
            event = msgspec.structs.replace(event, worker=self._worker)
        data = _encode(event)
        if self._bytes + len(data) > MAX_WAITING:
            self._overflowed += 1
            LOST.add(1, {"reason": "overflow"})
            return
        self._bytes += len(data)
        self._waiting.append(data)
        if not self._wake.is_set():
            self._idle.clear()
            self._wake.set()

    async def drain(self, timeout: float) -> None:
        """Waits until all is published, at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            log.warning("eventlog.not_drained", events=len(self._waiting), seconds=timeout)

    async def close(self) -> None:
        """Stops; what still waits is lost and counted. `drain` first."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            LOST.add(len(self._waiting), {"reason": "shutdown"})
            log.warning("eventlog.lost_at_shutdown", events=len(self._waiting))
            self._waiting.clear()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if len(self._waiting) < MAX_EVENTS:
                await asyncio.sleep(LINGER)
            self._wake.clear()
            while self._waiting:
                count = self._next_batch()
                try:
                    await self._publish(count)
                except Exception:
                    log.exception("eventlog.failed", events=count)
                    LOST.add(count, {"reason": "refused"})
                for _ in range(count):
                    self._bytes -= len(self._waiting.popleft())
                if self._overflowed:
                    log.error("eventlog.overflowed", lost=self._overflowed)
                    self._overflowed = 0
            if not self._wake.is_set():
                self._idle.set()

    def _next_batch(self) -> int:
        """How many of those that wait make up the next batch."""
        size = count = 0
        for data in itertools.islice(self._waiting, MAX_EVENTS):
            size += len(data)
            if size > MAX_BYTES and count:
                break
            count += 1
        return count

    async def _publish(self, count: int) -> None:
        """Publishes the first `count`, until acknowledged or refused for what they are."""
        batch = tuple([msgspec.Raw(data) for data in itertools.islice(self._waiting, count)])
        payload = codec.encode(_Packed(events=batch))
        delay = _RETRY_FIRST
        while True:
            try:
                await self._store.publish(self._subject, payload)
                SENT.add(count)
                return
            except FullError as error:
                reason: StoreError = error
            except ApiError as error:
                log.error("eventlog.refused", events=count, error=str(error))
                LOST.add(count, {"reason": "refused"})
                return
            except StoreError as error:
                reason = error
            if delay == _RETRY_FIRST:
                log.warning("eventlog.waiting", events=len(self._waiting), error=str(reason))
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_LAST)


async def read(store: Store, from_seq: int, callback: Callable[[int, Sequence[Event]], Awaitable[None]]) -> None:
    """Hands `callback` the events of EVENTS from stream sequence `from_seq` on, in order, then those that come.

    What was there at once comes in one call (of about `MAX_READ` events), with the sequence of its last batch: a reader
    that was ended goes on at that one + 1. Runs until cancelled; reconnects by itself. Batches that EVENTS has dropped
    for age or room are passed over, those that can't be decoded are logged and passed over. An exception of the
    callback ends the reader and is raised.
    """
    position = from_seq

    def begin() -> Start:
        return Start(deliver_policy="by_start_sequence", opt_start_seq=max(1, position))

    async def deliver(batch: Batch) -> None:
        nonlocal position
        events: list[Event] = []
        last = batch.messages[-1].seq if batch.messages else 0
        for message in batch.messages:
            try:
                events += codec.decode(message.data, EventBatch).events
            except codec.UndecodableError as error:
                UNREADABLE.add(1)
                log.error("eventlog.unreadable", seq=message.seq, error=str(error))
            if events and (len(events) >= MAX_READ or message.seq == last):
                await callback(message.seq, events)
                events = []
                position = message.seq + 1
        position = max(position, last + 1)

    reader = OrderedReader(store, subjects.EVENTS_STREAM, "events.>", begin, deliver)
    reader.start()
    try:
        await reader.wait()
    finally:
        await reader.close()
