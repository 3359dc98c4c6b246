"""One TCP connection of a client: its buffer, its replies, its deadline, its end. It knows lines, not SMTP.

aiosmtpd's `SMTP` is the base; its construction, its stream reader and writer, and its timer are replaced here. They
cost more than the rest of a short session (a StreamReader, a StreamWriter, a look through all attributes and a timer
that is made anew at each command), and they let a line grow without bound. What a connection may hold in memory:

    buffer       <= BUFFER_HIGH + one read of the event loop (256 KiB), and nothing of it once a command is served
    replies      <= one group of pipelined commands, since the group's lines were in the buffer
    content      what session.py allows: the size limit, within the process' budget (budget.py), which has the sum

All methods run on the event loop; one task (`serve`) reads and answers. Nothing cancels it when the client goes: a mail
that is being stored is stored to the end.
"""

import asyncio
import math
import ssl
from typing import Any, cast

from aiosmtpd.smtp import SMTP

BUFFER_HIGH = 128 * 1024  # octets unread from which on the client has to wait
LINGER_TIME = 2.0  # s in which a client that was shown the door may read why
LINGER_OCTETS = 4 << 20  # that are read and forgotten meanwhile


class ClientGoneError(Exception):
    """The client closed the connection, or the network did."""


class TimedOutError(Exception):
    """The client let its deadline pass."""


class Connection(SMTP):
    """Bytes in, bytes out, on whatever the transport is by now (TCP, then TLS)."""

    transport: asyncio.Transport  # from connection_made on

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # SMTP.__init__ is left out on purpose: it builds what is replaced here.
        self.loop = loop
        self.buffer = bytearray()
        self.deadline = math.inf  # loop.time() by which the client must have done something
        self.tls: ssl.SSLObject | None = None
        self.closed = False  # the transport is gone
        self._eof = False
        self._out: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._read_paused = False

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if len(buffer) > BUFFER_HIGH and not self._read_paused:
            self.transport.pause_reading()
            self._read_paused = True

    def eof_received(self) -> bool:
        self._eof = True
        self.wake()
        return self.tls is None  # a client that has only finished talking still hears the answer

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.closed = self._eof = True
        self.wake()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # -- the session's side

    def say(self, reply: bytes) -> None:
        """Queues a whole reply, with its CRLF, until `flush` or `fill`: replies to pipelined commands leave as one."""
        self._out.append(reply)

    async def flush(self) -> None:
        """Sends what was said; returns when the client's side has room for more."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if self.closed:
                raise ClientGoneError
            self.transport.write(data)
        while self._write_paused and not self.closed:
            self._writable = self.loop.create_future()
            try:
                await self._writable
            finally:
                self._writable = None

    async def fill(self) -> None:
        """Sends what was said and waits until the buffer has grown, or `wake` was called.

        Raises ClientGoneError when no more will come, TimedOutError at the deadline.
        """
        had = len(self.buffer)
        await self.flush()
        if len(self.buffer) > had:  # it came while the client's side had no room for our replies
            return
        self._raise_if_ended()
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if len(self.buffer) == had:
            self._raise_if_ended()

    def _raise_if_ended(self) -> None:
        if self._eof:
            raise ClientGoneError

    def wake(self) -> None:
        """Lets `fill` return, so that the session looks around (drain, end of file)."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def expire(self) -> None:
        """The deadline has passed: whatever waits for the client raises TimedOutError."""
        self.deadline = math.inf
        for future in (self._waiter, self._writable):
            if future is not None and not future.done():
                future.set_exception(TimedOutError())

    async def start_tls(self, context: ssl.SSLContext, timeout: float, *, ready: bytes = b"") -> None:
        """Goes over to TLS. Raises ClientGoneError when the handshake fails.

        `ready` is the reply to STARTTLS: what the client sent in clear before it hears that is forgotten (RFC 3207
        4.2). Without one (implicit TLS) what has come already is the beginning of the handshake.
        """
        await self.flush()
        self._raise_if_ended()
        plain = self.transport
        # From here on nothing comes to us in clear: it waits in the kernel until the TLS layer reads.
        plain.pause_reading()
        self._read_paused = False
        head = b"" if ready else bytes(self.buffer)
        self.buffer.clear()
        if ready:
            plain.write(ready)
        handshake = self.loop.create_task(
            self.loop.start_tls(plain, self, context, server_side=True, ssl_handshake_timeout=timeout)
        )
        try:
            if head:
                # One turn of the loop puts the TLS layer in our place, the next makes it ready; it reads after that.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                _feed(plain.get_protocol(), head)
            transport = await handshake
        except (OSError, ssl.CertificateError) as error:  # ssl.SSLError is an OSError
            self.abort()
            raise ClientGoneError(str(error)) from error
        finally:
            handshake.cancel()
        if transport is None or self.closed:
            raise ClientGoneError
        self.transport = transport
        self.tls = transport.get_extra_info("ssl_object")

    async def hang_up(self, *, linger: bool) -> None:
        """Closes the connection after what was said.

        `linger`: the client may still be sending. A close with unread data in our buffers makes the kernel send a
        reset, which can overtake the reply; so what comes is read and forgotten for a moment.
        """
        if self.closed:
            return
        self.deadline = self.loop.time() + LINGER_TIME
        try:
            await self.flush()
            if linger:
                if self.transport.can_write_eof() and not self.transport.is_closing():
                    self.transport.write_eof()
                left = LINGER_OCTETS
                while left > 0:
                    left -= len(self.buffer)
                    self.buffer.clear()
                    await self.fill()
        except (ClientGoneError, TimedOutError):
            pass
        self.buffer.clear()
        self.transport.close()

    def abort(self) -> None:
        """Ends the connection at once, whatever was said."""
        self.transport.abort()

    def info(self, name: str) -> Any:
        """What the transport knows of itself, e.g. `peername`."""
        return self.transport.get_extra_info(name)


def _feed(protocol: Any, data: bytes) -> None:
    """Hands octets that came too early to the TLS layer, as the transport would (asyncio.BufferedProtocol)."""
    while data:
        room = memoryview(protocol.get_buffer(len(data)))
        part = min(len(room), len(data))
        room[:part] = data[:part]
        protocol.buffer_updated(part)
        data = data[part:]
