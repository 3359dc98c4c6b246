"""How a service runs as a process: event loop, signals, exit status."""

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog
import uvloop

log = structlog.get_logger(__name__)

DESCRIPTORS: Final = 65_536  # that a process asks for: a connection is one, and the usual 256 (macOS) or 1,024 are few

T = TypeVar("T")


class StoppedError(Exception):
    """The process was told to stop before what it waited for was done."""


def run(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Runs `main` on uvloop until it returns its exit status. SIGTERM or SIGINT sets the event that it is given.

    0 when `main` lets a StoppedError of `unless` through.
    """

    async def shell() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            return await main(stop)
        except StoppedError:
            log.info("process.stopped", reason="told to stop while it was starting")
            return 0

    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(shell())


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open files as far as the hard one lets it; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # macOS: the kernel's own limit may be lower than the hard one
        log.warning("process.descriptors", limit=soft, error=str(error))
        return soft
    return wanted


async def first_of(*events: asyncio.Event) -> None:
    """Returns when any of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises StoppedError, `work` cancelled, when `stop` is set first."""
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise StoppedError
    finally:
        for task in (working, stopped):
            task.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)
