"""Two things of which a worker has only so much: room for unfinished mail, and connections an address.

What a worker holds at most:

    a connection      0.5 MiB: BUFFER_HIGH and one read (384 KiB), and SEGMENT of content that is not reserved yet. An
                      idle one takes about 6 KiB, over TLS some 40 KiB more
    large mails       `content_memory`. One counts twice, as it came and as it is stored; no third copy is kept
    what is committed intake.MAX_WAITING
"""

import ipaddress
from typing import Final

STEP: Final = 1 << 20  # octets taken at a time


class Room:
    """Octets of large mails in hand. Who finds none is told to come back, since waiting would hold what it has."""

    def __init__(self, total: int) -> None:
        self._left = total

    def take(self, octets: int) -> bool:
        if octets > self._left:
            return False
        self._left -= octets
        return True

    def give(self, octets: int) -> None:
        self._left += octets

    @property
    def left(self) -> int:
        return self._left


class Reservation:
    """What one mail holds of the room."""

    __slots__ = ("_held", "_room")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = 0

    def cover(self, octets: int) -> bool:
        """Holds enough for a mail that has grown to `octets`; False when there is not."""
        while self._held < 2 * octets:
            if not self._room.take(STEP):
                return False
            self._held += STEP
        return True

    def release(self) -> None:
        if self._held:
            self._room.give(self._held)
            self._held = 0


def address_key(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 /64, which is what one client gets."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False).network_address)


class PerAddress:
    """Connections by client."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count: dict[str, int] = {}

    def enter(self, key: str) -> bool:
        """Counts one more; False when the limit is reached."""
        count = self._count.get(key, 0)
        if count >= self._limit:
            return False
        self._count[key] = count + 1
        return True

    def leave(self, key: str) -> None:
        count = self._count[key] - 1
        if count:
            self._count[key] = count
        else:
            del self._count[key]
