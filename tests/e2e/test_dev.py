"""`waypost dev`, as a user meets it."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.support.dns import DnsServer
from tests.support.nexthop import NextHop
from tests.support.ports import free_ports
from tests.support.wait import eventually

pytestmark = pytest.mark.timeout(120)

EXAMPLES = Path(__file__).parents[2] / "examples" / "dev"


class Dev:
    """A running `waypost dev`."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.mx, self.submission, self.submissions, self.http = free_ports(4)
        self.data = data
        self.command = [
            sys.executable, "-m", "waypost_cli", "dev", "--manifests", str(EXAMPLES), "--data", str(data),
            "--mx-port", str(self.mx), "--submission-port", str(self.submission),
            "--submissions-port", str(self.submissions), "--http-port", str(self.http), *flags,
        ]  # fmt: skip
        self.said = ""
        self.stdin: IO[bytes] | None = None
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> "Dev":
        self._process = await asyncio.create_subprocess_exec(
            *self.command, stdin=self.stdin, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            await self.read_until("Ctrl-C stops all of it")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._process.returncode is None:
            self._process.kill()  # its children end with it
        await self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def children(self) -> dict[str, int]:
        """Its processes, by name."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        mine = [
            (int(pid), args) for pid, ppid, args in (line.split(None, 2) for line in listed) if int(ppid) == self.pid
        ]
        return {"nats-server" if "nats-server" in args else args.rsplit(None, 1)[-1]: pid for pid, args in mine}

    async def read_until(self, text: str, limit: float = 45) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(limit):
            while text not in self.said:
                line = await self._process.stdout.readline()
                assert line, f"ended before it said {text!r}:\n{self.said}"
                self.said += line.decode()

    async def stop(self) -> int:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(self._process.communicate(), 60)
        self.said += out.decode()
        return self._process.returncode or 0

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            return await client.get(f"http://127.0.0.1:{self.http}{path}")

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "waypost_cli", *words],
            env={**os.environ, "WAYPOST_API": f"http://127.0.0.1:{self.http}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    async with Dev(tmp_path / "data") as running:
        yield running


async def test_it_sends_a_first_mail_through_and_shows_it_everywhere(dev: Dev):
    found = re.search(r"queued as (\S+)", dev.said)
    assert found, dev.said
    mail = found[1]
    assert re.search(r"accepted", dev.said)
    assert re.search(r"delivered", dev.said), dev.said

    inbox = (await dev.get("/v1/inbox")).json()
    assert [one["id"] for one in inbox] == [mail]
    assert "Hello from Waypost" in (await dev.get("/")).text
    page = await dev.get(f"/inbox/{mail}")
    assert "stored on disk" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (await dev.get(f"/messages/{mail}")).status_code == 200
    assert b"Received: from" in (await dev.get(f"/v1/inbox/{mail}/source")).content

    shown = await asyncio.to_thread(dev.cli, "messages", "show", mail.upper())
    assert shown.returncode == 0, shown.stderr
    assert "delivered" in shown.stdout
    assert mail in (await asyncio.to_thread(dev.cli, "inbox")).stdout
    domains = await asyncio.to_thread(dev.cli, "get", "md")
    assert re.search(r"NAMESPACE\s+NAME|NAME\s+DOMAIN", domains.stdout), domains.stdout + domains.stderr
    assert "example.test" in domains.stdout

    async def ready() -> bool:  # ingress and delivery say that they run it
        found = (await dev.get("/v1/resources/maildomain")).json()[0]["status"]["conditions"]
        return any(one["type"] == "Programmed" and one["status"] == "True" for one in found)

    await eventually(ready, 15)

    sent = await asyncio.to_thread(
        dev.cli, "send", "--from", "app@example.test", "--to", "ann@elsewhere.example", "--subject", "Second",
        "--text", "hi", "--server", f"localhost:{dev.submission}", "--data", str(dev.data),
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    second = sent.stdout.strip()

    async def there() -> bool:
        return any(one["id"] == second for one in (await dev.get("/v1/inbox")).json())

    await eventually(there)


SERVICES = {"nats-server", "queue", "manifests", "delivery", "api", "ingress"}


async def test_what_dies_is_started_again_and_data_outlives_a_restart(tmp_path: Path):
    async with Dev(tmp_path / "data") as first:
        mail = re.search(r"queued as (\S+)", first.said)[1]
        before = first.children()
        assert before.keys() == SERVICES
        for name in ("delivery", "nats-server"):
            os.kill(before[name], signal.SIGKILL)
            await first.read_until(f"{name} ended (signal 9)")
        await eventually(lambda: first.children().keys() == SERVICES, 10)
        assert first.children()["delivery"] != before["delivery"]
        children = first.children().values()
        assert await first.stop() == 0
        assert not any(_alive(pid) for pid in children)

    async with Dev(tmp_path / "data", "--no-first-mail", "--workers", "2") as again:
        assert [one["id"] for one in (await again.get("/v1/inbox")).json()] == [mail]
        assert (await again.get(f"/v1/messages/{mail}")).json()["state"] == "delivered"
        assert await again.stop() == 0


async def test_nothing_outlives_a_supervisor_that_is_killed(dev: Dev):
    children = dev.children().values()
    assert len(children) == len(SERVICES)
    os.kill(dev.pid, signal.SIGKILL)
    await eventually(lambda: not any(_alive(pid) for pid in children), 30)


async def test_it_delivers_for_real_to_a_lab(tmp_path: Path):
    async with (
        NextHop(name="mx.dst.example") as hop,
        DnsServer({"dst.test": {"MX": ["10 mx.dst.test."]}, "mx.dst.test": {"A": ["127.0.0.1"]}}) as dns,
        Dev(
            tmp_path / "data", "--no-inbox", "--dns", f"{dns.address[0]}:{dns.address[1]}",
            "--remote-port", str(hop.port), "--allow-private-mx",
        ) as dev,
    ):  # fmt: skip
        assert "First mail" not in dev.said
        sent = await asyncio.to_thread(
            dev.cli, "send", "--from", "app@example.test", "--to", "bob@dst.test", "--text", "hi",
            "--server", f"localhost:{dev.submission}", "--data", str(dev.data),
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr
        await hop.until(lambda h: len(h.accepted) == 1, 20)
        assert hop.accepted[0].recipients == ("bob@dst.test",)
        assert (await dev.get("/v1/inbox")).json() == []
        assert await dev.stop() == 0


async def test_manifests_come_by_standard_input_and_off_loopback_the_api_asks_for_a_token(tmp_path: Path):
    dev = Dev(tmp_path / "data", "--host", "0.0.0.0")
    dev.command[dev.command.index(str(EXAMPLES))] = "-"
    manifests = (EXAMPLES / "example.test.yaml").read_bytes()
    source = tmp_path / "stdin"
    source.write_bytes(manifests)
    with source.open("rb") as dev.stdin:
        async with dev:
            assert "queued as" in dev.said, dev.said
            assert re.search(r"\n  \S+  (attempt|delivered) ", dev.said), dev.said  # followed with the token
            assert (await dev.get("/v1/inbox")).status_code == 401
            assert await dev.stop() == 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _refused(dev: Dev) -> str:
    done = subprocess.run(dev.command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in (0, None)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


async def test_what_is_in_the_way_is_said_in_one_line(tmp_path: Path):
    dev = Dev(tmp_path / "data")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", dev.mx))
        taken.listen()
        said = await asyncio.to_thread(_refused, dev)
        assert f"127.0.0.1:{dev.mx} is in use" in said
        assert "--mx-port" in said
    blocked = tmp_path / "file"
    blocked.write_text("")
    said = await asyncio.to_thread(_refused, Dev(blocked / "data"))
    assert "--data" in said
    missing = Dev(tmp_path / "other")
    missing.command[missing.command.index(str(EXAMPLES))] = str(tmp_path / "nowhere")
    assert "--manifests" in await asyncio.to_thread(_refused, missing)


async def test_two_on_one_data_folder_are_refused(dev: Dev):
    other = Dev(dev.data)
    assert "in use by another waypost dev" in await asyncio.to_thread(_refused, other)
