"""Are the peers' addresses real? A trusted network is worth nothing where a gateway hides who connects.

Behind source NAT (a node's or a pod gateway's address, a load balancer without PROXY) everybody comes from the same few
addresses, and a Network sender would trust them all. So trust is off while the connections of the last hour came from a
few addresses only. Loopback is exempt: it can't be reached through a gateway. Addresses that are known to be gateways
are never trusted.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

_SLOT: Final = 300  # seconds; twelve slots make the hour
_SLOTS: Final = 12


class PeerGate:
    """Counts connections of the last hour; memory is bounded by `few` + 1 addresses a slot.

    `enough` connections are needed before anything is concluded (0 = never conclude), `few` is how many addresses count
    as hidden; `gateways` are addresses that hide others for certain.
    """

    def __init__(self, *, enough: int = 200, few: int = 2, gateways: Iterable[str] = ()) -> None:
        self._enough = enough
        self._few = few
        self._gateways = frozenset(gateways)
        self._slots: dict[int, tuple[int, set[str]]] = {}

    def seen(self, address: str, now: float) -> None:
        """One connection from `address`."""
        if _is_loopback(address):
            return
        number = int(now) // _SLOT
        count, addresses = self._slots.get(number, (0, set()))
        if len(addresses) <= self._few:
            addresses.add(address)
        self._slots[number] = (count + 1, addresses)
        if len(self._slots) > _SLOTS:
            self._slots = {slot: value for slot, value in self._slots.items() if slot > number - _SLOTS}

    def hidden(self, address: str, now: float) -> str:
        """Why a Network sender must not trust this peer: "" if it may."""
        if _is_loopback(address):
            return ""
        if address in self._gateways:
            return f"{address} is a gateway that hides who connects. Set externalTrafficPolicy: Local or PROXY"
        if not self._enough:
            return ""
        oldest = int(now) // _SLOT - _SLOTS
        total, everybody = 0, set[str]()
        for slot, (count, addresses) in self._slots.items():
            if slot > oldest:
                total += count
                everybody |= addresses
        if total < self._enough or len(everybody) > self._few:
            return ""
        from_where = " and ".join(sorted(everybody))
        return (
            f"all {total} connections of the last hour came from {from_where}. "
            "Set externalTrafficPolicy: Local or PROXY"
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
