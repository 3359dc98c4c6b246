"""The supervisor's children: each is started until it runs, and none is left behind, whenever `stop` comes."""

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Iterator

import pytest

from waypost_ingress.settings import IngressSettings
from waypost_ingress.supervisor import GRACE, Child
from waypost_ingress.worker import EVENTS_DRAIN, INTAKE_DRAIN

WITHIN = 10.0  # s


@pytest.fixture
def pipe_end() -> Iterator[int]:
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


class Sleeper(Child):
    """A child whose process only sleeps; its first start fails, or waits for `gate`."""

    def __init__(self, parent_fd: int, *, fails: bool = False, gated: bool = False, deaf: bool = False) -> None:
        super().__init__(IngressSettings(drain_timeout=0.1), 0, {}, parent_fd)
        self._fails, self._deaf = fails, deaf
        self.starting, self.started, self.gate = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.process: Process | None = None
        if not gated:
            self.gate.set()

    async def _spawn(self) -> Process:
        self.starting.set()
        await self.gate.wait()
        if self._fails:
            self._fails = False
            raise BlockingIOError("Resource temporarily unavailable")
        script = "trap '' TERM; echo up; while :; do sleep 0.1; done" if self._deaf else "echo up; exec sleep 60"
        reading, writing = os.pipe()
        self.process = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=writing)
        os.close(writing)
        assert await asyncio.to_thread(os.read, reading, 3) == b"up\n"
        os.close(reading)
        self.started.set()
        return self.process

    def status(self) -> int | None:
        assert self.process is not None
        return self.process.returncode


async def test_a_start_that_fails_is_tried_again(pipe_end: int) -> None:
    child, stop = Sleeper(pipe_end, fails=True), asyncio.Event()
    async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
        group.create_task(child.keep(stop))
        await child.started.wait()
        stop.set()
    assert child.status() == -signal.SIGTERM


async def test_a_stop_during_the_start_ends_what_was_started(pipe_end: int) -> None:
    child, stop = Sleeper(pipe_end, gated=True), asyncio.Event()
    async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
        group.create_task(child.keep(stop))
        await child.starting.wait()
        stop.set()
        child.gate.set()
    assert child.status() == -signal.SIGTERM


async def test_a_worker_that_is_deaf_to_sigterm_is_killed(pipe_end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("waypost_ingress.supervisor.GRACE", 0.3)
    child, stop = Sleeper(pipe_end, deaf=True), asyncio.Event()
    async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
        group.create_task(child.keep(stop))
        await child.started.wait()
        stop.set()
    assert child.status() == -signal.SIGKILL


def test_the_parts_of_a_shutdown_fit_into_30_seconds() -> None:
    drain = IngressSettings().drain_timeout
    assert drain + INTAKE_DRAIN + EVENTS_DRAIN < drain + GRACE <= 30.0
