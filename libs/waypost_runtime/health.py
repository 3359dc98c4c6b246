"""`/livez`, `/readyz` and `/metrics` of a service, on a port of their own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from . import metrics

log = structlog.get_logger(__name__)

Check = Callable[[], str]
"""Returns "" when fine, else one sentence that says what is wrong."""


class Health:
    """Named checks: `live` ones say that a restart would help, `ready` ones that work must not be sent here."""

    def __init__(self) -> None:
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}

    def live(self, name: str, check: Check) -> None:
        self._live[name] = check

    def check(self, name: str, check: Check) -> None:
        self._ready[name] = check

    def live_problems(self) -> dict[str, str]:
        return _problems(self._live)

    def ready_problems(self) -> dict[str, str]:
        return _problems(self._live) | _problems(self._ready)

    def routes(self) -> list[Route]:
        """The three routes, for a service with an HTTP server of its own."""

        async def livez(_request: Request) -> Response:
            return _answer(self.live_problems())

        async def readyz(_request: Request) -> Response:
            return _answer(self.ready_problems())

        async def metricsz(_request: Request) -> Response:
            body, content_type = metrics.render()
            return Response(body, media_type=content_type)

        return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metricsz)]


def _problems(checks: dict[str, Check]) -> dict[str, str]:
    return {name: text for name, check in checks.items() if (text := check())}


def _answer(problems: dict[str, str]) -> Response:
    if not problems:
        return PlainTextResponse("ok\n")
    return PlainTextResponse("".join(f"{name}: {text}\n" for name, text in problems.items()), status_code=503)


class SignalFreeServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own (process.py)."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@asynccontextmanager
async def serve(health: Health, host: str, port: int) -> AsyncIterator[int]:
    """Serves while the context lasts; yields the port. Raises OSError with the address when it can't be bound."""
    listener = bind(host, port)
    config = uvicorn.Config(
        Starlette(routes=health.routes()),
        lifespan="off",
        access_log=False,
        log_config=None,
        limit_concurrency=64,
        timeout_keep_alive=5,
        ws="none",
    )
    server = SignalFreeServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; the OSError of one that can't be had names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener
