"""The listening sockets: bound early, so that a port in use is an error at start; opened when mail can be taken.

Several workers share the ports by SO_REUSEPORT, which Linux balances. Elsewhere (macOS sends all to the last one) the
supervisor listens and hands its descriptors down.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from typing import Final

from .ingress import Ingress, Listener
from .session import Session

BACKLOG: Final = 1024  # connections that the kernel completes before they are accepted
BALANCED: Final = sys.platform == "linux"
"""SO_REUSEPORT spreads connections over the sockets of a port."""


class PortError(Exception):
    """A port that can't be had; the text says which, why, and what to do."""


def bind(host: str, listener: Listener, *, shared: bool = False) -> socket.socket:
    """A bound TCP socket for `listener`, not yet listening. `shared`: other sockets of ours may have the port too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, listener.port))
    except OSError as error:
        sock.close()
        raise PortError(
            f"{listener.kind} can't listen on {host}:{listener.port}: {error.strerror}. "
            f"Free the port, or set WAYPOST_{listener.kind.upper()}_PORT to another"
        ) from error
    sock.setblocking(False)
    return sock


def bind_all(host: str, wanted: tuple[Listener, ...], *, shared: bool = False) -> dict[str, socket.socket]:
    """Kind -> socket. Raises PortError, with nothing left open."""
    bound: dict[str, socket.socket] = {}
    try:
        for listener in wanted:
            bound[listener.kind] = bind(host, listener, shared=shared)
    except PortError:
        for sock in bound.values():
            sock.close()
        raise
    return bound


def adopt(descriptors: str) -> dict[str, socket.socket]:
    """The sockets that the supervisor handed down, from `describe`."""
    out = {}
    for part in descriptors.split(","):
        kind, _, number = part.partition("=")
        sock = socket.socket(fileno=int(number))
        sock.setblocking(False)
        out[kind] = sock
    return out


def describe(sockets: Mapping[str, socket.socket]) -> str:
    """`mx=5,submission=6`: what `adopt` reads."""
    return ",".join(f"{kind}={sock.fileno()}" for kind, sock in sockets.items())


async def open_all(
    ingress: Ingress, wanted: tuple[Listener, ...], sockets: Mapping[str, socket.socket]
) -> list[asyncio.Server]:
    """Takes connections on each socket from now on."""
    servers = []
    for listener in wanted:

        def factory(listener: Listener = listener) -> Session:
            return Session(ingress, listener)

        servers.append(await ingress.loop.create_server(factory, sock=sockets[listener.kind], backlog=BACKLOG))
    return servers


async def close_all(servers: list[asyncio.Server]) -> None:
    """No new connections; the open ones go on."""
    for server in servers:
        server.close()


def set_inheritable(sockets: Mapping[str, socket.socket]) -> tuple[int, ...]:
    """The descriptors, ready to be passed to a child."""
    for sock in sockets.values():
        os.set_inheritable(sock.fileno(), True)
    return tuple(sock.fileno() for sock in sockets.values())
