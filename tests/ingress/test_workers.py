"""The service as processes: readiness, several workers on the same ports, SIGTERM, and a worker that dies."""

import asyncio
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.ingress.lab import snapshot
from tests.support.certs import Authority
from tests.support.nats import NatsServer
from tests.support.ports import free_ports
from tests.support.wait import eventually
from waypost_queue import codec, configwatch
from waypost_queue.model import Bundle
from waypost_queue.service import admin
from waypost_queue.store import Store
from waypost_queue.streams import Layout


class Service:
    """`waypost serve ingress` as a process."""

    def __init__(self, folder: Path, nats: str, **env: str) -> None:
        self.mx, self.submission, self.submissions, self.health, _ = free_ports(5)
        self.authority = Authority(folder / "tls")
        cert, key = self.authority.leaf("localhost", "127.0.0.1")
        self.log = folder / "ingress.log"
        self._env = {
            "WAYPOST_NATS_URL": nats,
            "WAYPOST_ALLOW_WEAK_DURABILITY": "true",
            "WAYPOST_HOSTNAME": "mx.lab.test",
            "WAYPOST_MX_PORT": str(self.mx),
            "WAYPOST_SUBMISSION_PORT": str(self.submission),
            "WAYPOST_SUBMISSIONS_PORT": str(self.submissions),
            "WAYPOST_HTTP_PORT": str(self.health),
            "WAYPOST_TLS_CERT": str(cert),
            "WAYPOST_TLS_KEY": str(key),
            **env,
        }

    @contextmanager
    def running(self, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "waypost_ingress"],
                env={**os.environ, **self._env, **env},
                stdout=out,
                stderr=out,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    async def ready(self, worker: int = 0) -> str:
        """What /readyz of a worker says; "" while it says nothing."""
        try:
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{self.health + worker}/readyz", timeout=2.0)
        except httpx.HTTPError:
            return ""
        return "ok" if answer.status_code == 200 else answer.text

    async def wait_ready(self, worker: int = 0) -> None:
        async def ok() -> bool:
            return await self.ready(worker) == "ok"

        try:
            await eventually(ok, 20.0, "ready")
        except AssertionError as error:
            raise AssertionError(self.log.read_text()[-3000:]) from error

    def send(self, count: int = 1) -> list[str]:
        """Mails by smtplib, each on a connection of its own; the replies to their final dots."""
        replies = []
        for _ in range(count):
            with smtplib.SMTP("127.0.0.1", self.mx, timeout=10) as client:
                client.ehlo("client.test")
                client.mail("app@example.test")
                client.rcpt("someone@far.test")
                code, text = client.data("From: app@example.test\r\nSubject: x\r\n\r\nbody\r\n")
                replies.append(f"{code} {text.decode()}")
        return replies


@pytest.fixture
def layout() -> Layout:
    return Layout(shards=2, pools=("default",), store_bytes=1 << 30)


async def stored(store: Store, shard: int) -> set[str]:
    """Ids of the mails in INTAKE of a shard."""
    found: set[str] = set()
    seq = 1
    while (message := await store.next(f"INTAKE-{shard}", seq)) is not None:
        found |= {mail.id for mail in codec.decode(message.data, Bundle).mails}
        seq = message.seq + 1
    return found


@pytest.fixture
async def configured(store: Store) -> Store:
    await configwatch.publish(store, None, snapshot())
    return store


async def test_a_worker_is_ready_only_when_streams_and_configuration_are_there(
    nats_server: NatsServer, tmp_path: Path, layout: Layout
) -> None:
    service = Service(tmp_path, nats_server.url, WAYPOST_SHARDS="2")
    with service.running():

        async def waits() -> bool:
            return "the stream INTAKE-0" in await service.ready()

        await eventually(waits, 20.0, "waits for the streams")
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", service.mx)
        store = await nats_server.connect()
        await admin.apply(store, layout)
        await configwatch.publish(store, None, snapshot())
        await service.wait_ready()
        [reply] = await asyncio.to_thread(service.send)
        assert "queued as" in reply


async def test_two_workers_share_the_ports_keep_to_their_shards_and_are_started_again(
    nats_server: NatsServer, configured: Store, tmp_path: Path
) -> None:
    service = Service(tmp_path, nats_server.url, WAYPOST_SHARDS="2", WAYPOST_WORKERS="2")
    with service.running() as process:
        await service.wait_ready(0)
        await service.wait_ready(1)
        replies = await asyncio.to_thread(service.send, 40)
        ids = {reply.rsplit(" ", 1)[1] for reply in replies}
        shards = [await stored(configured, shard) for shard in (0, 1)]
        assert shards[0] | shards[1] == ids
        assert all(shards), "the kernel gave all connections to one worker"
        assert all(ident.endswith("1") for ident in shards[1])

        [first, second] = children(process.pid)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: len(children(process.pid)) == 2 and first not in children(process.pid), 10.0)
        assert second in children(process.pid)
        await service.wait_ready(0)
        await service.wait_ready(1)

        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0
        assert children(process.pid) == []


async def test_workers_end_when_their_supervisor_is_killed(
    nats_server: NatsServer, configured: Store, tmp_path: Path
) -> None:
    service = Service(tmp_path, nats_server.url, WAYPOST_WORKERS="2")
    with service.running() as process:
        await service.wait_ready(1)
        workers = children(process.pid)
        process.kill()
        process.wait()
        await eventually(lambda: not any(alive(pid) for pid in workers), 15.0)


