"""Free ports of loopback."""

import contextlib
import random
import socket

# Below what Linux and macOS hand out by themselves: a port that is free now is not taken by somebody's connect().
_FIRST, _LAST = 15_000, 32_000


def free_ports(count: int) -> list[int]:
    """`count` consecutive TCP ports that are free now."""
    while True:
        start = random.randrange(_FIRST, _LAST - count)
        ports = list(range(start, start + count))
        with contextlib.ExitStack() as stack:
            try:
                for port in ports:
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return ports
