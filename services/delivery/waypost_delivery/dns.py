"""DNS for delivery: a cache with single flight in front of dnspython's resolver.

dnspython has no single flight (fifty concurrent look-ups send fifty queries), and its cache knows no failures. Here one
name and type is asked once however many want it, for as long as the answer says (RFC 2181 8, RFC 2308 5), failures for
a few seconds (RFC 2308 7.1), so that a domain whose servers are out costs one query now and then.

    DnsError
    +-- NoNameError        the name does not exist (NXDOMAIN): for good
    +-- DnsTemporaryError  SERVFAIL, time-out, bogus, CNAME loop: nobody knows; mail is deferred, never bounced

An existing name without the type asked for is an empty answer.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdtypes.ANY.MX
import dns.resolver
import opentelemetry.metrics
from msgspec import Struct

_meter = opentelemetry.metrics.get_meter("waypost")
LOOKUPS = _meter.create_counter(
    "waypost.dns.lookups",
    unit="{query}",
    description="DNS look-ups that left the process, by outcome (found, empty, missing, failed); cache hits are none.",
)

RecordType = Literal["MX", "A", "AAAA"]

CNAME_DEPTH = 8
_LEAST_TTL, _MOST_TTL = 5.0, 3600.0  # seconds: a TTL of 0 must not mean a query a mail
_MOST_NEGATIVE_TTL = 900.0
_FAILURE_TTL = 5.0
_PAYLOAD = 1232  # octets of a UDP answer that no network fragments (DNS flag day 2020)
_MAX_ENTRIES = 50_000
_MAX_RECORDS = 64  # of one answer: more MX or addresses than that are not tried anyway


class DnsError(Exception):
    """Base of what a look-up can come to."""


class NoNameError(DnsError):
    """The name does not exist."""


class DnsTemporaryError(DnsError):
    """It could not be found out; another time it may."""


class Answer(Struct, frozen=True):
    """`records`: (preference, host) for MX (lower case, no final dot, "" is the root), (0, address) for A and AAAA."""

    records: tuple[tuple[int, str], ...]
    expires: float  # monotonic clock


class Resolver:
    """Look-ups of MX and addresses. `servers` (address, port) are asked in order; () = those of the system."""

    def __init__(
        self, servers: Sequence[tuple[str, int]] = (), *, timeout: float = 10.0, lifetime: float = 25.0
    ) -> None:
        if servers:
            self._resolver = dns.asyncresolver.Resolver(configure=False)
            self._resolver.nameservers = [dns.nameserver.Do53Nameserver(_checked(host), port) for host, port in servers]
        else:
            self._resolver = dns.asyncresolver.Resolver()
        self._resolver.use_edns(0, 0, _PAYLOAD)
        self._resolver.timeout = timeout
        self._resolver.lifetime = lifetime
        self._cache: OrderedDict[tuple[str, str], Answer | DnsError] = OrderedDict()
        self._expiry: dict[tuple[str, str], float] = {}
        self._flights: dict[tuple[str, str], asyncio.Task[Answer | DnsError]] = {}
        self._clock: Callable[[], float] = time.monotonic

    async def lookup(self, name: str, kind: RecordType) -> Answer:
        """The records of a name (a lower-case A-label). Raises NoNameError, DnsTemporaryError."""
        key = (name, kind)
        found = self._cached(key)
        if found is None:
            flight = self._flights.get(key)
            if flight is None:
                flight = asyncio.create_task(self._fly(key, kind))
                self._flights[key] = flight
            # A caller that is cancelled does not take the others' look-up with it.
            found = await asyncio.shield(flight)
        if isinstance(found, DnsError):
            raise type(found)(*found.args)  # a fresh one: an exception raised twice keeps growing its traceback
        return found

    async def close(self) -> None:
        """Ends what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _cached(self, key: tuple[str, str]) -> Answer | DnsError | None:
        found = self._cache.get(key)
        if found is None:
            return None
        if self._expiry[key] <= self._clock():
            del self._cache[key], self._expiry[key]
            return None
        self._cache.move_to_end(key)
        return found

    async def _fly(self, key: tuple[str, str], kind: RecordType) -> Answer | DnsError:
        try:
            outcome, ttl = await self._ask(key[0], kind)
        finally:
            del self._flights[key]
        expires = self._clock() + ttl
        found = Answer(outcome, expires) if isinstance(outcome, tuple) else outcome
        self._cache[key] = found
        self._expiry[key] = expires
        if len(self._cache) > _MAX_ENTRIES:
            oldest, _ = self._cache.popitem(last=False)
            del self._expiry[oldest]
        return found

    async def _ask(self, name: str, kind: RecordType) -> tuple[tuple[tuple[int, str], ...] | DnsError, float]:
        """The records or the error, and for how many seconds it holds."""
        try:
            target = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError) as error:
            return NoNameError(f"{name} is not a domain name: {error}"), _MOST_TTL
        seen = 0
        while True:
            try:
                answer = await self._resolver.resolve(target, kind, raise_on_no_answer=False, search=False)
            except dns.resolver.NXDOMAIN as error:
                LOOKUPS.add(1, {"outcome": "missing"})
                return NoNameError(f"{name} does not exist"), _negative_ttl(error)
            except (dns.exception.DNSException, OSError) as error:
                LOOKUPS.add(1, {"outcome": "failed"})
                return DnsTemporaryError(f"look-up of {kind} of {name} failed: {_why(error)}"), _FAILURE_TTL
            seen += len(answer.chaining_result.cnames)
            canonical = answer.canonical_name
            if answer.rrset is not None or canonical == target:
                break
            if seen > CNAME_DEPTH:
                break
            target = canonical  # a server that leaves the chain to us
        if seen > CNAME_DEPTH:
            LOOKUPS.add(1, {"outcome": "failed"})
            text = f"{name} leads through {seen} CNAMEs, {CNAME_DEPTH} at most are followed"
            return DnsTemporaryError(text), _MOST_NEGATIVE_TTL
        ttl = min(max(answer.chaining_result.minimum_ttl, _LEAST_TTL), _MOST_TTL)
        if answer.rrset is None:
            LOOKUPS.add(1, {"outcome": "empty"})
            return (), min(ttl, _MOST_NEGATIVE_TTL)
        LOOKUPS.add(1, {"outcome": "found"})
        records: list[tuple[int, str]] = []
        for rdata in list(answer.rrset)[:_MAX_RECORDS]:
            if isinstance(rdata, dns.rdtypes.ANY.MX.MX):
                records.append(
                    (rdata.preference, rdata.exchange.to_text(omit_final_dot=True).lower().removesuffix("."))
                )
            else:
                records.append((0, rdata.to_text()))
        return tuple(records), ttl


def _checked(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError(f"dns: {host!r} is not an IP address; give a resolver as ADDRESS:PORT") from None


def _negative_ttl(error: dns.resolver.NXDOMAIN) -> float:
    """RFC 2308 5: the lesser of the SOA's TTL and its minimum, which dnspython works out."""
    responses: dict[dns.name.Name, dns.message.QueryMessage] = error.kwargs["responses"]
    ttls = [float(response.resolve_chaining().minimum_ttl) for response in responses.values()]
    return min(max(min(ttls, default=60.0), _LEAST_TTL), _MOST_NEGATIVE_TTL)


def _why(error: Exception) -> str:
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return "no answer in time"
    if isinstance(error, dns.resolver.NoNameservers):
        last = error.kwargs["errors"][-1:]
        return f"the server said {last[0][3]}" if last and isinstance(last[0][3], str) else "no server could be asked"
    return type(error).__name__
