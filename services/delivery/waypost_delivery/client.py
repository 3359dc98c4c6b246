"""One connection to a next hop: aiosmtplib's protocol, taught to have several commands in flight (RFC 2920).

aiosmtplib pairs one command with one reply, and drops what comes between. Here a *group* of commands goes out in one
write and its replies are counted back; its `start_tls` is a group of one. A reply that nobody
waits for is kept and ends the connection: it is 421 and a close, an answer to half a content, or a mix-up, and in no
case may it be taken for the answer to what is sent next.

No exception crosses a group: it resolves to the replies that came, and `lost` says why there are no more, since which
replies came before the loss decides what becomes of each recipient.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from aiosmtplib import SMTPServerDisconnected
from aiosmtplib.protocol import SMTPProtocol
from aiosmtplib.response import SMTPResponse

from .client_replies import Answer, GarbageError, ReplyParser

_WRITE = 64 * 1024  # octets handed to the transport at once


class Connection(SMTPProtocol):
    """The wire. `on_lost` is called once, when the connection has ended for whatever reason."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_lost: Callable[["Connection"], None] | None = None) -> None:
        super().__init__(loop=loop)
        self.lost = ""  # why there will be no more replies, "" = alive
        self.timed_out = False
        self.unsolicited: Answer | None = None
        self.on_lost = on_lost
        self.closed = asyncio.Event()
        self._parser = ReplyParser()
        self._replies: list[Answer] = []
        self._expected = 0
        self._limits: Sequence[float] = ()
        self._group: asyncio.Future[list[Answer]] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._early: list[Answer] = []  # the greeting, when it comes before anyone waits
        self._greeted = False

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._limit_writes()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response_waiter is not None:
            self._response_waiter.cancel()  # aiosmtplib's own, which nobody here waits for
        super().connection_lost(exc)
        self._end(_why(exc) if exc else "connection closed by the remote host")
        self.closed.set()

    def eof_received(self) -> bool:
        self._end("connection closed by the remote host")
        return False

    def data_received(self, data: bytes) -> None:
        if self.lost:
            return
        self._buffer += data
        try:
            while (answer := self._parser.feed(self._buffer)) is not None:
                self._take(answer)
        except GarbageError as error:
            self._end(str(error))
            self.abort()

    # Groups

    def ask(self, commands: bytes, timeouts: Sequence[float]) -> "asyncio.Future[list[Answer]]":
        """Writes the commands and awaits a reply for each of `timeouts` (seconds, each from the reply before it).

        The future resolves to the replies that came: fewer if the connection was lost, `lost` then says why.
        """
        group = self.expect(timeouts)
        if commands and not self.lost:
            self.write(commands)
        return group

    def expect(self, timeouts: Sequence[float]) -> "asyncio.Future[list[Answer]]":
        """As `ask`, for what has been written already."""
        group: asyncio.Future[list[Answer]] = self._loop.create_future()
        if self.lost or (self.transport is not None and self.transport.is_closing()):
            self.lost = self.lost or "connection closed by the remote host"
            group.set_result([])
            return group
        self._group = group
        self._replies = []
        self._limits = timeouts
        self._expected = len(timeouts)
        self._arm(timeouts[0])
        return group

    async def send_content(self, content: bytes, timeout: float) -> bool:
        """Writes content (dot-stuffed, without the final dot), waiting for the remote to take it in.

        True when all of it has left the process; False when the connection was lost, or took in nothing for `timeout`
        seconds (RFC 5321 4.5.3.2.5).
        """
        try:
            for piece in _pieces(memoryview(content)):
                self.write(piece)
                if self._paused:
                    async with asyncio.timeout(timeout):
                        await self._drain_helper()
                if self.lost:
                    return False
        except TimeoutError:
            self._expire("the remote host takes in no more of the content")
            return False
        except (SMTPServerDisconnected, OSError) as error:
            self._end(_why(error))
            return False
        return not self.lost

    def end(self) -> None:
        """Closes it in order; `closed` tells when it is."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Ends it without a word."""
        if self.transport is not None:
            cast("asyncio.WriteTransport", self.transport).abort()

    # What aiosmtplib's own commands stand on

    def write(self, data: bytes | memoryview) -> None:
        super().write(cast("bytes", data))

    async def start_tls(
        self, tls_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> SMTPResponse:
        """STARTTLS and the handshake. Nothing that came in plaintext survives it (RFC 3207 4.2)."""
        response = await super().start_tls(tls_context, server_hostname, timeout)
        self._parser = ReplyParser()
        self._paused = False  # the new transport says for itself when it wants a pause
        self._limit_writes()
        return response

    async def greeting(self, timeout: float) -> Answer | None:
        """The reply to connecting; None if none came."""
        if self._early:
            self._greeted = True
            return self._early.pop()
        replies = await self.expect((timeout,))
        return replies[0] if replies else None

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:
        """One reply, for `start_tls` and whatever of aiosmtplib's is built on it. Raises SMTPServerDisconnected."""
        replies = await self.expect((timeout or 300.0,))
        if not replies:
            raise SMTPServerDisconnected(self.lost)
        answer = replies[0]
        return SMTPResponse(answer.code, "\n".join(answer.lines))

    # Inside

    def _limit_writes(self) -> None:
        """A pause as soon as anything waits: drained then means that the kernel has it all.

        So the final dot, written after a look at who owns the mail, does not wait behind the content in our own buffer.
        Over TLS "anything" is one octet: those transports pause at `size >= high`, so that a high of 0 would ask for a
        pause with nothing left whose departure could end it.
        """
        transport = cast("asyncio.WriteTransport", self.transport)
        transport.set_write_buffer_limits(high=0 if transport.get_extra_info("sslcontext") is None else 1)

    def _take(self, answer: Answer) -> None:
        if self._group is None:
            if not self._greeted and not self._early:
                self._early.append(answer)
                return
            self.unsolicited = self.unsolicited or answer
            self._end(f"the remote host said, unasked: {answer.summary[:200]}")
            self.abort()
            return
        self._greeted = True
        self._replies.append(answer)
        if len(self._replies) == self._expected:
            self._resolve()
        else:
            self._deadline = self._loop.time() + self._limits[len(self._replies)]

    def _resolve(self) -> None:
        group, self._group = self._group, None
        if group is not None and not group.done():
            group.set_result(self._replies)

    def _end(self, reason: str) -> None:
        if not self.lost:
            self.lost = reason
            if self.on_lost is not None:
                self.on_lost(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._resolve()

    # One timer a connection, moved lazily: arming one a command would cost more than the command.

    def _arm(self, timeout: float) -> None:
        self._deadline = self._loop.time() + timeout
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._group is None:
            return
        if self._loop.time() >= self._deadline - 0.001:
            self._expire("no reply in time")
        else:
            self._timer = self._loop.call_at(self._deadline, self._tick)

    def _expire(self, reason: str) -> None:
        self.timed_out = True
        self._end(reason)
        self.abort()


def _pieces(content: memoryview) -> Iterator[memoryview]:
    """Content in writes. The last is of two octets: a TLS transport is drained when the plain one below has taken the
    last piece over, and has by then sent off all before it."""
    last = max(len(content) - 2, 0)
    for start in range(0, last, _WRITE):
        yield content[start : min(start + _WRITE, last)]
    yield content[last:]


def _why(error: Exception) -> str:
    return f"connection lost: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}"
