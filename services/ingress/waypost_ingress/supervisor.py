"""Several workers on the same ports: started, watched, started again when one dies, stopped together.

The supervisor takes no mail. It holds the ports, so that they stay the workers' own, and a pipe whose end tells the
workers that it has gone.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final, Literal

import structlog

from .ingress import Listener
from .listeners import BACKLOG, BALANCED, bind_all, describe, set_inheritable
from .settings import IngressSettings

log = structlog.get_logger(__name__)

BACKOFF: Final = (0.2, 0.5, 1.0, 2.0, 5.0)  # s, between starts of a worker that keeps dying
HEALTHY_AFTER: Final = 30.0  # s of life after which its deaths are counted anew
GRACE: Final = 4.0  # s beyond the drain before a worker is killed


async def supervise(settings: IngressSettings, wanted: tuple[Listener, ...], stop: asyncio.Event) -> int:
    """Runs the workers until `stop`; returns the exit status. Raises PortError when a port can't be had."""
    for sock in bind_all(settings.host, wanted).values():
        sock.close()  # with SO_REUSEPORT alone, another program's port could be shared unnoticed
    sockets = bind_all(settings.host, wanted, shared=True)
    reading, writing = os.pipe()
    try:
        workers = [Child(settings, number, sockets, reading) for number in range(settings.workers)]
        log.info("ingress.supervising", workers=len(workers), **_ports(sockets))
        await asyncio.gather(*(child.keep(stop) for child in workers))
    finally:
        os.close(writing)
        os.close(reading)
        for sock in sockets.values():
            sock.close()
    return 0


def _ports(sockets: dict[str, socket.socket]) -> dict[str, int]:
    return {kind: int(sock.getsockname()[1]) for kind, sock in sockets.items()}


class Child:
    """One worker process."""

    def __init__(
        self, settings: IngressSettings, number: int, sockets: dict[str, socket.socket], parent_fd: int
    ) -> None:
        self.number = number
        self._grace = settings.drain_timeout + GRACE
        self._env = {
            "WAYPOST_WORKER": str(number),
            "WAYPOST_INSTANCE": f"{settings.instance}-{number}",
            "WAYPOST_HTTP_PORT": str(settings.http_port + number if settings.http_port else 0),
            "WAYPOST_PARENT_FD": str(parent_fd),
            **{f"WAYPOST_{kind.upper()}_PORT": str(port) for kind, port in _ports(sockets).items()},
        }
        self._descriptors: tuple[int, ...] = (parent_fd,)
        if not BALANCED:
            for sock in sockets.values():
                sock.listen(BACKLOG)
            self._env["WAYPOST_LISTEN_FDS"] = describe(sockets)
            self._descriptors += set_inheritable(sockets)

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "waypost_ingress",
            env={**os.environ, **self._env},
            stdin=subprocess.DEVNULL,
            pass_fds=self._descriptors,
            start_new_session=True,  # Ctrl-C reaches the supervisor, which stops all in order
        )

    async def keep(self, stop: asyncio.Event) -> None:
        """Starts it, and again whenever it ends, until `stop`; then ends it. Returns when it has gone."""
        deaths = 0
        stopping = asyncio.create_task(stop.wait())
        while not stop.is_set():
            born = time.monotonic()
            try:
                process = await self._spawn()
            except OSError as error:  # no memory or no process to be had now: the other workers go on
                log.error("ingress.worker_not_started", number=self.number, error=str(error))
            else:
                await self._watch(process, stopping)
                if stop.is_set():
                    break
                log.error("ingress.worker_died", number=self.number, status=process.returncode)
            deaths = 1 if time.monotonic() - born > HEALTHY_AFTER else deaths + 1
            await asyncio.wait((stopping,), timeout=BACKOFF[min(deaths, len(BACKOFF)) - 1])
        await stopping

    async def _watch(self, process: asyncio.subprocess.Process, stopping: "asyncio.Task[Literal[True]]") -> None:
        """Returns when it has ended by itself, or by SIGTERM at `stopping`; SIGKILL when that takes too long."""
        ended = asyncio.create_task(process.wait())
        await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            _signal(process, signal.SIGTERM)
            await asyncio.wait((ended,), timeout=self._grace)
        if not ended.done():
            log.error("ingress.worker_killed", number=self.number, after=self._grace)
            _signal(process, signal.SIGKILL)
        await ended


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has just ended by itself, which is what was wanted
        process.send_signal(number)
