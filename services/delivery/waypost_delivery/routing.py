"""Where mail for a domain goes: the hosts in the order to try, and the site that they make.

RFC 5321 5.1: MX by preference with equal ones shuffled, the domain itself where there is no MX, and nothing at or
behind ourselves in the list; RFC 7505: the null MX. Domains with the same MX set are one *site*, the unit of
connections, rate and trouble. Routes are kept as long as their MX records are; addresses are looked up when a
connection is opened.
"""

import asyncio
import hashlib
import ipaddress
import random
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from itertools import groupby
from typing import Literal

from msgspec import Struct

from waypost_queue import config
from waypost_queue.model import Reply

from .dns import Answer, DnsError, DnsTemporaryError, NoNameError, Resolver
from .transport import IpFamily, SiteInfo, TransportSettings

_MAX_ROUTES = 50_000
_MAX_HOSTS = 20  # MX hosts kept of a domain, the best ones
_MAX_ADDRESSES = 4  # tried of one host and family
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z", re.ASCII)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


class Host(Struct, frozen=True):
    """One host of a route. `literal`: the name is an address."""

    name: str
    preference: int = 0
    literal: bool = False


class Route(Struct, frozen=True, kw_only=True):
    """The hosts by preference. `site` names the set."""

    site: str
    hosts: tuple[Host, ...]
    port: int
    smarthost: config.Smarthost | None = None
    expires: float = 0.0  # monotonic clock


class UnroutableError(Exception):
    """There is nowhere to go, for good or for now; the reply says why."""

    def __init__(self, result: Literal["failed", "deferred"], reply: Reply) -> None:
        super().__init__(reply.text)
        self.result = result
        self.reply = reply


class OurselvesError(UnroutableError):
    """A host has an address of ours."""


class Router:
    """Routes, cached."""

    def __init__(self, resolver: Resolver, settings: TransportSettings) -> None:
        self._resolver = resolver
        self._settings = settings
        self._own = {name.lower() for name in (settings.hostname, *settings.own_names)}
        self._routes: OrderedDict[str, Route] = OrderedDict()
        self._clock = time.monotonic

    async def route(self, domain: str, wanted: config.Route) -> Route:
        """The route to a destination domain. Raises UnroutableError."""
        if wanted.smarthost is not None and wanted.type == "Smarthost":
            return _smarthost(wanted.smarthost)
        route = self._routes.get(domain)
        if route is not None and route.expires > self._clock():
            return route
        route = await self._find(domain)
        self._routes[domain] = route
        self._routes.move_to_end(domain)
        if len(self._routes) > _MAX_ROUTES:
            self._routes.popitem(last=False)
        return route

    async def site_of(self, domain: str) -> SiteInfo:
        """The site of a domain's MX; without hosts while it is not known, or where there are none."""
        try:
            route = await self.route(domain, config.Route())
        except UnroutableError as error:
            return SiteInfo(name=domain, unknown=error.reply if error.result == "deferred" else None)
        return SiteInfo(name=route.site, mx=tuple(host.name for host in route.hosts))

    async def _find(self, domain: str) -> Route:
        port = self._settings.remote_port
        if domain.startswith("["):
            host = Host(_literal(domain), literal=True)
            return Route(site=domain.lower(), hosts=(host,), port=port, expires=float("inf"))
        try:
            answer = await self._resolver.lookup(domain, "MX")
        except NoNameError:
            text = f"the domain {domain} does not exist; check the part after the @"
            raise UnroutableError("failed", _ours(550, "5.1.2", text)) from None
        except DnsTemporaryError as error:
            raise UnroutableError("deferred", _ours(451, "4.4.3", str(error))) from None
        hosts = self._hosts(domain, answer)
        return Route(site=site_name(hosts), hosts=hosts, port=port, expires=answer.expires)

    def _hosts(self, domain: str, answer: Answer) -> tuple[Host, ...]:
        if not answer.records:  # RFC 5321 5.1: the domain is its own MX
            hosts = [Host(domain)]
        else:
            names = [(preference, name) for preference, name in sorted(answer.records) if name]
            if not names:
                text = f"the domain {domain} says that it takes no mail (null MX)"
                raise UnroutableError("failed", _ours(556, "5.1.10", text))  # RFC 7505 3, 4.2
            # The DNS carries any octets; what is no host name is in no certificate, and breaks who takes it for one.
            hosts = [Host(name, preference) for preference, name in names if _HOST_NAME.match(name)]
            if not hosts:
                text = f"the MX of {domain} are no host names"
                raise UnroutableError("failed", _ours(550, "5.4.4", text))
        # RFC 5321 5.1: we are among them, so that whoever is not preferred to us would hand it back.
        ours = min((host.preference for host in hosts if host.name in self._own), default=None)
        if ours is not None:
            hosts = [host for host in hosts if host.preference < ours]
            if not hosts:
                raise UnroutableError("failed", loop_reply(f"the best MX of {domain} is this relay itself"))
        return tuple(hosts[:_MAX_HOSTS])

    async def candidates(
        self, route: Route, families: Sequence[IpFamily], penalised: frozenset[str]
    ) -> AsyncGenerator[tuple[Host, str] | UnroutableError, None]:
        """Each (host, address) to try, best first; an UnroutableError for each host without a usable one.

        Equal preferences are shuffled. `penalised` addresses, which failed a moment ago, come last: a dead best MX
        must not cost each connection its time-out.
        """
        later: list[tuple[Host, str]] = []
        levels = _by_preference(route.hosts)
        if not self._settings.own_addresses:  # nobody waits for the addresses of an equal that may not be needed
            levels = [[host] for level in levels for host in level]
        for equals in levels:
            found = await asyncio.gather(*(self._found(route, host, families) for host in equals))
            ourselves = next((item for item in found if isinstance(item, OurselvesError)), None)
            if ourselves is not None:
                yield ourselves
                break  # neither its equals nor whoever follows is preferred to us: RFC 5321 5.1
            for host, addresses in zip(equals, found, strict=True):
                if isinstance(addresses, UnroutableError):
                    yield addresses
                    continue
                for address in addresses:
                    if address in penalised:
                        later.append((host, address))
                    else:
                        yield host, address
        for candidate in later:
            yield candidate

    async def _found(self, route: Route, host: Host, families: Sequence[IpFamily]) -> list[str] | UnroutableError:
        try:
            return await self._addresses(route, host, families)
        except UnroutableError as error:
            return error

    async def _addresses(self, route: Route, host: Host, families: Sequence[IpFamily]) -> list[str]:
        if host.literal or _is_address(host.name):
            found = [host.name]
        else:
            found = await self._lookup(host.name, families)
        if self._settings.own_addresses.intersection(found):
            raise OurselvesError("failed", loop_reply(f"{host.name} is this relay itself"))
        usable: list[str] = []
        refused: list[str] = []
        for address in found:
            if address_allowed(address, private=self._settings.allow_private_mx or route.smarthost is not None):
                usable.append(address)
            else:
                refused.append(address)
        if usable:
            return usable
        text = f"{host.name} has only addresses to which no mail is sent from here ({', '.join(refused)})"
        raise UnroutableError("failed", _ours(550, "5.4.4", text))

    async def _lookup(self, name: str, families: Sequence[IpFamily]) -> list[str]:
        answers = await asyncio.gather(
            *(self._resolver.lookup(name, "AAAA" if family == "IPv6" else "A") for family in families),
            return_exceptions=True,
        )
        found: list[str] = []
        temporary: DnsError | None = None
        for answer in answers:
            if isinstance(answer, Answer):
                addresses = [address for _, address in answer.records]
                random.shuffle(addresses)
                found += addresses[:_MAX_ADDRESSES]
            elif isinstance(answer, DnsTemporaryError):
                temporary = answer
            elif not isinstance(answer, NoNameError):
                raise answer
        if found:
            return found
        if temporary is not None:
            raise UnroutableError("deferred", _ours(451, "4.4.3", str(temporary)))
        text = f"{name} has no {' or '.join(families)} address"
        raise UnroutableError("failed", _ours(550, "5.4.4", text))


