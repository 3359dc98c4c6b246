"""`waypost serve ingress`: one worker in this process, or several in processes of their own (supervisor.py)."""

import asyncio
import socket
from typing import Final

import structlog
from pydantic import ValidationError

from waypost_runtime import logs, metrics, process

from . import supervisor, worker
from .ingress import Listener, listeners
from .listeners import PortError, adopt, bind_all
from .settings import IngressSettings
from .tls import Certificates

log = structlog.get_logger(__name__)

EXIT_FAILED: Final = 1
EXIT_SETTINGS: Final = 2


def main() -> int:
    """Entry point of the service; returns the exit status."""
    try:
        settings = IngressSettings()
    except ValidationError as error:
        logs.configure("ingress")
        for item in error.errors():
            log.error("settings.invalid", field=".".join(map(str, item["loc"])), problem=item["msg"])
        return EXIT_SETTINGS
    logs.configure("ingress", level=settings.log_level, fmt=settings.log_format, worker=settings.instance)
    try:
        certificates = load_certificates(settings)
    except OSError as error:
        log.error("settings.invalid", field="tls_cert, tls_key", problem=str(error))
        return EXIT_SETTINGS
    wanted = listeners(settings)
    if certificates is None:
        log.warning(
            "ingress.no_tls", effect="no STARTTLS, no AUTH and no submissions port; set WAYPOST_TLS_CERT and _KEY"
        )
        wanted = tuple(listener for listener in wanted if not listener.implicit_tls)
    try:
        if settings.workers > 1 and settings.worker < 0:
            return process.run(lambda stop: supervisor.supervise(settings, wanted, stop))
        sockets = sockets_of(settings, wanted)
    except PortError as error:
        log.error("ingress.port", problem=str(error))
        return EXIT_FAILED
    metrics.setup("ingress", settings.instance)
    try:
        return process.run(lambda stop: run(settings, wanted, sockets, certificates, stop))
    finally:
        for sock in sockets.values():
            sock.close()


def load_certificates(settings: IngressSettings) -> Certificates | None:
    """None without files; OSError when only one is named, or they can't be used."""
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise OSError("both are needed: the certificate chain and its key")
    return Certificates(settings.tls_cert, settings.tls_key)


def sockets_of(settings: IngressSettings, wanted: tuple[Listener, ...]) -> dict[str, socket.socket]:
    """The supervisor's sockets, or this process' own: shared with its fellow workers, if it has any."""
    if settings.listen_fds:
        return adopt(settings.listen_fds)
    return bind_all(settings.host, wanted, shared=settings.worker >= 0)


async def run(
    settings: IngressSettings,
    wanted: tuple[Listener, ...],
    sockets: dict[str, socket.socket],
    certificates: Certificates | None,
    stop: asyncio.Event,
) -> int:
    """A worker until `stop`, or until its supervisor is gone."""
    if settings.parent_fd >= 0:
        # The other end is closed when the supervisor ends, however it ends.
        loop = asyncio.get_running_loop()

        def orphaned() -> None:
            loop.remove_reader(settings.parent_fd)
            stop.set()

        loop.add_reader(settings.parent_fd, orphaned)
    served = await worker.serve(settings, stop, wanted, sockets, certificates)
    return 0 if served else EXIT_FAILED
