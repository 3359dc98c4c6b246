"""All sites of the process: found by name, swept once a second, bounded in all."""

import asyncio
import time

import opentelemetry.metrics

from .client_session import Session
from .site import Site, Slots
from .transport import TransportSettings

_meter = opentelemetry.metrics.get_meter("waypost")
OPEN = _meter.create_up_down_counter(
    "waypost.delivery.open_connections",
    unit="{connection}",
    description="Connections to next hops that are in use or idle, over all sites.",
)

_MAX_SITES = 20_000
_SWEEP = 1.0  # seconds
_FORGET = 900.0  # seconds after which a site without connections is forgotten; above the longest rest


class Pool:
    """Sites and their connections."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._sites: dict[str, Site] = {}
        self._sessions: set[Session] = set()  # opened and not yet retired
        self._slots = Slots(settings.max_connections)
        self._retiring: set[asyncio.Task[None]] = set()
        self._timer = self._loop.call_later(_SWEEP, self._sweep)

    def site(self, name: str) -> Site:
        """The site of this name."""
        site = self._sites.get(name)
        if site is None:
            if len(self._sites) >= _MAX_SITES:
                self._forget(0.0)
            site = Site(name, self._settings, time.monotonic, self._slots, self.retire, self._evict)
            self._sites[name] = site
        return site

    def opened(self, session: Session) -> None:
        """Counts a new session; `retire` is its end."""
        self._sessions.add(session)
        OPEN.add(1)

    def retire(self, session: Session) -> None:
        """Ends a session: QUIT where it is in order, and without a word where it is not."""
        if session not in self._sessions:
            return
        self._sessions.discard(session)
        OPEN.add(-1)
        if session.connection.lost or session.closing:
            session.connection.abort()
            return
        task = asyncio.create_task(self._quit(session))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Ends all of them."""
        self._timer.cancel()
        for session in list(self._sessions):
            session.connection.on_lost = None
            self.retire(session)
        await asyncio.gather(*self._retiring)
        self._sites.clear()

    async def _quit(self, session: Session) -> None:
        connection = session.connection
        await connection.ask(b"QUIT\r\n", (session.quit_timeout,))
        connection.end()
        try:
            async with asyncio.timeout(1.0):
                await connection.closed.wait()
        except TimeoutError:  # a TLS peer that does not say goodbye
            connection.abort()

    def _evict(self) -> bool:
        """Closes an idle session of whichever site has one."""
        return any(site.evict() for site in self._sites.values())

    def _sweep(self) -> None:
        now = time.monotonic()
        for site in self._sites.values():
            if site.idle:
                site.sweep(now)
        if len(self._sites) > _MAX_SITES // 2 or int(now) % 60 == 0:
            self._forget(now - _FORGET)
        self._timer = self._loop.call_later(_SWEEP, self._sweep)

    def _forget(self, used_before: float) -> None:
        """Forgets quiet sites, trouble of long ago with them; with 0, all that are unused and not in trouble."""
        gone = [
            name
            for name, site in self._sites.items()
            if site.unused and (site.used_at < used_before if used_before else not site.breaker.failures)
        ]
        for name in gone:
            del self._sites[name]
