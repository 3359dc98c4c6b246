"""`waypost serve manifests` as a process: from its environment to ready, and to its end."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.config.support import domain
from tests.support.nats import LAYOUT, NatsServer
from tests.support.wait import eventually
from waypost_config import devtoken
from waypost_config.status import STATUS_PREFIX, StoredObject
from waypost_queue import codec, natsconf
from waypost_queue.configwatch import ConfigWatch
from waypost_queue.kv import Bucket
from waypost_queue.model import Wire
from waypost_queue.permissions import SERVICES, inbox_prefix, permissions
from waypost_queue.service import admin
from waypost_queue.store import Store

START = "from waypost_operator.manifests.main import main; raise SystemExit(main())"


class _Beat(Wire, frozen=True):
    service: str
    incarnation: str
    config_generation: int
    ready: bool = True


USERS = tuple(natsconf.User(name=name, password=name, permissions=permissions(name, 1)) for name in SERVICES)


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """With one user a service, each with its own permissions: the process gets by with its own."""
    async with NatsServer(tmp_path / "nats", users=USERS, system_user="system", system_password="sys") as server:
        yield server


@pytest.fixture
async def store(nats_server: NatsServer) -> Store:
    """That of the queue service, which makes the streams."""
    store = await nats_server.connect(user="queue", password="queue", inbox_prefix=inbox_prefix("queue"))
    await admin.apply(store, LAYOUT)
    return store


async def test_the_process_publishes_a_folder_is_ready_and_ends_on_sigterm(
    nats_server: NatsServer, store: Store, tmp_path: Path
) -> None:
    folder, data = tmp_path / "manifests", tmp_path / "data"
    folder.mkdir()
    (folder / "a.yaml").write_text(domain(senders="[{name: a, subjects: [{kind: Secret, name: login}]}]"))
    environment = {
        "WAYPOST_NATS_URL": nats_server.url,
        "WAYPOST_MANIFESTS": str(folder),
        "WAYPOST_DATA_DIR": str(data),
        "WAYPOST_NATS_USER": "manifests",
        "WAYPOST_NATS_PASSWORD": "manifests",
        "WAYPOST_NATS_SYSTEM_USER": "system",
        "WAYPOST_NATS_SYSTEM_PASSWORD": "sys",
        "WAYPOST_HTTP_PORT": "0",
    }
    log = (tmp_path / "log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", START, env={**os.environ, **environment}, stdout=log, stderr=log
    )
    watch = ConfigWatch(store)
    try:
        await watch.start()
        await eventually(lambda: "example.com" in watch.snapshot.domains, 20.0, "the folder is in force")
        assert watch.snapshot.meta.issuer == devtoken.ISSUER
        assert len(json.loads(watch.snapshot.meta.jwks)["keys"]) == 1
        assert (data / "secrets" / "shop" / "login.yaml").exists()

        async def programmed() -> bool:
            for service in ("ingress", "delivery"):
                beat = _Beat(service=service, incarnation="one", config_generation=1)
                await store.nc.publish(f"hb.{service}.one", codec.encode(beat))
            entries = await Bucket(store, "state").entries(STATUS_PREFIX)
            found = [codec.decode(entry.value, StoredObject) for entry in entries.values()]
            conditions = {one.type: one.status for each in found for one in each.conditions}
            return conditions.get("Programmed") == conditions.get("Ready") == "True"

        await eventually(programmed, 10.0, "every process runs it")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10.0) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await watch.close()
        log.close()


async def test_settings_that_make_no_sense_are_said_and_end_it(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        START,
        env={**os.environ, "WAYPOST_MANIFESTS": "-", "WAYPOST_SECRET_OVERRIDES": "nonsense"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20.0)
    assert process.returncode == 2
    assert b"write NS/NAME=KEY=@FILE" in output
