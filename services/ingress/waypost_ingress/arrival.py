"""Who comes, before the first command: the peer, its PROXY header, caps, implicit TLS, trust by network, the greeting.

A client that speaks before it is greeted is no mail server (or is led here by a browser) and is shown the door; a probe
that says nothing is greeted like anybody.
"""

import time
from typing import TYPE_CHECKING, Final

import structlog

from waypost_policy.acceptance import Party
from waypost_policy.identity import Identity
from waypost_policy.index import ConfigIndex, canonical_address
from waypost_policy.replies import Answer, Replies

from . import proxy
from .connection import Connection
from .tls import Certificates, is_foreign

if TYPE_CHECKING:
    from .ingress import Ingress, Listener

log = structlog.get_logger(__name__)

MAX_ERRORS: Final = 20  # refusals between two accepted mails
KNOWN_GREET_DELAY: Final = 0.002  # s; enough to see an early talker next door, too little to slow a sender
TLS_HANDSHAKE: Final = 0x16  # first octet of a ClientHello


class HangUpError(Exception):
    """All is said: the connection ends. `linger`: the client may be in the middle of sending."""

    def __init__(self, *, linger: bool = True) -> None:
        self.linger = linger


class Arrival(Connection):
    """A connection and what is known of its other end."""

    def __init__(self, ingress: "Ingress", listener: "Listener") -> None:
        super().__init__(ingress.loop)
        self.ingress = ingress
        self.listener = listener
        self.peer = ""
        self.identity: Identity | None = None
        self.party = Party(None, listener.kind)
        self.trusted_peer = True  # False: a proxy that speaks for itself earns no network's rights
        self.tls_words = ""  # "TLSv1.3 TLS_AES_256_GCM_SHA384"
        self.errors = 0
        self._index: ConfigIndex | None = None  # by which `identity` was looked up
        self._counted = ""  # key in the per-address count

    def depart(self) -> None:
        """Gives its place to another."""
        if self._counted:
            self.ingress.per_address.leave(self._counted)
            self._counted = ""

    async def arrive(self) -> None:
        ingress, settings = self.ingress, self.ingress.settings
        peer = self.info("peername")
        self.peer = _plain(peer[0]) if peer else ""
        if ingress.is_proxy(self.peer):
            await self._proxy_header()
        if ingress.full():
            self.answer(Replies.TOO_MANY_CONNECTIONS(scope="to this server"))
        key = ingress.client_key(self.peer)
        if not ingress.per_address.enter(key):
            self.answer(Replies.TOO_MANY_CONNECTIONS(scope=f"from {self.peer}"))
        self._counted = key
        if self.trusted_peer:
            ingress.gate.seen(self.peer, time.time())
            self.look_up_network()
        if self.listener.implicit_tls:
            if ingress.certificates is None:
                raise HangUpError(linger=False)
            await self.secure(ingress.certificates)
        else:
            stranger = self.identity is None and self.listener.kind == "mx"
            if not self.buffer:
                await self._pause(settings.greet_delay if stranger else min(KNOWN_GREET_DELAY, settings.greet_delay))
        if self.buffer:
            # A TLS handshake or an HTTP request at a port that speaks first is no impatient mail server.
            foreign = self.buffer[0] == TLS_HANDSHAKE
            self.answer(Replies.NOT_SMTP() if foreign else Replies.SPOKE_TOO_EARLY())
        if ingress.draining:
            self.answer(Replies.SHUTTING_DOWN())
        not_ready = ingress.not_ready()
        if not_ready:
            log.info("session.not_ready", reason=not_ready)
            self.answer(Replies.NOT_READY())
        self.say(ingress.greeting)

    def look_up_network(self) -> None:
        """What the peer's address is worth under the configuration of now; what AUTH proved is worth more."""
        index = self.ingress.index()
        if index is self._index or not self.trusted_peer or (self.identity and self.identity.authenticated):
            return
        self._index = index
        self.identity, hidden = self.ingress.network(self.peer)
        self.party = Party(self.identity, self.listener.kind, hidden)

    async def _pause(self, seconds: float) -> None:
        """Waits for `seconds`, or until the client says something more."""
        if seconds <= 0:
            return
        timer = self.loop.call_later(seconds, self.wake)
        try:
            await self.fill()
        finally:
            timer.cancel()

    async def _proxy_header(self) -> None:
        """The header of a listed peer. One that says nothing is a probe, and is greeted for what it is."""
        deadline = self.loop.time() + self.ingress.settings.proxy_timeout
        while True:
            if self.buffer:
                if not proxy.begins_like_proxy(self.buffer):
                    break  # a direct client on a listed address; what it may say before the greeting is judged there
                try:
                    source = proxy.take(self.buffer)
                except proxy.ProxyError as error:
                    log.warning("session.proxy_header_refused", peer=self.peer, error=str(error))
                    raise HangUpError from error
                if source is not None:
                    if source.address:
                        self.peer = _plain(source.address)
                        return
                    break  # it speaks for itself: a health check
            left = deadline - self.loop.time()
            if left <= 0:
                if self.buffer:
                    raise HangUpError
                break
            await self._pause(left)
        self.trusted_peer = False

    async def secure(self, certificates: Certificates, ready: bytes = b"") -> None:
        """TLS, then a session that begins anew (RFC 3207 4.2)."""
        await self.start_tls(certificates.context, self.ingress.settings.tls_timeout, ready=ready)
        if self.tls is not None:
            if is_foreign(self.tls):
                log.info("session.foreign_protocol", peer=self.peer)
                raise HangUpError(linger=False)
            cipher = self.tls.cipher()
            self.tls_words = f"{self.tls.version()} {cipher[0] if cipher else 'unknown'}"

    def answer(self, answer: Answer) -> None:
        """Says it and counts what is a refusal. Raises HangUpError when the connection ends with it."""
        if answer.code >= 400:
            self.ingress.count_refusal(answer.name)
        if answer.close:
            self.say(answer.line)
            raise HangUpError
        if answer.code >= 500:
            self.errors += 1
            if self.errors > MAX_ERRORS:
                self.answer(Replies.TOO_MANY_ERRORS())
        self.say(answer.line)


def _plain(address: str) -> str:
    """An IPv4 address that came in over an IPv6 socket, ours or a proxy's, as IPv4."""
    return canonical_address(address) if address.startswith("::ffff:") else address
