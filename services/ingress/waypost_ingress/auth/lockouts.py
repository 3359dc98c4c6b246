"""Against guessing: who failed how often, how long they wait, and when they are locked out. Pure: time is an argument.

Failures count for the address, the user name (whether it exists or not: no oracle), and both together. From the third
on, the reply is delayed; past the limit, address or user is locked for a while. A pair that has logged in before passes
the locks of others, so that nobody locks a user out by guessing at it, nor a whole cluster behind one address by one
wrong Secret; its own failures still count. An attempt counts before it is verified, so that many at once gain nothing.
A token can't be guessed: refusing one is delayed, but locks nothing, or one pod's stale token would lock all others
behind the same address.
"""

import ipaddress
from collections.abc import Hashable
from typing import Any, Final, TypeVar

from msgspec import Struct

_FIRST_DELAYED: Final = 3  # of the failures, the first whose reply is kept back
_KNOWN_FOR: Final = 86400.0  # seconds that a successful pair is remembered
_NEVER: Final = 1 << 30  # failures
_Key = TypeVar("_Key", bound=Hashable)


class LockoutRules(Struct, frozen=True):
    """Failures until locked, and times in seconds."""

    per_address: int = 20
    per_user: int = 20
    per_pair: int = 10
    window: float = 600.0  # failures older than this are forgotten
    locked: float = 300.0
    delay: float = 1.0  # of the third failure; doubled with each further one
    max_delay: float = 8.0


class _Tally:
    __slots__ = ("failures", "locked_until", "since")

    def __init__(self, now: float) -> None:
        self.failures = 0
        self.since = now
        self.locked_until = 0.0


class Lockouts:
    """Tallies of one process; at most `capacity` of each kind, the oldest is forgotten."""

    def __init__(self, rules: LockoutRules | None = None, capacity: int = 32768) -> None:
        self._rules = rules or LockoutRules()
        self._capacity = capacity
        self._addresses: dict[str, _Tally] = {}
        self._users: dict[str, _Tally] = {}
        self._pairs: dict[tuple[str, str], _Tally] = {}
        self._known: dict[tuple[str, str], float] = {}  # -> last success

    def begin(self, address: str, user: str, now: float) -> float:
        """Seconds for which this attempt is locked out; 0.0: go on, and the attempt counts as failed until `succeeded`.

        `user` is "" for a token, which has no name before it is verified.
        """
        network = _network(address)
        pair = (network, user)
        tallies = self._tallies(network, user, now)
        known = now - self._known.get(pair, float("-inf")) < _KNOWN_FOR
        heeded = tallies[-1:] if known else tallies
        left = max(tally.locked_until for tally, _ in heeded) - now
        if left > 0:
            return left
        for tally, limit in tallies:
            tally.failures += 1
            if tally.failures >= limit:
                tally.locked_until = now + self._rules.locked
                tally.failures = 0
                tally.since = now
        return 0.0

    def delay(self, address: str, user: str, now: float) -> float:
        """Seconds that the refusal of the attempt just begun is kept back."""
        rules = self._rules
        most = 0
        for tally, limit in self._tallies(_network(address), user, now):
            most = max(most, limit if tally.locked_until > now else tally.failures)
        if most < _FIRST_DELAYED:
            return 0.0
        return float(min(rules.delay * 2 ** min(most - _FIRST_DELAYED, 16), rules.max_delay))

    def succeeded(self, address: str, user: str, now: float) -> None:
        """The attempt was right: it no longer counts, and the pair is known."""
        network = _network(address)
        self.withdraw(address, user, now)
        pair = (network, user)
        self._known.pop(pair, None)
        _make_room(self._known, self._capacity)
        self._known[pair] = now
        self._pairs.pop(pair, None)

    def withdraw(self, address: str, user: str, now: float) -> None:
        """The attempt could not be decided: it does not count."""
        for tally, limit in self._tallies(_network(address), user, now):
            if tally.failures:
                tally.failures -= 1
            elif tally.locked_until > now:  # it was this attempt, or one beside it, that locked
                tally.locked_until = 0.0
                tally.failures = limit - 1

    def _tallies(self, network: str, user: str, now: float) -> list[tuple[_Tally, int]]:
        """Address, user and pair with their limits, the pair last; of a token (no user) the pair alone."""
        rules = self._rules
        pair = self._tally(self._pairs, (network, user), now)
        if not user:
            return [(pair, _NEVER)]
        return [
            (self._tally(self._addresses, network, now), rules.per_address),
            (self._tally(self._users, user, now), rules.per_user),
            (pair, rules.per_pair),
        ]

    def _tally(self, tallies: dict[_Key, _Tally], key: _Key, now: float) -> _Tally:
        tally = tallies.get(key)
        if tally is None:
            _make_room(tallies, self._capacity)
            tally = tallies[key] = _Tally(now)
        elif now - tally.since > self._rules.window:
            tally.failures, tally.since = 0, now
        return tally


def _make_room(table: dict[Any, Any], capacity: int) -> None:
    if len(table) >= capacity:
        del table[next(iter(table))]


def _network(address: str) -> str:
    """What one party controls: an IPv4 address, or an IPv6 /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return address
