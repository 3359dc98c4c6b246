"""A whole Waypost for tests: nats-server and every service as a process of its own, as they are pods, around a lab.

The configuration is written to KV by the test itself, so that lifetimes of seconds are possible (a MailDomain's schema
asks for minutes). Next hops and DNS are the test's.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

from tests.support.nats import NatsServer
from tests.support.ports import free_ports
from tests.support.process import end_with_parent
from tests.support.wait import eventually
from waypost_queue import configwatch
from waypost_queue.config import DomainConfig, Meta, Retry, Sender, Snapshot, Subject
from waypost_queue.store import Store

SERVICES = ("queue", "delivery", "api", "ingress")


def domain(name: str, *, cidr: str = "127.0.0.0/8", retry: Retry | None = None) -> DomainConfig:
    """A MailDomain for which every peer of `cidr` may send."""
    return DomainConfig(
        domain=name,
        namespace="lab",
        generation=1,
        senders=(Sender(name="lab", subjects=(Subject(kind="Network", cidr=cidr),), addresses=(f"*@{name}",)),),
        retry=retry or Retry(initial=1.0, max=2.0, expire_after=600.0, notify_delay_after=300.0),
    )


class Service:
    """One service process; `kill` is kill -9."""

    def __init__(self, name: str, env: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self.env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def start(self) -> None:
        assert self._process is None, "running already"
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "waypost_cli", "serve", self.name],
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    async def end(self, number: int = signal.SIGTERM, limit: float = 40.0) -> int:
        """Ends it; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            return await asyncio.to_thread(process.wait, limit)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
            raise

    async def kill(self) -> None:
        await self.end(signal.SIGKILL)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tail(self) -> str:
        return self.log.read_text("utf-8", "replace")[-3000:] if self.log.exists() else ""


class Lab:
    """`async with Lab(tmp_path, dns=("127.0.0.1", 5353), remote_port=2600) as lab`."""

    def __init__(
        self,
        folder: Path,
        *,
        dns: tuple[str, int] | None = None,
        remote_port: int = 25,
        domains: Sequence[DomainConfig] = (),
        workers: int = 1,
        inbox: bool = False,
        env: dict[str, str] | None = None,
        fields: dict[str, object] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.nats = NatsServer(folder / "nats")
        self.domains = {one.domain: one for one in domains}
        self._fields = dict(fields or {})  # of the configuration: credentials, policies
        self.mx, self.submission, self.submissions, self.http, *health = free_ports(4 + len(SERVICES) + workers)
        self._health = dict(zip(SERVICES, health, strict=False))
        self._workers = workers
        self._extra = {
            "DNS": f"{dns[0]}:{dns[1]}" if dns else "",
            "REMOTE_PORT": str(remote_port),
            "ALLOW_PRIVATE_MX": "true",
            "INBOX_CATCH_ALL": str(inbox).lower(),
            "INBOX_RESERVED_NAMES": str(inbox).lower(),
            **(env or {}),
        }
        self.services: dict[str, Service] = {}
        self.store: Store
        self._published: Snapshot | None = None

    def _env(self, name: str) -> dict[str, str]:
        env = {
            "NATS_URL": self.nats.url,
            "SHARDS": str(self._workers),
            "STORE_BYTES": str(2 << 30),
            "INSTANCE": f"lab-{name}",
            "HOSTNAME": "relay.lab.example",
            "ALLOW_WEAK_DURABILITY": "true",  # this server has no system user to ask; it does sync always
            "HOST": "127.0.0.1",
            "MX_PORT": str(self.mx),
            "SUBMISSION_PORT": str(self.submission),
            "SUBMISSIONS_PORT": str(self.submissions),
            "WORKERS": str(self._workers),
            "HTTP_PORT": str(self.http if name == "api" else self._health[name]),
            "HISTORY_URL": f"sqlite:///{self.folder / 'history.db'}",
            "ALLOW_ANONYMOUS": "true",
            **self._extra,
        }
        return {f"WAYPOST_{key}": value for key, value in env.items()}

    async def publish(self, *domains: DomainConfig, **fields: object) -> None:
        """Writes the configuration that is in force from now on."""
        self.domains |= {one.domain: one for one in domains}
        generation = (self._published.meta.generation if self._published else 0) + 1
        self._fields |= fields
        snapshot = Snapshot(domains=dict(self.domains), meta=Meta(generation=generation), **self._fields)
        await configwatch.publish(self.store, self._published, snapshot)
        self._published = snapshot

    async def __aenter__(self) -> "Lab":
        await self.nats.start()
        try:
            self.store = await self.nats.connect("lab")
            self.services = {name: Service(name, self._env(name), self.folder / f"{name}.log") for name in SERVICES}
            self.services["queue"].start()
            await self.ready("queue")
            await self.publish()
            for name in SERVICES[1:]:
                self.services[name].start()
            for name in SERVICES[1:]:
                await self.ready(name)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def ready(self, name: str, limit: float = 30.0) -> None:
        """Returns once the service is ready; fails with the end of its log."""
        port = self.http if name == "api" else self._health[name]
        service = self.services[name]
        said = "nothing"

        async def answers() -> bool:
            nonlocal said
            if not service.alive():
                raise AssertionError(f"{name} ended:\n{service.tail()}")
            try:
                async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
                    answer = await client.get(f"http://127.0.0.1:{port}/readyz")
            except httpx.HTTPError:
                return False
            said = answer.text
            return answer.status_code == 200

        try:
            await eventually(answers, limit, f"{name} is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}: it said {said!r}\n{service.tail()}") from error

    async def api(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.http}", timeout=10, trust_env=False) as client:
            return await client.get(path)

    async def act(self, mail: str, action: str, **body: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.http}", timeout=10, trust_env=False) as client:
            return await client.post(f"/v1/messages/{mail}/actions", json={"action": action, **body})

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("ingress", "delivery", "api", "queue"):
            if name in self.services:
                await self.services[name].end()
        await self.nats.__aexit__(kind, error, trace)
