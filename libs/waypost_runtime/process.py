"""How a service runs as a process: event loop, signals, exit status."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import structlog
import uvloop

log = structlog.get_logger(__name__)


def run(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Runs `main` on uvloop until it returns its exit status. SIGTERM or SIGINT sets the event that it is given."""

    async def shell() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        return await main(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(shell())


async def first_of(*events: asyncio.Event) -> None:
    """Returns when any of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
