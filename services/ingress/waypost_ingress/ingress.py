"""What all sessions of a worker share: configuration, caps, certificates, the clock for who is too slow, the drain.

One coarse timer serves all deadlines: a session only writes down by when it must have done something.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

import opentelemetry.metrics
import structlog
from msgspec import Struct

from waypost_policy.identity import Identity
from waypost_policy.index import ConfigIndex
from waypost_policy.peers import PeerGate

from .acceptance import Acceptor
from .auth import MECHANISMS, Authenticator
from .budget import PerAddress, Room, address_key
from .dialogue import Dialogue
from .parameters import MAX_HOLD
from .settings import IngressSettings
from .tls import Certificates

log = structlog.get_logger(__name__)

TICK: Final = 1.0  # s between looks at deadlines, at the certificate's files and at what was counted

_DAY: Final = 86_400  # s

_meter = opentelemetry.metrics.get_meter("waypost")
CONNECTIONS = _meter.create_counter(
    "waypost.smtp.connections", unit="{connection}", description="SMTP connections taken, by listener."
)
SESSIONS = _meter.create_up_down_counter(
    "waypost.smtp.sessions", unit="{session}", description="SMTP sessions that are open."
)
REFUSALS = _meter.create_counter(
    "waypost.smtp.refusals", unit="{reply}", description="4xx and 5xx replies, by their name in docs/replies.md."
)
DEADLINES = _meter.create_counter(
    "waypost.smtp.timeouts", unit="{session}", description="Sessions ended because the client was too slow."
)


class Listener(Struct, frozen=True):
    """One of the three, and what sets it apart."""

    kind: Literal["mx", "submission", "submissions"]
    port: int
    implicit_tls: bool = False
    auth: bool = False


def listeners(settings: IngressSettings) -> tuple[Listener, ...]:
    """Those that are not left out."""
    every = (
        Listener("mx", settings.mx_port),
        Listener("submission", settings.submission_port, auth=True),
        Listener("submissions", settings.submissions_port, implicit_tls=True, auth=True),
    )
    return tuple(listener for listener in every if listener.port >= 0)


class Ingress:
    """The state of one worker."""

    def __init__(
        self,
        settings: IngressSettings,
        *,
        acceptor: Acceptor,
        index: Callable[[], ConfigIndex],
        authenticator: Authenticator | None,
        certificates: Certificates | None,
        not_ready: Callable[[], str] = lambda: "",
        tick: float = TICK,
    ) -> None:
        """`not_ready` says why no mail can be taken at all by now, or "": such a session gets a 421."""
        self.loop = asyncio.get_running_loop()
        self.settings = settings
        self.acceptor = acceptor
        self.index = index
        self.authenticator = authenticator
        self.certificates = certificates
        self.not_ready = not_ready
        self.draining = False
        self.room = Room(settings.content_memory)
        self.gate = PeerGate(enough=settings.hidden_peers_after)
        self.per_address = PerAddress(settings.connections_per_address)
        self.greeting = f"220 {settings.hostname} ESMTP Waypost\r\n".encode()
        self.helo_reply = f"250 {settings.hostname}\r\n".encode()
        self._ehlo: dict[tuple[Listener, bool], bytes] = {}
        self._ehlo_day = 0
        self._sessions: set[Dialogue] = set()
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        self._refusals: dict[str, int] = {}
        self._connections: dict[str, int] = {}
        self._open_counted = 0
        self._tick = tick
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self.loop.call_later(self._tick, self._on_tick)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._flush_metrics()

    # -- sessions

    def enter(self, session: Dialogue) -> None:
        self._sessions.add(session)
        kind = session.listener.kind
        self._connections[kind] = self._connections.get(kind, 0) + 1

    def leave(self, session: Dialogue) -> None:
        self._sessions.discard(session)
        left = len(self._sessions)
        for number, future in self._awaited:
            if left <= number and not future.done():
                future.set_result(None)

    def all_sessions(self) -> tuple[Dialogue, ...]:
        """Those that are open."""
        return tuple(self._sessions)

    async def left_to(self, number: int) -> None:
        """Returns once no more than `number` sessions are open."""
        if len(self._sessions) <= number:
            return
        awaited = (number, self.loop.create_future())
        self._awaited.append(awaited)
        try:
            await awaited[1]
        finally:
            self._awaited.remove(awaited)

    def full(self) -> bool:
        return len(self._sessions) > self.settings.connections

    def is_proxy(self, address: str) -> bool:
        """Whether the peer is listed as one that sends a PROXY header."""
        networks = self.settings.proxy_from
        if not networks or not address:
            return False
        peer = ipaddress.ip_address(address.partition("%")[0])
        return any(peer in network for network in networks)

    def network(self, address: str) -> tuple[Identity | None, str]:
        """The identity of a peer in a trusted network; or why such trust is off, or neither."""
        identity = self.index().network(address)
        if identity is None:
            return None, ""
        hidden = self.gate.hidden(address, time.time())
        return (None, hidden) if hidden else (identity, "")

    def client_key(self, address: str) -> str:
        return address_key(address)

    def count_refusal(self, name: str) -> None:
        self._refusals[name] = self._refusals.get(name, 0) + 1

    # -- what is said the same to everybody

    def ehlo_reply(self, listener: Listener, *, tls: bool) -> bytes:
        """The lines of EHLO in one reply."""
        day = int(time.time()) // _DAY
        if day != self._ehlo_day:  # FUTURERELEASE names a date
            self._ehlo_day = day
            self._ehlo.clear()
        reply = self._ehlo.get((listener, tls))
        if reply is None:
            reply = self._ehlo[(listener, tls)] = self._make_ehlo(listener, tls)
        return reply

    def _make_ehlo(self, listener: Listener, tls: bool) -> bytes:
        settings = self.settings
        lines = [
            settings.hostname,
            "PIPELINING",
            f"SIZE {settings.message_size}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "DSN",
            "CHUNKING",
            "MT-PRIORITY",
            f"LIMITS RCPTMAX={settings.recipients}",
        ]
        if listener.kind != "mx":
            latest = datetime.fromtimestamp(self._ehlo_day * _DAY + MAX_HOLD, UTC)
            lines.append(f"FUTURERELEASE {MAX_HOLD} {latest:%Y-%m-%dT%H:%M:%SZ}")
        if self.certificates is not None and not tls:
            lines.append("STARTTLS")
        if tls and listener.auth and self.authenticator is not None:
            lines.append("AUTH " + " ".join(MECHANISMS))
        last = len(lines) - 1
        return "".join(f"250{' ' if i == last else '-'}{line}\r\n" for i, line in enumerate(lines)).encode()

    # -- time

    def _on_tick(self) -> None:
        self._timer = self.loop.call_later(self._tick, self._on_tick)
        now = self.loop.time()
        late = [session for session in self._sessions if session.deadline < now]
        for session in late:
            session.expire()
        if late:
            DEADLINES.add(len(late))
        if self.certificates is not None:
            self.certificates.refresh()
        self._flush_metrics()

    def _flush_metrics(self) -> None:
        for kind, count in self._connections.items():
            CONNECTIONS.add(count, {"listener": kind})
        for name, count in self._refusals.items():
            REFUSALS.add(count, {"reply": name})
        self._connections.clear()
        self._refusals.clear()
        if len(self._sessions) != self._open_counted:
            SESSIONS.add(len(self._sessions) - self._open_counted)
            self._open_counted = len(self._sessions)
        self.acceptor.flush_metrics()

    # -- the end

    async def drain(self, timeout: float) -> bool:
        """After the listeners are closed: 421 at each session's next command, DATA in flight is finished and answered.

        False when sessions were left after `timeout` seconds; they are cut off, and nothing of theirs got a 250.
        """
        self.draining = True
        for session in self.all_sessions():
            session.wake()
        try:
            await asyncio.wait_for(self.left_to(0), timeout)
        except TimeoutError:
            left = self.all_sessions()
            log.warning("ingress.drain_incomplete", sessions=len(left))
            tasks = [session.task for session in left if session.task is not None]
            for session in left:
                session.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return False
        return True
