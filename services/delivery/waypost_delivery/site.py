"""A site and its slots: who may use a connection now, who waits, and who is told to come back later.

A slot is a connection that is open, being opened, or idle. A mail takes an idle connection with its key (equal plans),
or a slot to open one; else it waits for a moment if the site is quick, and is spilled if it is slow: a worker never
sits on what it can't send.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

import opentelemetry.metrics
from msgspec import Struct

from waypost_queue.config import DestinationLimits
from waypost_queue.model import Reply

from .client import Connection
from .client_session import Session
from .limits import Backlog, Breaker, Bucket, Window
from .transport import SiteBusyError, TransportSettings

_meter = opentelemetry.metrics.get_meter("waypost")
RESTS = _meter.create_counter(
    "waypost.delivery.site_rests", unit="{rest}", description="Times a site was left alone after connection failures."
)

_PATIENCE = 3.0  # seconds that a mail waits for a slot, and the longest wait that is begun at all
_MOST_WAITING = 2000  # mails a site
_PENALTY = 60.0  # seconds for which an address that failed is tried last
_MOST_PENALTIES = 100


class _Waiter(Struct, eq=False):
    key: object
    slot: "asyncio.Future[Session | None]"


class Slots(Struct):
    """Slots taken over all sites."""

    most: int
    taken: int = 0


class Site:
    """One site in this process. `retire` closes a session in the background; `make_room` frees a slot elsewhere."""

    def __init__(
        self,
        name: str,
        settings: TransportSettings,
        clock: Callable[[], float],
        slots: Slots,
        retire: Callable[[Session], None],
        make_room: Callable[[], bool],
    ) -> None:
        self.name = name
        self.breaker = Breaker()
        self.window = Window()
        self.open = 0
        self.idle: list[Session] = []
        self.last: Reply | None = None  # why it rests
        self.used_at = clock()
        self.plaintext: dict[str, float] = {}  # address -> until when TLS is not tried with it
        self._settings = settings
        self._clock = clock
        self._retire = retire
        self._slots = slots
        self._make_room = make_room
        self._limit = settings.site_connections
        self._bucket: Bucket | None = None
        self._backlog = Backlog()
        self._duration = 0.05  # seconds a mail holds a slot, moving average
        self._waiters: deque[_Waiter] = deque()
        self._penalties: dict[str, float] = {}

    @property
    def unused(self) -> bool:
        """It holds nothing and waits for nothing."""
        return not (self.open or self._waiters)

    async def take(self, key: object, limits: DestinationLimits) -> Session | None:
        """An idle session with this key, or None: a slot to open one. Each must be given back. Raises SiteBusyError."""
        now = self.used_at = self._clock()
        self._limit = limits.connections or self._settings.site_connections
        if not self.breaker.admit(now):
            raise self._busy("resting")
        try:
            self._take_token(limits, now)
            found = self._idle_session(key, now)
            if found is not None:
                return found
            if self._take_slot():
                return None
            return await self._wait(key)
        except BaseException:
            self.breaker.gave_up()
            raise

    def give_back(self, session: Session, held: float, limits: DestinationLimits) -> None:
        """After use, `held` seconds: kept for the next, or closed when it has done enough."""
        self._duration += 0.1 * (held - self._duration)
        most = limits.messages_per_connection or self._settings.messages_per_connection
        if session.most_messages:
            most = min(most, session.most_messages)
        now = self._clock()
        if not session.usable or session.messages >= most or now - session.opened > self._settings.connection_age:
            self.drop(session)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if waiter.slot.done():
                continue
            if waiter.key == session.key:
                waiter.slot.set_result(session)
            else:
                self._retire(session)
                waiter.slot.set_result(None)
            return
        if self.open > self.window.capacity(self._limit):
            self.drop(session)
            return
        session.idle_since = now
        session.connection.on_lost = self._idle_lost
        self.idle.append(session)

    def drop(self, session: Session | None) -> None:
        """Gives back a slot, and closes its session if there was one."""
        if session is not None:
            self._retire(session)
        self._count(-1)
        self._pass_on()

    def reached(self) -> None:
        """A host answered."""
        self.breaker.succeeded()

    def unreachable(self, reply: Reply) -> None:
        """None of its hosts could be reached: after a few of these in a row it rests, and who waits is spilled."""
        now = self._clock()
        self.last = reply
        self.window.bad(now, self._limit)
        if self.breaker.failed(now):
            RESTS.add(1)
            while self._waiters:
                slot = self._waiters.popleft().slot
                if not slot.done():
                    slot.set_exception(self._busy("resting"))

    def penalise(self, address: str) -> None:
        """Tries this address last for a while."""
        if len(self._penalties) >= _MOST_PENALTIES:
            self._penalties.clear()
        self._penalties[address] = self._clock() + _PENALTY

    def penalised(self) -> frozenset[str]:
        if not self._penalties:
            return frozenset()
        now = self._clock()
        return frozenset(address for address, until in self._penalties.items() if until > now)

    def sweep(self, now: float) -> None:
        """Closes what has been idle for too long."""
        for session in [one for one in self.idle if now - one.idle_since >= self._settings.connection_idle]:
            self._forget_idle(session)
            self.drop(session)

    def evict(self) -> bool:
        """Closes the session that has been idle longest, to make room elsewhere."""
        if not self.idle:
            return False
        session = self.idle[0]
        self._forget_idle(session)
        self.drop(session)
        return True

    # Inside

    def _take_token(self, limits: DestinationLimits, now: float) -> None:
        if limits.messages_per_minute is None:
            self._bucket = None
            return
        rate = limits.messages_per_minute / 60
        if self._bucket is None or self._bucket.rate != rate:
            self._bucket = Bucket(rate, at=now)
        if not self._bucket.take(now):
            raise self._busy("rate")

    def _idle_session(self, key: object, now: float) -> Session | None:
        """The last used first, so that those not needed grow old and go."""
        for session in reversed(self.idle):
            if session.key == key:
                self._forget_idle(session)
                if session.usable and now - session.opened <= self._settings.connection_age:
                    return session
                self.drop(session)
                return self._idle_session(key, now)
        return None

    def _take_slot(self) -> bool:
        if self.open < self.window.capacity(self._limit) and (
            self._slots.taken < self._slots.most or self._make_room()
        ):
            self._count(1)
            return True
        if self.idle:  # of another key: its slot becomes ours
            session = self.idle[0]
            self._forget_idle(session)
            self._retire(session)
            return True
        return False

    async def _wait(self, key: object) -> Session | None:
        expected = (len(self._waiters) + 1) * self._duration / self.window.capacity(self._limit)
        if expected > _PATIENCE or len(self._waiters) >= _MOST_WAITING or not self.open:
            raise self._busy("full")
        waiter = _Waiter(key, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(_PATIENCE):
                return await waiter.slot
        except (TimeoutError, asyncio.CancelledError) as error:
            self._unwait(waiter)
            if isinstance(error, TimeoutError):
                raise self._busy("full") from None
            raise

    def _unwait(self, waiter: _Waiter) -> None:
        """It gave up; what it was handed in the same moment goes to the next."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        slot = waiter.slot
        if slot.done() and not slot.cancelled() and slot.exception() is None:
            self.drop(slot.result())

    def _pass_on(self) -> None:
        """A free slot goes to who waits longest."""
        while self._waiters and self.open < self.window.capacity(self._limit):
            waiter = self._waiters.popleft()
            if not waiter.slot.done():
                self._count(1)
                waiter.slot.set_result(None)

    def _count(self, change: int) -> None:
        self.open += change
        self._slots.taken += change

    def _forget_idle(self, session: Session) -> None:
        self.idle.remove(session)
        session.connection.on_lost = None

    def _idle_lost(self, connection: Connection) -> None:
        """The next hop closed an idle connection, which is its right."""
        for session in self.idle:
            if session.connection is connection:
                self._forget_idle(session)
                self.drop(session)
                return

    def _busy(self, reason: Literal["full", "resting", "rate"]) -> SiteBusyError:
        now = self._clock()
        rate = self.window.capacity(self._limit) / max(self._duration, 0.01)
        if self._bucket is not None:
            rate = min(rate, self._bucket.rate)
        not_before = self.breaker.resting_until if reason == "resting" else now
        if reason == "rate" and self._bucket is not None:
            not_before = now + (1 - self._bucket.tokens) / self._bucket.rate
        after = self._backlog.book(now, not_before, rate)
        return SiteBusyError(self.name, after, reason, self.last if reason == "resting" else None)
