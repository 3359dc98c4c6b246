"""An SMTP session without its mails: greeting, command loop, EHLO, STARTTLS, AUTH, budgets, and the way out.

    open        caps, PROXY header of a listed peer, implicit TLS, greeting (none for who talks before it)
    commands    one line at a time out of the buffer; replies leave when the buffer holds no further command
    end         QUIT, a reply that closes, the deadline, the drain, or the client's going

What RFC 2920 3.1 lets stand last in a group only (EHLO, HELO, AUTH, DATA) is refused with anything behind it, and so is
any group from a client that was never told of PIPELINING.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog

from waypost_policy.acceptance import Party
from waypost_policy.identity import Identity
from waypost_policy.index import ConfigIndex
from waypost_policy.replies import Answer, Replies

from . import proxy
from .auth import MAX_LINE, MECHANISMS, Authenticator, Challenge, Exchange, Malformed, failure_challenge
from .connection import ClientGoneError, Connection, TimedOutError
from .tls import Certificates, is_foreign

if TYPE_CHECKING:
    from .ingress import Ingress, Listener

log = structlog.get_logger(__name__)

MAX_COMMAND: Final = 512  # octets with CRLF, RFC 5321 4.5.3.1.4
# MAIL and RCPT with the parameters of all extensions: 512 + SIZE 26 (RFC 1870), SMTPUTF8 10 (6531), AUTH 500 (4954),
# ORCPT 500 and NOTIFY 28 (3461 5.4), HOLDUNTIL 34 (4865), MT-PRIORITY 15 (6710), addresses in UTF-8.
MAX_PATH_COMMAND: Final = 2048
MAX_ERRORS: Final = 20  # refusals between two accepted mails
MAX_IDLE_COMMANDS: Final = 100  # commands between two accepted mails that bring no mail nearer
KNOWN_GREET_DELAY: Final = 0.002  # s; enough to see an early talker next door, too little to slow a sender

_FOREIGN: Final = frozenset(
    (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH", b"TRACE", b"PROXY", b"PRI", b"SSH")
)
_TLS_HANDSHAKE: Final = 0x16
_SYNTAX: Final = {
    "EHLO": "EHLO host",
    "HELO": "HELO host",
    "MAIL": "MAIL FROM:<local@domain> [parameters]",
    "RCPT": "RCPT TO:<local@domain> [parameters]",
    "DATA": "DATA",
    "BDAT": "BDAT octets [LAST]",
    "RSET": "RSET",
    "NOOP": "NOOP [anything]",
    "VRFY": "VRFY address",
    "HELP": "HELP [command]",
    "AUTH": "AUTH mechanism [initial-response]",
    "STARTTLS": "STARTTLS",
    "QUIT": "QUIT",
}


class HangUpError(Exception):
    """All is said: the connection ends. `linger`: the client may be in the middle of sending."""

    def __init__(self, *, linger: bool = True) -> None:
        self.linger = linger


Command = Callable[["Dialogue", str], Awaitable[None]]


class Dialogue(Connection):
    """One session. `Session` (session.py) adds the mails."""

    commands: dict[bytes, Command]

    def __init__(self, ingress: "Ingress", listener: "Listener") -> None:
        super().__init__(ingress.loop)
        self.ingress = ingress
        self.listener = listener
        self.task: asyncio.Task[None] | None = None
        self.peer = ""
        self.identity: Identity | None = None
        self.party = Party(None, listener.kind)
        self.helo = ""
        self.extended = False  # said EHLO, so it knows of PIPELINING
        self.trusted_peer = True  # False: a proxy that speaks for itself earns no network's rights
        self.tls_words = ""  # "TLSv1.3 TLS_AES_256_GCM_SHA384"
        self.errors = 0
        self.idle_commands = 0
        self.at_rest = False  # waiting for a command, nothing half done
        self._index: ConfigIndex | None = None  # by which `identity` was looked up
        self._counted = ""  # key in the per-address count

    # -- life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.task = self.loop.create_task(self.serve())
        self.ingress.enter(self)

    async def serve(self) -> None:
        """The session from its first octet to its last; never raises."""
        try:
            await self._open()
            await self._commands()
        except HangUpError as end:
            await self.hang_up(linger=end.linger)
        except ClientGoneError:
            pass
        except TimedOutError:
            await self._timed_out()
        except Exception:
            # The last resort: a fault of ours is a 4xx without a text of its own.
            log.exception("session.fault", peer=self.peer, listener=self.listener.kind)
            self.say(Replies.INTERNAL().line)
            await self.hang_up(linger=True)
        finally:
            self.abandon()
            if not self.transport.is_closing():
                self.transport.close()
            if self._counted:
                self.ingress.per_address.leave(self._counted)
            self.ingress.leave(self)

    async def _timed_out(self) -> None:
        if self._write_paused:  # it does not read either
            self.abort()
            return
        self.say(Replies.TIMED_OUT(seconds=round(self.ingress.settings.command_timeout)).line)
        await self.hang_up(linger=False)

    async def _open(self) -> None:
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
            await self._secure(ingress.certificates)
        else:
            stranger = self.identity is None and self.listener.kind == "mx"
            if not self.buffer:
                await self._pause(settings.greet_delay if stranger else min(KNOWN_GREET_DELAY, settings.greet_delay))
        if self.buffer:
            # A TLS handshake or an HTTP request at a port that speaks first is no impatient mail server.
            foreign = self.buffer[0] == _TLS_HANDSHAKE
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

    async def _secure(self, certificates: Certificates, ready: bytes = b"") -> None:
        """TLS, then a session that begins anew (RFC 3207 4.2)."""
        await self.start_tls(certificates.context, self.ingress.settings.tls_timeout, ready=ready)
        if self.tls is not None:
            if is_foreign(self.tls):
                log.info("session.foreign_protocol", peer=self.peer)
                raise HangUpError(linger=False)
            cipher = self.tls.cipher()
            self.tls_words = f"{self.tls.version()} {cipher[0] if cipher else 'unknown'}"

    # -- commands

    async def _commands(self) -> None:
        ingress, buffer, commands = self.ingress, self.buffer, self.commands
        timeout = ingress.settings.command_timeout
        while True:
            if ingress.draining:
                self.answer(Replies.SHUTTING_DOWN())
            line = self.take_line(MAX_LINE)
            if line is None:
                if not self.at_rest:
                    self.at_rest = True
                    self.deadline = self.loop.time() + timeout
                await self.fill()
                continue
            self.at_rest = False
            verb, _, rest = line.partition(b" ")
            command = commands.get(verb) or commands.get(verb.upper())
            if command is None:
                self._unknown(verb)
                continue
            if len(line) > MAX_COMMAND - 2:
                self._check_length(verb.upper(), line)
            if buffer and not self.extended and verb.upper() != b"QUIT":
                self.answer(Replies.PIPELINED_TOO_EARLY(command=verb.upper().decode("ascii")))
            try:
                argument = rest.decode()
            except UnicodeDecodeError:
                self.answer(Replies.SYNTAX(syntax="commands are ASCII; addresses may be UTF-8, with SMTPUTF8"))
                continue
            await command(self, argument)

    def take_line(self, limit: int) -> bytes | None:
        """The next line without its CRLF; None while it is incomplete. Answers and ends what can be no command."""
        buffer = self.buffer
        end = buffer.find(b"\n")
        if end < 0:
            if len(buffer) >= limit:
                self.answer(Replies.LINE_TOO_LONG(limit=limit))
            if buffer and buffer[0] == _TLS_HANDSHAKE:
                self.answer(Replies.NOT_SMTP())
            return None
        line = bytes(memoryview(buffer)[: end + 1])
        del buffer[: end + 1]
        if end >= limit:
            self.answer(Replies.LINE_TOO_LONG(limit=limit))
        if not line.endswith(b"\r\n") or line.count(b"\r") > 1 or b"\0" in line:
            self.answer(Replies.NOT_SMTP() if _is_foreign(line.split(b" ", 1)[0].strip()) else Replies.BARE_LINE_END())
        return line[:-2]

    def _unknown(self, verb: bytes) -> None:
        self.answer(Replies.NOT_SMTP() if _is_foreign(verb) else Replies.UNKNOWN_COMMAND())

    def _check_length(self, verb: bytes, line: bytes) -> None:
        limit = MAX_LINE if verb == b"AUTH" else MAX_PATH_COMMAND if verb in (b"MAIL", b"RCPT") else MAX_COMMAND
        if len(line) > limit - 2:
            self.answer(Replies.AUTH_TOO_LONG() if verb == b"AUTH" else Replies.LINE_TOO_LONG(limit=limit))

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

    def idle_command(self) -> None:
        """Counts a command that brings no mail nearer."""
        self.idle_commands += 1
        if self.idle_commands > MAX_IDLE_COMMANDS:
            self.answer(Replies.TOO_MANY_NOOPS())

    def syntax(self, command: str) -> None:
        self.answer(Replies.SYNTAX(syntax=_SYNTAX[command]))

    def last_in_group(self, command: str) -> None:
        """Ends the session when more stands behind a command whose reply the client has to wait for."""
        if self.buffer:
            self.answer(Replies.PIPELINED_TOO_EARLY(command=command))

    def abandon(self) -> None:
        """Forgets the transaction, and gives back what it took."""

    def in_transaction(self) -> bool:
        return False

    async def smtp_EHLO(self, argument: str) -> None:  # noqa: N802 - aiosmtpd's naming
        self.last_in_group("EHLO")
        if not _host(argument):
            self.syntax("EHLO")
            return
        self.idle_command()
        self.abandon()
        self.helo, self.extended = argument.strip(), True
        self.say(self.ingress.ehlo_reply(self.listener, tls=self.tls is not None))

    async def smtp_HELO(self, argument: str) -> None:  # noqa: N802
        self.last_in_group("HELO")
        if not _host(argument):
            self.syntax("HELO")
            return
        self.idle_command()
        self.abandon()
        self.helo, self.extended = argument.strip(), False
        self.say(self.ingress.helo_reply)

    async def smtp_STARTTLS(self, argument: str) -> None:  # noqa: N802
        if argument:
            self.syntax("STARTTLS")
        elif self.tls is not None:
            self.answer(Replies.BAD_SEQUENCE(need="TLS is on already; send a mail"))
        elif not self.extended:
            self.answer(Replies.SAY_EHLO_FIRST())
        elif (certificates := self.ingress.certificates) is None:
            self.answer(Replies.TLS_UNAVAILABLE())
        else:
            self.idle_command()
            await self._secure(certificates, Replies.READY_FOR_TLS().line)
            # RFC 3207 4.2: what was known in clear is forgotten, the client's name too.
            self.abandon()
            self.helo, self.extended = "", False

    async def smtp_AUTH(self, argument: str) -> None:  # noqa: N802
        if not self.extended:
            self.answer(Replies.SAY_EHLO_FIRST())
            return
        authenticator = self.ingress.authenticator
        if authenticator is None or not self.listener.auth:
            self.answer(Replies.NOT_IMPLEMENTED(command="AUTH on this port"))
            return
        self.last_in_group("AUTH")
        if self.tls is None:
            self.answer(Replies.AUTH_NEEDS_TLS())
            return
        if self.in_transaction() or (self.identity is not None and self.identity.authenticated):
            self.answer(Replies.BAD_SEQUENCE(need="AUTH comes once, before MAIL (RFC 4954 4)"))
            return
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() not in MECHANISMS:
            self.answer(Replies.AUTH_UNKNOWN_MECHANISM())
            return
        self.idle_command()
        await self._log_in(authenticator, Exchange(mechanism.upper()), initial.encode() if initial else None)

    async def _log_in(self, authenticator: Authenticator, exchange: Exchange, response: bytes | None) -> None:
        step = exchange.step(response)
        while isinstance(step, Challenge):
            line = await self._ask(step)
            if line is None:
                return
            step = exchange.step(line)
        if isinstance(step, Malformed):
            self.answer(step.answer)
            return
        result = await authenticator.authenticate(step, self.peer)
        if isinstance(result, Answer):
            told = failure_challenge(step)
            if told is not None and result.code == 535 and await self._ask(told) is None:
                return
            self.answer(result)
            return
        self.identity = result
        self.party = Party(result, self.listener.kind)
        self.say(Replies.AUTHENTICATED().line)

    async def _ask(self, challenge: Challenge) -> bytes | None:
        """One challenge and its response; None when the client cancelled, and was told so."""
        self.say(challenge.line)
        self.deadline = self.loop.time() + self.ingress.settings.command_timeout
        while (line := self.take_line(MAX_LINE)) is None:
            await self.fill()
        if line == b"*":
            self.answer(Replies.AUTH_ABORTED())
            return None
        return line

    async def smtp_NOOP(self, _argument: str) -> None:  # noqa: N802
        self.idle_command()
        self.say(Replies.OK().line)

    async def smtp_RSET(self, argument: str) -> None:  # noqa: N802
        if argument:
            self.syntax("RSET")
            return
        self.idle_command()
        self.abandon()
        self.say(Replies.OK().line)

    async def smtp_VRFY(self, argument: str) -> None:  # noqa: N802
        self.idle_command()
        if argument:
            self.say(Replies.VERIFY_UNKNOWN().line)
        else:
            self.syntax("VRFY")

    async def smtp_EXPN(self, _argument: str) -> None:  # noqa: N802
        self.idle_command()
        self.answer(Replies.NOT_IMPLEMENTED(command="EXPN"))

    async def smtp_HELP(self, argument: str) -> None:  # noqa: N802
        self.idle_command()
        known = _SYNTAX.get(argument.strip().upper())
        self.say(Replies.HELP(help=f"Syntax: {known}" if known else "Commands: " + " ".join(_SYNTAX)).line)

    async def smtp_QUIT(self, argument: str) -> None:  # noqa: N802
        if argument:
            self.syntax("QUIT")
            return
        self.say(Replies.BYE().line)
        raise HangUpError(linger=False)


def _plain(address: str) -> str:
    """An IPv4 address that came in over an IPv6 socket, as IPv4."""
    return address[7:] if address.startswith("::ffff:") and "." in address else address


def _host(argument: str) -> bool:
    """A name or literal, as lax as the world is; what it says is only ever quoted (trace.py makes it safe)."""
    text = argument.strip()
    return 0 < len(text) <= 255 and text.isascii() and text.isprintable() and " " not in text


def _is_foreign(verb: bytes) -> bool:
    """HTTP verbs and header lines (`Host:`): a browser that was led here, not a mail client."""
    return verb.upper() in _FOREIGN or verb.endswith(b":")