async def test_sigterm_finishes_the_mail_in_flight_and_exits_with_0(
    nats_server: NatsServer, configured: Store, tmp_path: Path
) -> None:
    service = Service(tmp_path, nats_server.url)
    with service.running() as process:
        await service.wait_ready()
        async with in_data(service) as (reader, writer):
            process.send_signal(signal.SIGTERM)

            async def refused() -> bool:
                try:
                    _, other = await asyncio.open_connection("127.0.0.1", service.mx)
                except ConnectionError:
                    return True
                other.close()
                return False

            await eventually(refused, 10.0, "the port is closed")
            writer.write(b"x\r\n.\r\n")
            assert b"250 2.0.0 Ok: queued as" in await reader.readline()
            assert (await reader.readline()).startswith(b"421 4.3.2 ")
        assert await asyncio.to_thread(process.wait, 15) == 0
    assert len(await stored(configured, 0)) == 1


async def test_sigterm_ends_it_in_time_with_a_client_that_stalls_and_a_store_that_is_away(
    nats_server: NatsServer, configured: Store, tmp_path: Path
) -> None:
    service = Service(tmp_path, nats_server.url, WAYPOST_DRAIN_TIMEOUT="1")
    with service.running() as process:
        await service.wait_ready()
        async with in_data(service) as (stalled, _), in_data(service) as (waiting, writer):
            await nats_server.kill()
            writer.write(b"x\r\n.\r\n")
            await writer.drain()
            process.send_signal(signal.SIGTERM)
            # The drain's 25 s are 1 here, and 5 are left of the 30.
            await asyncio.to_thread(process.wait, 1 + 5)
            for reader in (stalled, waiting):
                assert b"250" not in await last_words(reader), "there is no 250 without a store"


async def test_a_kill_in_the_middle_of_data_leaves_nothing(
    nats_server: NatsServer, configured: Store, tmp_path: Path
) -> None:
    service = Service(tmp_path, nats_server.url)
    with service.running() as process:
        await service.wait_ready()
        async with in_data(service) as (reader, writer):
            writer.write(b"half a mail\r\n")
            await writer.drain()
            process.kill()
            assert await last_words(reader) == b""
    assert await stored(configured, 0) == set()


@pytest.mark.parametrize(("point", "lines", "kept"), [("accept_committed", 100, 1), ("accept_spooled", 5000, 0)])
async def test_a_kill_before_the_250_costs_a_duplicate_at_most_when_the_client_comes_again(
    nats_server: NatsServer, configured: Store, tmp_path: Path, point: str, lines: int, kept: int
) -> None:
    service = Service(tmp_path, nats_server.url)
    content = b"the same line of text, over and over\r\n" * lines + b".\r\n"
    with service.running(WAYPOST_PAUSE=f"{point}=exit:1.0") as process:
        await service.wait_ready()
        async with in_data(service) as (reader, writer):
            writer.write(content)
            assert await last_words(reader) == b""
            assert await asyncio.to_thread(process.wait, 10) == 128 + signal.SIGKILL
    assert len(await stored(configured, 0)) == kept
    with service.running():
        await service.wait_ready()
        async with in_data(service) as (reader, writer):
            writer.write(content)
            assert (await reader.readline()).startswith(b"250 ")
    assert len(await stored(configured, 0)) == kept + 1


async def test_a_port_in_use_is_one_line_that_says_what_to_do(nats_server: NatsServer, tmp_path: Path) -> None:
    service = Service(tmp_path, nats_server.url)
    with socket.create_server(("127.0.0.1", service.mx)):
        for workers in ("1", "2"):
            with service.running(WAYPOST_WORKERS=workers) as process:
                assert await asyncio.to_thread(process.wait, 15) == 1
            log = service.log.read_text()
            assert f"mx can't listen on 127.0.0.1:{service.mx}" in log
            assert "WAYPOST_MX_PORT" in log
            assert "Traceback" not in log


async def test_smtplib_sends_over_each_listener(nats_server: NatsServer, configured: Store, tmp_path: Path) -> None:
    service = Service(tmp_path, nats_server.url)
    context = ssl.create_default_context(cafile=str(service.authority.ca))

    def send() -> None:
        message = "From: app@example.test\r\nTo: a@far.test\r\n\r\n.leading dot\r\n"
        with smtplib.SMTP("localhost", service.submission, timeout=10) as client:
            client.starttls(context=context)
            client.login("app@example.test", "correct horse")
            client.sendmail("app@example.test", ["a@far.test"], message, mail_options=["BODY=8BITMIME"])
        with smtplib.SMTP_SSL("localhost", service.submissions, timeout=10, context=context) as client:
            client.login("app@example.test", "correct horse")
            client.sendmail("app@example.test", ["a@far.test"], message)

    with service.running():
        await service.wait_ready()
        await asyncio.to_thread(send)
    assert len(await stored(configured, 0)) == 2


async def last_words(reader: asyncio.StreamReader) -> bytes:
    """What is still said before the connection ends, however it ends."""
    said = b""
    with suppress(ConnectionError):
        while line := await reader.readline():
            said += line
    return said


@asynccontextmanager
async def in_data(service: Service) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has sent the header of a mail, and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.mx)
    for line in (
        b"",
        b"EHLO x.test\r\n",
        b"MAIL FROM:<app@example.test>\r\n",
        b"RCPT TO:<a@far.test>\r\n",
        b"DATA\r\n",
    ):
        writer.write(line)
        while (await reader.readline())[3:4] == b"-":
            pass
    writer.write(b"From: app@example.test\r\n\r\n")
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    text = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in text.split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
