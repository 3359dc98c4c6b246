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
from typing import Final

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
        tasks = [asyncio.create_task(child.keep(), name=f"worker-{child.number}") for child in workers]
        await stop.wait()
        await asyncio.gather(*(child.stop() for child in workers))
        await asyncio.gather(*tasks)
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
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
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

    async def keep(self) -> None:
        """Starts it, and again whenever it ends, until `stop`."""
        deaths = 0
        while not self._stopping.is_set():
            born = time.monotonic()
            self._process = await self._spawn()
            status = await self._process.wait()
            if self._stopping.is_set():
                return
            deaths = 1 if time.monotonic() - born > HEALTHY_AFTER else deaths + 1
            pause = BACKOFF[min(deaths, len(BACKOFF)) - 1]
            log.error("ingress.worker_died", number=self.number, status=status, again_in=pause)
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                continue

    async def stop(self) -> None:
        """SIGTERM; SIGKILL when it does not end in time."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._grace)
        except TimeoutError:
            log.error("ingress.worker_killed", number=self.number, after=self._grace)
            process.kill()
