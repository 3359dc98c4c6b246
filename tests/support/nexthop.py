"""A next hop for tests: an SMTP server that can misbehave at any step, with a ledger of what it received.

    async with NextHop() as hop:
        hop.on["rcpt"] = lambda line: "550 5.1.1 no such user" if "nobody" in line else None
        hop.on["dot"] = DROP
        ...
        assert hop.received[0].content == ...

Steps: connect (the greeting), ehlo, helo, starttls, auth, mail, rcpt, data, dot, rset, noop, quit. `on[step]` may be a
reply line (without CRLF; one inside makes more lines), bytes (sent raw), DROP (reset the connection), HANG (never
answer), DEAF (the good answer, then not another octet is read), `Then(event, behaviour)` (wait for the event first),
`Drip(reply, seconds)` (a byte at a time), a function of the command line that gives one of these or None (behave well),
or a list of these, used up one by one. Content is
recorded when it is complete, whatever is answered; `Received.reply` tells what was.
"""

import asyncio
import contextlib
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Self

DROP: Any = object()
HANG: Any = object()
DEAF: Any = object()
EXTENSIONS = ("PIPELINING", "SIZE 26214400", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")

_REPLIES = {
    "rset": "250 2.0.0 Ok",
    "noop": "250 2.0.0 Ok",
    "mail": "250 2.1.0 Ok",
    "rcpt": "250 2.1.5 Ok",
    "data": "354 End data with <CR><LF>.<CR><LF>",
    "dot": "250 2.0.0 Ok: queued as TEST",
    "quit": "221 2.0.0 Bye",
    "auth": "235 2.7.0 Authentication successful",
}


@dataclass(frozen=True)
class Then:
    """Waits for the event, then behaves."""

    event: asyncio.Event
    behaviour: Any = None


@dataclass(frozen=True)
class Drip:
    """Sends the reply a byte at a time, one every `seconds`."""

    reply: str
    seconds: float


@dataclass(frozen=True)
class Received:
    """One complete content (dot-stuffing undone), with its envelope as it came."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    mail_line: str
    rcpt_lines: tuple[str, ...]
    session: int
    tls: bool
    reply: str
    at: float  # when it was complete, Unix seconds


@dataclass
class Session:
    """State of one connection."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    tls: bool = False
    mail_line: str = ""
    rcpt_lines: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # commands, AUTH responses included

    def reset(self) -> None:
        self.mail_line = ""
        self.rcpt_lines = []


class NextHop:
    """Async context manager; listens on `host`:`port` (an ephemeral port unless told)."""

    def __init__(
        self,
        *,
        extensions: tuple[str, ...] = EXTENSIONS,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        name: str = "mx.remote.test",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.extensions = extensions
        self.tls = tls
        self.implicit = implicit
        self.name = name
        self.host = host
        self.port = port
        self.on: dict[str, Any] = {}
        self.received: list[Received] = []
        self.sessions: list[Session] = []
        self.open = 0
        self.most_open = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def commands(self) -> list[str]:
        """Every command line of every session, in order of sessions."""
        return [line for session in self.sessions for line in session.lines]

    @property
    def accepted(self) -> list[Received]:
        """What was answered with 250: the next hop's responsibility."""
        return [mail for mail in self.received if mail.reply.startswith("250")]

    async def until(self, predicate: Callable[["NextHop"], bool], timeout: float = 10.0) -> None:
        """Waits until the predicate holds; it is asked after each command, content, and end of a connection."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: predicate(self))

    async def __aenter__(self) -> Self:
        tls = self.tls if self.implicit else None
        self._server = await asyncio.start_server(self._connected, self.host, self.port, ssl=tls, limit=1 << 26)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """No more listening; open sessions end."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        session = Session(len(self.sessions), reader, writer, tls=self.implicit)
        self.sessions.append(session)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._serve(session)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, _DroppedError):
            pass
        except asyncio.CancelledError:
            session.writer.transport.abort()
        finally:
            self.open -= 1
            self._tasks.discard(task)
            session.writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError, TimeoutError):
                await session.writer.wait_closed()
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _serve(self, session: Session) -> None:
        await self._step(session, "connect", "", f"220 {self.name} ESMTP test")
        while True:
            line = await session.reader.readuntil(b"\r\n")
            text = line[:-2].decode("utf-8", "surrogateescape")
            session.lines.append(text)
            verb = text.split(" ", 1)[0].split(":", 1)[0].lower()
            await self._command(session, verb, text)
            await self._tell()
            if verb == "quit":
                return

    async def _command(self, session: Session, verb: str, text: str) -> None:
        if verb == "ehlo":
            session.reset()
            offered = list(self.extensions)
            if self.tls is not None and not session.tls:
                offered.append("STARTTLS")
            lines = [self.name, *offered]
            reply = "\r\n".join(f"250{'-' if i < len(lines) - 1 else ' '}{line}" for i, line in enumerate(lines))
            await self._step(session, "ehlo", text, reply)
        elif verb == "helo":
            await self._step(session, "helo", text, f"250 {self.name}")
        elif verb == "starttls" and self.tls is not None:
            reply = await self._step(session, "starttls", text, "220 2.0.0 Ready to start TLS")
            if reply.startswith("220"):
                await session.writer.start_tls(self.tls, ssl_handshake_timeout=5)
                session.tls = True
                session.reset()
        elif verb == "auth":
            await self._auth(session, text)
        elif verb == "mail" and session.mail_line:
            await self._send(session, "503 5.5.1 nested MAIL")
        elif verb == "mail":
            reply = await self._step(session, "mail", text, _REPLIES["mail"])
            if reply.startswith("2"):
                session.mail_line = text
        elif verb == "rcpt":
            good = _REPLIES["rcpt"] if session.mail_line else "503 5.5.1 MAIL first"
            reply = await self._step(session, "rcpt", text, good)
            if reply.startswith("2"):
                session.rcpt_lines.append(text)
        elif verb == "data":
            good = _REPLIES["data"] if session.rcpt_lines else "554 5.5.1 no valid recipients"
            reply = await self._step(session, "data", text, good)
            if reply.startswith("354"):
                await self._content(session)
        elif verb in _REPLIES:
            if verb == "rset":
                session.reset()
            await self._step(session, verb, text, _REPLIES[verb])
        else:
            await self._step(session, verb, text, "500 5.5.2 what?")

    async def _auth(self, session: Session, text: str) -> None:
        if text.upper() == "AUTH LOGIN":
            for prompt in ("334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"):
                await self._send(session, prompt)
                session.lines.append((await session.reader.readuntil(b"\r\n"))[:-2].decode())
        elif text.upper() == "AUTH PLAIN":
            await self._send(session, "334 ")
            session.lines.append((await session.reader.readuntil(b"\r\n"))[:-2].decode())
        await self._step(session, "auth", text, _REPLIES["auth"])

    async def _content(self, session: Session) -> None:
        lines: list[bytes] = []
        while (line := await session.reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        envelope = (session.mail_line, tuple(session.rcpt_lines))
        session.reset()
        at = len(self.received)
        mail = Received(
            sender=_path(envelope[0]),
            recipients=tuple(_path(line) for line in envelope[1]),
            content=b"".join(lines),
            mail_line=envelope[0],
            rcpt_lines=envelope[1],
            session=session.number,
            tls=session.tls,
            reply="",
            at=time.time(),
        )
        self.received.append(mail)
        await self._tell()
        reply = await self._step(session, "dot", "", _REPLIES["dot"])
        self.received[at] = Received(**{**vars(mail), "reply": reply})

    async def _step(self, session: Session, step: str, line: str, good: str) -> str:
        """Behaves as told at this step; what was answered."""
        behaviour = self.on.get(step)
        if isinstance(behaviour, list):
            behaviour = behaviour.pop(0) if behaviour else None
        if callable(behaviour):
            behaviour = behaviour(line)
        if isinstance(behaviour, Then):
            await behaviour.event.wait()
            behaviour = behaviour.behaviour
        if behaviour is DROP:
            await self._drop(session)
        if behaviour is HANG:
            await self._tell()
            await session.reader.read()  # until the client gives up
            raise _DroppedError
        if behaviour is DEAF:
            await self._send(session, good)
            session.writer.transport.pause_reading()
            await asyncio.Event().wait()  # until the next hop is stopped
        if isinstance(behaviour, Drip):
            for byte in behaviour.reply.encode() + b"\r\n":
                session.writer.write(bytes([byte]))
                await session.writer.drain()
                await asyncio.sleep(behaviour.seconds)
            return behaviour.reply
        if isinstance(behaviour, bytes):
            session.writer.write(behaviour)
            await session.writer.drain()
            return behaviour.decode("utf-8", "replace")
        reply = good if behaviour is None else behaviour
        await self._send(session, reply)
        if reply.startswith("421"):  # RFC 5321 3.8: and closes
            raise _DroppedError
        return reply

    async def _send(self, session: Session, reply: str) -> None:
        session.writer.write(reply.encode() + b"\r\n")
        await session.writer.drain()

    async def _drop(self, session: Session) -> None:
        """Resets the connection, as a host that died does."""
        raw = session.writer.get_extra_info("socket")
        raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        session.writer.transport.abort()
        await self._tell()
        raise _DroppedError


class _DroppedError(Exception):
    """The session ends without a word."""


def _path(line: str) -> str:
    return line[line.index("<") + 1 : line.rindex(">")] if "<" in line else line
