"""What the parts of the engine share, and what is known about one message in hand."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import opentelemetry.metrics
from msgspec import structs

from .clock import StreamClock
from .errors import ApiError, FencedError, FullError, OwnershipLostError, UnavailableError, UnknownFateError
from .held import Held, KeepAlive
from .kv import Bucket
from .model import INLINE_LIMIT, ControlMark, Mail, Recipient, Ticket, recipients_by_index
from .outcomes import Outcomes, Scanner
from .pause import reached
from .pull import Lane
from .room import Room
from .settle import Settler
from .store import Store
from .streams import Timing
from .work import Handler, Work

_meter = opentelemetry.metrics.get_meter("waypost")
FENCED = _meter.create_counter(
    "waypost.queue.fenced", unit="{publish}", description="Publishes refused because another worker owns the group."
)

RETRY_AFTER = 0.1  # s, where nothing was stored
FULL_AFTER = 1.0  # s, until a full store is asked again


class BodyStore(Protocol):
    """The spool, as `spool.Spool` is."""

    async def put(self, mail_id: str, content: bytes) -> int: ...

    async def get(self, mail: Mail) -> bytes: ...

    async def purge(self, mail_id: str) -> None: ...


class Shared:
    """What all jobs of an engine use."""

    def __init__(
        self,
        store: Store,
        timing: Timing,
        handler: Handler,
        spool: BodyStore,
        marks: Callable[[str], ControlMark | None],
        room: Room,
        keep_alive: KeepAlive,
        shards: dict[int, tuple[Settler, Scanner, StreamClock]],
    ) -> None:
        self.store = store
        self.timing = timing
        self.handler = handler
        self.spool = spool
        self.marks = marks
        self.room = room
        self.keep_alive = keep_alive
        self.state = Bucket(store, "state")
        self._shards = shards

    def mark(self, mail: str, domain: str) -> ControlMark | None:
        """The control mark on a group, if any; a mark may be about one destination domain only."""
        mark = self.marks(mail)
        return mark if mark is None or mark.domain in ("", domain) else None

    def settler(self, shard: int) -> Settler:
        return self._shards[shard][0]

    def scanner(self, shard: int) -> Scanner:
        return self._shards[shard][1]

    def clock(self, shard: int) -> StreamClock:
        return self._shards[shard][2]


class Group:
    """One group (mail, destination domain) of a message in hand; `n` is its lowest index in the bundle, for ever."""

    __slots__ = ("domain", "fence", "indexes", "last", "mail", "n", "recipients", "successor", "ticket")

    def __init__(
        self,
        mail: Mail,
        domain: str,
        n: int,
        indexes: tuple[int, ...],
        recipients: dict[int, Recipient],
        ticket: Ticket | None = None,
        fence: int = 0,
    ) -> None:
        self.mail, self.domain, self.n, self.indexes = mail, domain, n, indexes
        self.recipients = recipients
        self.ticket = ticket
        self.fence = fence  # the sequence that the next ticket of the group replaces: 0, its guard's, its ticket's
        self.last = 0  # sequence of the group's last message, as recovery saw it
        self.successor = False

    @classmethod
    def of_ticket(cls, ticket: Ticket, seq: int) -> "Group":
        recipients = {**ticket.owed_to, **recipients_by_index(ticket)}
        return cls(ticket.mail, ticket.domain, ticket.n, ticket.indexes, recipients, ticket, seq)


class Job:
    """One message in hand. `since` and `scanned` say from where SETTLE speaks about it."""

    def __init__(self, shared: Shared, held: Held, lane: Lane) -> None:
        self.shared = shared
        self.held = held
        self.lane = lane
        self.shard, self.pool = lane.shard, lane.pool
        self.recovered = False
        self.stored_at = held.time  # of a marked one: its original's
        self.outcomes: Outcomes | None = None  # what recovery found
        self.groups: dict[str, tuple[tuple[str, int], ...]] = {}  # mail -> (domain, n) of each of its groups
        self._spooled: dict[str, asyncio.Future[int]] = {}
        self._bodies: dict[str, asyncio.Future[bytes]] = {}

    @property
    def now(self) -> float:
        return self.shared.clock(self.shard).now()

    def work(self, group: Group, indexes: tuple[int, ...], mark: ControlMark | None) -> Work:
        """What the handler is given about a group."""
        mail = group.mail
        return Work(
            mail=mail,
            domain=group.domain,
            n=group.n,
            indexes=indexes,
            recipients=group.recipients,
            shard=self.shard,
            pool=self.pool,
            lane=self.lane.name,
            stored_at=self.stored_at,
            now=self.now,
            ticket=group.ticket,
            recovered=self.recovered,
            mark=mark,
            body=lambda: self.body(mail),
            owned=self.held.owned,
        )

    # -- bodies

    async def body(self, mail: Mail) -> bytes:
        """The content; read once for all groups of the mail. Raises BodyMissingError."""
        if mail.content is not None:
            return mail.content
        return await _once(self._bodies, mail.id, lambda: self.shared.spool.get(mail))

    async def keep_body(self, mail: Mail) -> Mail:
        """The mail without its content, which is in the spool then; with it where SPOOL has no room and it is small."""
        content = mail.content
        if content is None:
            return mail
        try:
            chunks = await _once(self._spooled, mail.id, lambda: self._put_body(mail.id, content))
        except FullError:
            return mail
        return structs.replace(mail, content=None, chunks=chunks)

    async def _put_body(self, mail_id: str, content: bytes) -> int:
        while True:
            self.held.need()
            try:
                chunks = await self.shared.spool.put(mail_id, content)
            except FullError:
                if len(content) <= INLINE_LIMIT:
                    raise
                await asyncio.sleep(FULL_AFTER)
            except (UnavailableError, UnknownFateError):
                await asyncio.sleep(RETRY_AFTER)  # a chunk stored twice is the same chunk
            else:
                reached("after_spool")
                return chunks

    def spooled(self, mail_id: str) -> bool:
        """Whether this job put the body into the spool."""
        return mail_id in self._spooled

    # -- tickets and guards

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str], point: str) -> int:
        """A fenced publish to QUEUE: its sequence once stored.

        Raises OwnershipLostError on a wrong fence (another owns the group) and on silence: it may be stored, fired and
        done, so it is never sent again blindly. Where surely nothing was stored it is. `point` is passed between the
        last look and the publish: a process may be stopped right there, and only the fence can tell then.
        """
        while True:
            self.held.need()
            reached(point)
            try:
                return (await self.shared.store.publish(subject, payload, headers)).seq
            except FencedError as error:
                FENCED.add(1)
                raise OwnershipLostError(f"{subject}: {error.description}") from error
            except UnknownFateError as error:
                raise OwnershipLostError(str(error)) from error
            except FullError:
                self.shared.room.full(self.shard)
                await asyncio.sleep(FULL_AFTER)
            except UnavailableError:
                await asyncio.sleep(RETRY_AFTER)
            except ApiError as error:
                raise OwnershipLostError(str(error)) from error


T = TypeVar("T")


async def _once(cache: dict[str, asyncio.Future[T]], key: str, make: Callable[[], Awaitable[T]]) -> T:
    """`make()`, awaited once for all who ask for `key`; the others share its result or its exception."""
    shared = cache.get(key)
    if shared is not None:
        return await asyncio.shield(shared)
    cache[key] = future = asyncio.get_running_loop().create_future()
    try:
        value = await make()
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(error)
            future.exception()  # seen: whoever shares it raises it again
        raise
    future.set_result(value)
    return value
