"""Reading a stream in order and for ever: an ordered push consumer (ADR-17) that is made again whenever it may have
missed something.

The server's consumer lives in memory and dies with the connection or the server. A gap in its sequence, a missed
heartbeat, or a reconnect make a new one, from where the reader's `begin` says. The server waits for the answer to its
flow control requests, which are answered in turn with the messages, so that a slow reader bounds what is in flight.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from msgspec import Struct
from nats.aio.msg import Msg

from .errors import StoreError, UnavailableError
from .store import Store, Stored

log = structlog.get_logger(__name__)

HEARTBEAT: Final = 5.0  # s; three missed ones make a new consumer
_NS: Final = 1_000_000_000
_RETRY: Final = 0.5  # s


class Start(Struct, frozen=True, kw_only=True):
    """From where a (new) consumer reads: fields of the server's consumer configuration."""

    deliver_policy: str  # "last_per_subject", "by_start_sequence"
    opt_start_seq: int | None = None


class Batch(Struct, frozen=True, kw_only=True):
    """Messages that were there at once. `fresh`: the first of a new consumer; `pending`: how many more are known of."""

    messages: tuple[Stored, ...]
    fresh: bool
    pending: int


class OrderedReader:
    """Hands `deliver` every message of `subject` from `begin()` on, in order, one batch after the other.

    `deliver` gets a first batch (perhaps empty) of each new consumer, so that a reader of a bucket can tell what has
    gone. An exception of `deliver` ends the reader and is logged and raised by `wait`.
    """

    def __init__(
        self,
        store: Store,
        stream: str,
        subject: str,
        begin: Callable[[], Start],
        deliver: Callable[[Batch], Awaitable[None]],
    ) -> None:
        self._store = store
        self._stream = stream
        self._subject = subject
        self._begin = begin
        self._deliver = deliver
        self._again = asyncio.Event()  # the connection came back: what was subscribed is gone
        self.trouble = ""  # why the last consumer ended
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"ordered-{self._stream}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self) -> None:
        """Until the reader ends, by `close` or by a fault of `deliver`, which is raised here."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _reconnected(self) -> None:
        self._again.set()

    async def _run(self) -> None:
        forget = self._store.on_reconnect(self._reconnected)
        try:
            while True:
                self._again.clear()
                try:
                    await self._read_once()
                except StoreError as error:
                    self.trouble = str(error)
                    log.info("ordered.again", stream=self._stream, reason=self.trouble)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_RETRY):
                            await self._again.wait()
        except Exception:
            log.exception("ordered.failed", stream=self._stream)
            raise
        finally:
            forget()

    async def _read_once(self) -> None:
        """Makes a consumer and reads from it until it may have missed something. Raises StoreError."""
        store = self._store
        queue: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = store.nc.new_inbox()
        subscription = await store.subscribe(inbox, queue.put)
        name = inbox.rsplit(".", 1)[1]
        created = False
        try:
            start = self._begin()
            config: dict[str, Any] = {
                "name": name,
                "deliver_subject": inbox,
                "deliver_policy": start.deliver_policy,
                "filter_subject": self._subject,
                "ack_policy": "none",
                "max_deliver": 1,
                "mem_storage": True,
                "num_replicas": 1,
                "flow_control": True,
                "idle_heartbeat": int(HEARTBEAT * _NS),
                "inactive_threshold": int(HEARTBEAT * 12 * _NS),
            }
            if start.opt_start_seq is not None:
                config["opt_start_seq"] = start.opt_start_seq
            info = await store.api(
                f"CONSUMER.CREATE.{self._stream}.{name}.{self._subject}",
                {"stream_name": self._stream, "config": config, "action": "create"},
            )
            created = True
            await self._pump(queue, int(info.get("num_pending", 0)))
        finally:
            await store.unsubscribe(subscription)
            if created and store.connected:
                # It would go by itself after a minute; nobody waits for the answer.
                with contextlib.suppress(UnavailableError):
                    await store.send(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}")

    async def _pump(self, queue: "asyncio.Queue[Msg]", pending: int) -> None:
        """Hands over what comes, until something is missing."""
        fresh, expected = True, 1
        if pending == 0:
            await self._deliver(Batch(messages=(), fresh=True, pending=0))
            fresh = False
        while True:
            message = await self._next(queue)
            messages: list[Stored] = []
            answers: list[str] = []
            while True:
                if message.reply.startswith("$JS.ACK."):
                    stored, sequence, pending = _parse(message)
                    if sequence != expected:
                        raise UnavailableError(f"expected message {expected} of {self._stream}, got {sequence}")
                    expected += 1
                    messages.append(stored)
                else:
                    answers += self._control(message, expected - 1)
                if queue.empty() or len(messages) >= 500:
                    break
                message = queue.get_nowait()
            if messages:
                await self._deliver(Batch(messages=tuple(messages), fresh=fresh, pending=pending))
                fresh = False
            for answer in answers:
                await self._store.send(answer)

    async def _next(self, queue: "asyncio.Queue[Msg]") -> Msg:
        """The next message; StoreError when the consumer seems dead."""
        get = asyncio.ensure_future(queue.get())
        again = asyncio.ensure_future(self._again.wait())
        try:
            await asyncio.wait((get, again), timeout=HEARTBEAT * 3, return_when=asyncio.FIRST_COMPLETED)
            if get.done() and not self._again.is_set():
                return get.result()
        finally:
            get.cancel()
            again.cancel()
        raise UnavailableError("reconnected" if self._again.is_set() else f"no sign of life in {HEARTBEAT * 3:g} s")

    def _control(self, message: Msg, last: int) -> list[str]:
        """Flow control requests and heartbeats (status 100): subjects to answer on. A heartbeat tells of a gap."""
        headers = message.headers or {}
        if headers.get("Status") != "100":
            raise UnavailableError(f"{self._stream}: {headers.get('Description', 'unexpected message')}")
        delivered = headers.get("Nats-Last-Consumer")
        if delivered is not None and int(delivered) != last:
            raise UnavailableError(f"expected message {last + 1} of {self._stream}, {delivered} were sent")
        answers = []
        if message.reply:
            answers.append(message.reply)
        stalled = headers.get("Nats-Consumer-Stalled")
        if stalled:
            answers.append(stalled)
        return answers


def _parse(message: Msg) -> tuple[Stored, int, int]:
    """The message, its consumer sequence, and how many are pending behind it, from its reply subject.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<pending>`, or with domain and account
    hash in front and a token behind (ADR-15).
    """
    tokens = message.reply.split(".")
    first = 4 if len(tokens) < 11 else 6
    _, sequence, consumer_sequence, nanoseconds, pending = (int(token) for token in tokens[first : first + 5])
    stored = Stored(message.subject, sequence, nanoseconds / _NS, message.data, dict(message.headers or {}))
    return stored, consumer_sequence, pending
