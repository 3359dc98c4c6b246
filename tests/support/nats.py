"""A real nats-server on an ephemeral port: start, kill -9, stop and start again on the same port and store."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.support.process import end_with_parent
from tests.support.wait import eventually
from waypost_queue import natsconf
from waypost_queue.errors import StoreError
from waypost_queue.service import admin
from waypost_queue.store import Store, StoreOptions
from waypost_queue.streams import Layout, Timing

BINARY = Path(sys.prefix) / "bin" / "nats-server"

LAYOUT = Layout(shards=1, pools=("default",), store_bytes=1 << 30)
"""Small but whole: one shard, one pool, every lane."""

QUICK = Timing(ack_wait=3.0, pull_expires=0.8, keep_alive=0.8, guard_ttl=120.0, attempt_limit=60.0, retake_delay=0.5)
"""Timing with which a message comes back in seconds."""


class NatsServer:
    """One server, `sync_interval: always` unless told otherwise; what it logs is in `<folder>/log`.

        async with NatsServer(tmp_path) as server:
            store = await server.connect()

    Further arguments go to `natsconf.render` (users, system_user, max_file_store, sync_always, ...).
    """

    def __init__(self, folder: Path, **conf: object) -> None:
        self.folder = folder
        self.port = -1
        self.conf = conf
        self._process: subprocess.Popen[bytes] | None = None
        self._stores: list[Store] = []

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    async def start(self) -> None:
        """Starts it, on the port that it had before; returns when it takes connections."""
        assert self._process is None, "running already"
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = self.folder / "ports"
        ports.mkdir(exist_ok=True)
        for left in ports.iterdir():
            left.unlink()
        text = natsconf.render(store_dir=str(self.folder / "store"), port=self.port, ports_dir=str(ports), **self.conf)
        path = self.folder / "nats.conf"
        path.write_text(text)
        log = self.folder / "log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(BINARY), "-c", str(path)], stdout=out, stderr=out, preexec_fn=end_with_parent
            )

        def listening() -> int:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"nats-server ended:\n{log.read_text()[-2000:]}")
            for file in ports.glob("*.ports"):
                try:
                    return int(json.loads(file.read_text())["nats"][0].rsplit(":", 1)[1])
                except (ValueError, KeyError, IndexError):
                    return 0  # still being written
            return 0

        self.port = await eventually(listening, 15.0, "nats-server listens")

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """kill -9 and start."""
        await self.kill()
        await self.start()

    def pause(self) -> None:
        """SIGSTOP: takes connections and answers nothing, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
        await asyncio.to_thread(process.wait, 20)

    async def connect(
        self, name: str = "test", user: str | None = None, password: str | None = None, inbox_prefix: str = "_INBOX"
    ) -> Store:
        """A connected store; closed with the server."""
        store = Store(
            StoreOptions(servers=(self.url,), name=name, user=user, password=password, inbox_prefix=inbox_prefix)
        )
        await store.connect()
        self._stores.append(store)
        return store

    async def __aenter__(self) -> "NatsServer":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self._stores:
            await store.close()
        await self._end(signal.SIGKILL)


async def connected(store: Store, timeout: float = 20.0) -> None:
    """Returns once the store is connected and JetStream answers: after a restart."""

    async def answers() -> bool:
        try:
            await store.api("INFO", timeout=1.0)
        except StoreError:
            return False
        return True

    await eventually(answers, timeout, "JetStream answers")


async def prepared(server: NatsServer, layout: Layout = LAYOUT) -> Store:
    """A connected store with every stream and consumer of `layout`."""
    store = await server.connect()
    await admin.apply(store, layout)
    return store
