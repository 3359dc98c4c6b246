"""A whole ingress worker in the test's own loop: real NATS, sockets and TLS; and a client that says what it is told.

async with Lab(url, folder) as lab:
    client = await lab.connect("mx")
    await client.greeting()
    assert (await client.say("EHLO client.test")).startswith("250-")
    ...
    [mail] = await lab.mails()
"""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import argon2

from tests.support.certs import Authority
from waypost_ingress.acceptance import Acceptor
from waypost_ingress.auth import Authenticator
from waypost_ingress.ingress import Ingress, listeners
from waypost_ingress.listeners import bind_all, close_all, open_all
from waypost_ingress.settings import IngressSettings
from waypost_ingress.tls import Certificates
from waypost_policy.index import Ceilings, ConfigIndex
from waypost_policy.limits import FairShare, Limiter
from waypost_queue import codec, subjects
from waypost_queue.config import CredentialConfig, DomainConfig, Limits, Sender, Snapshot, Subject
from waypost_queue.eventlog import EventLog
from waypost_queue.intake import Intake
from waypost_queue.model import Bundle, Mail
from waypost_queue.spool import Spool
from waypost_queue.store import Store, StoreOptions
from waypost_queue.streams import Layout

LAYOUT = Layout(shards=1, pools=("default",), store_bytes=1 << 30)
PASSWORD = "correct horse"
_HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


def snapshot(cidr: str = "127.0.0.0/8", **limits: int) -> Snapshot:
    """example.test: loopback may send as anybody of it, and so may the login app@example.test."""
    sender = Sender(
        name="app",
        subjects=(
            Subject(kind="Network", cidr=cidr),
            Subject(kind="Secret", namespace="shop", name="app"),
        ),
        addresses=("*@example.test",),
        limits=Limits(**limits),
    )
    return Snapshot(
        domains={"example.test": DomainConfig(domain="example.test", namespace="shop", senders=(sender,))},
        credentials={
            "app@example.test": CredentialConfig(
                username="app@example.test", domain="example.test", namespace="shop", secret="app", hash=_HASH
            )
        },
    )


class Client:
    """A raw client. Every wait is bounded, so that a server that says nothing fails the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, timeout: float = 5.0) -> str:
        """The next reply, its lines joined by newlines; "" when the server has closed."""
        lines: list[str] = []
        async with asyncio.timeout(timeout):
            while True:
                try:
                    line = await self.reader.readline()
                except (ConnectionError, ssl.SSLError):
                    return ""
                if not line:
                    return "\n".join(lines)
                lines.append(line.decode().rstrip("\r\n"))
                if line[3:4] != b"-":
                    return "\n".join(lines)

    async def say(self, line: str) -> str:
        self.send(line.encode() + b"\r\n")
        return await self.reply()

    async def hello(self) -> str:
        assert (await self.reply()).startswith("220 ")
        return await self.say("EHLO client.test")

    async def transaction(self, sender: str = "app@example.test", *recipients: str) -> None:
        """MAIL and RCPT, both accepted."""
        assert (await self.say(f"MAIL FROM:<{sender}>")).startswith("250 ")
        for recipient in recipients or ("someone@far.test",):
            assert (await self.say(f"RCPT TO:<{recipient}>")).startswith("250 ")

    async def data(self, content: bytes) -> str:
        """DATA with `content` as it is, terminator added; the final reply."""
        assert (await self.say("DATA")).startswith("354 ")
        self.send(content + b".\r\n")
        return await self.reply()

    async def closed(self, timeout: float = 5.0) -> bool:
        """The server has closed, with nothing more to say."""
        async with asyncio.timeout(timeout):
            try:
                return await self.reader.read(1) == b""
            except (ConnectionError, ssl.SSLError):
                return True

    async def start_tls(self, context: ssl.SSLContext) -> None:
        await self.writer.start_tls(context, server_hostname="localhost")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


class Lab:
    """The worker; `settings` go to IngressSettings."""

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        config: Snapshot | None = None,
        tick: float = 0.05,
        tls: bool = True,
        **settings: Any,
    ) -> None:
        self.url, self.folder, self.tick, self.tls = url, folder, tick, tls
        self.config = config or snapshot()
        ports = {"mx_port": 0, "submission_port": 0, "submissions_port": 0}
        self.settings = IngressSettings(
            **{"nats_url": url, "hostname": "mx.lab.test", "greet_delay": 0.0, **ports, **settings}
        )
        self.limiter = Limiter()
        self.not_ready = ""
        self._clients: list[Client] = []

    async def __aenter__(self) -> "Lab":
        self.store = Store(StoreOptions(servers=(self.url,), name="lab"))
        await self.store.connect()
        info = await self.store.api("STREAM.INFO.INTAKE-0")
        self._first = info["state"]["last_seq"] + 1
        self.index = ConfigIndex(
            self.config,
            Ceilings(message_size=self.settings.message_size, recipients_per_message=self.settings.recipients),
        )
        self.intake = Intake(self.store, 0, LAYOUT)
        self.events = EventLog(self.store, "ingress", "lab")
        await self.intake.start()
        await self.events.start()
        self.authority = Authority(self.folder / "tls")
        self.cert, self.key = self.authority.leaf("localhost", "127.0.0.1")
        self.authenticator = Authenticator(lambda: self.index)
        acceptor = Acceptor(
            intake=self.intake,
            spool=Spool(self.store),
            events=self.events,
            index=lambda: self.index,
            limiter=self.limiter,
            shares=FairShare(),
            hostname=self.settings.hostname,
            worker="lab",
        )
        self.ingress = Ingress(
            self.settings,
            acceptor=acceptor,
            index=lambda: self.index,
            authenticator=self.authenticator,
            certificates=Certificates(self.cert, self.key) if self.tls else None,
            not_ready=lambda: self.not_ready,
            tick=self.tick,
        )
        wanted = listeners(self.settings)
        sockets = bind_all("127.0.0.1", wanted)
        self.ports = {kind: sock.getsockname()[1] for kind, sock in sockets.items()}
        self.servers = await open_all(self.ingress, wanted, sockets)
        self.ingress.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close_all(self.servers)
        for client in self._clients:
            await client.close()
        await self.ingress.drain(5.0)
        self.ingress.close()
        self.authenticator.close()
        await self.intake.close()
        await self.events.drain(2.0)
        await self.events.close()
        await self.store.close()

    async def connect(self, listener: str = "mx") -> Client:
        """A connection; over TLS from the start on submissions."""
        context = self.authority.client_context() if listener == "submissions" else None
        name = "localhost" if context is not None else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.ports[listener], ssl=context, server_hostname=name
        )
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    async def hello(self, listener: str = "mx") -> Client:
        """A connection that has said EHLO."""
        client = await self.connect(listener)
        assert (await client.hello()).startswith("250-")
        return client

    async def mails(self) -> list[Mail]:
        """Everything that INTAKE got since the lab began."""
        found: list[Mail] = []
        seq = self._first
        while True:
            message = await self.store.next("INTAKE-0", seq)
            if message is None:
                return found
            found += codec.decode(message.data, Bundle).mails
            seq = message.seq + 1

    async def lanes(self) -> list[str]:
        """The lane of each bundle since the lab began."""
        found, seq = [], self._first
        while True:
            message = await self.store.next(subjects.intake_stream(0), seq)
            if message is None:
                return found
            found.append(message.subject.split(".")[2])
            seq = message.seq + 1


LabFactory = Callable[..., Awaitable[Lab]]
