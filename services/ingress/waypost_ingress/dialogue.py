"""An SMTP session without its mails: command loop, EHLO, STARTTLS, AUTH, budgets, and the way out.

    arrive      caps, PROXY header, implicit TLS, greeting (arrival.py)
    commands    one line at a time out of the buffer; replies leave when the buffer holds no further command
    end         QUIT, a reply that closes, the deadline, the drain, or the client's going

What RFC 2920 3.1 lets stand last in a group only (EHLO, HELO, AUTH, DATA) is refused with anything behind it, and so is
any group from a client that was never told of PIPELINING.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog

from waypost_policy.acceptance import Party
from waypost_policy.replies import Answer, Replies

from .arrival import TLS_HANDSHAKE, Arrival, HangUpError
from .auth import MAX_LINE, MECHANISMS, Authenticator, Challenge, Exchange, Malformed, failure_challenge
from .connection import ClientGoneError, TimedOutError

if TYPE_CHECKING:
    from .ingress import Ingress, Listener

log = structlog.get_logger(__name__)

MAX_COMMAND: Final = 512  # octets with CRLF, RFC 5321 4.5.3.1.4
# MAIL and RCPT with the parameters of all extensions: 512 + SIZE 26 (RFC 1870), SMTPUTF8 10 (6531), AUTH 500 (4954),
# ORCPT 500 and NOTIFY 28 (3461 5.4), HOLDUNTIL 34 (4865), MT-PRIORITY 15 (6710), addresses in UTF-8.
MAX_PATH_COMMAND: Final = 2048
MAX_IDLE_COMMANDS: Final = 100  # commands between two accepted mails that bring no mail nearer

_FOREIGN: Final = frozenset(
    (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH", b"TRACE", b"PROXY", b"PRI", b"SSH")
)
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


Command = Callable[["Dialogue", str], Awaitable[None]]


class Dialogue(Arrival):
    """One session. `Session` (session.py) adds the mails."""

    commands: dict[bytes, Command]

    def __init__(self, ingress: "Ingress", listener: "Listener") -> None:
        super().__init__(ingress, listener)
        self.task: asyncio.Task[None] | None = None
        self.helo = ""
        self.extended = False  # said EHLO, so it knows of PIPELINING
        self.idle_commands = 0
        self.patience = ingress.settings.command_timeout  # s, what `deadline` was made of: for the reply
        self.at_rest = False  # waiting for a command, nothing half done

    # -- life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.task = self.loop.create_task(self.serve())
        self.ingress.enter(self)

    async def serve(self) -> None:
        """The session from its first octet to its last; never raises."""
        try:
            await self.arrive()
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
            self.depart()
            self.ingress.leave(self)

    async def _timed_out(self) -> None:
        if self._write_paused:  # it does not read either
            self.abort()
            return
        self.say(Replies.TIMED_OUT(seconds=round(self.patience)).line)
        await self.hang_up(linger=False)

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
                    self.patience = timeout
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
            if buffer and buffer[0] == TLS_HANDSHAKE:
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
            await self.secure(certificates, Replies.READY_FOR_TLS().line)
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
        self.patience = self.ingress.settings.command_timeout
        self.deadline = self.loop.time() + self.patience
        while (line := self.take_line(MAX_LINE)) is None:
            if self.ingress.draining and not self.buffer:
                self.answer(Replies.SHUTTING_DOWN())  # a login half done is nothing that would have to be finished
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


def _host(argument: str) -> bool:
    """A name or literal, as lax as the world is; what it says is only ever quoted (trace.py makes it safe)."""
    text = argument.strip()
    return 0 < len(text) <= 255 and text.isascii() and text.isprintable() and " " not in text


def _is_foreign(verb: bytes) -> bool:
    """HTTP verbs and header lines (`Host:`): a browser that was led here, not a mail client."""
    return verb.upper() in _FOREIGN or verb.endswith(b":")