def site_name(hosts: Sequence[Host]) -> str:
    """The name of the site that these hosts make: its best host, and a mark where there are several."""
    names = [f"{host.preference} {host.name}" for host in hosts]
    if len(names) == 1:
        return hosts[0].name
    return f"{hosts[0].name}~{hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]}"


def address_allowed(address: str, *, private: bool) -> bool:
    """Whether mail may be sent to this address; `private` allows loopback and private ranges.

    Without it an MX record would let a stranger reach services inside: loopback, private, link-local, carrier NAT, and
    what wraps such an IPv4 address in IPv6. Nothing is ever sent to multicast, broadcast or the unspecified address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return address_allowed(str(ip.ipv4_mapped), private=private)
        if ip in _NAT64:
            return address_allowed(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)), private=private)
        if ip.sixtofour is not None:
            return address_allowed(str(ip.sixtofour), private=private)
    if ip.is_multicast or ip.is_unspecified or ip == ipaddress.IPv4Address("255.255.255.255"):
        return False
    return private or ip.is_global


def loop_reply(text: str) -> Reply:
    """RFC 5321 6.3, RFC 3463 X.4.6."""
    return _ours(554, "5.4.6", f"mail loops back: {text}")


def _ours(code: int, enhanced: str, text: str) -> Reply:
    return Reply(code=code, enhanced=enhanced, text=text)


def _smarthost(smarthost: config.Smarthost) -> Route:
    name = smarthost.host.strip("[]").lower()
    host = Host(name, literal=_is_address(name))
    return Route(site=f"{name}:{smarthost.port}", hosts=(host,), port=smarthost.port, smarthost=smarthost)


def _literal(domain: str) -> str:
    """RFC 5321 4.1.3: the address in an address literal."""
    text = domain.strip("[]")
    if text.lower().startswith("ipv6:"):
        text = text[5:]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise UnroutableError("failed", _ours(550, "5.1.2", f"{domain} is not an address literal")) from None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _by_preference(hosts: tuple[Host, ...]) -> list[list[Host]]:
    """Hosts of equal preference together; RFC 5321 5.1: at random among themselves, which spreads the load."""
    levels = [list(level) for _, level in groupby(hosts, key=lambda host: host.preference)]
    for level in levels:
        random.shuffle(level)
    return levels
