"""Lookups that the decisions need, built once for each configuration snapshot, so that a mail costs a few microseconds.

index = ConfigIndex(snapshot)             # again whenever the configuration changes
identity = index.network("127.0.0.1")     # at connection: a trusted network, or None
rights = index.rights(identity)           # what it may send as; kept
"""

import ipaddress
from typing import Final

from msgspec import Struct

from waypost_queue.config import CredentialConfig, DomainConfig, Limits, Sender, Snapshot

from .addresses import Address
from .identity import Identity
from .limits import Scope
from .patterns import Pattern, compile_patterns

_MAX_CACHED: Final = 8192  # identities and peers remembered; then all are forgotten


class Ceilings(Struct, frozen=True):
    """What no MailDomain exceeds, and what one without limits has. None = no ceiling."""

    message_size: int = 25 * 1024 * 1024  # octets
    recipients_per_message: int = 1000
    recipients_per_minute: int | None = None  # of a domain
    recipients_per_day: int | None = None  # of a domain
    address_recipients_per_minute: int | None = None  # of one reverse-path


class Right(Struct, frozen=True):
    """One sender entry of one MailDomain that an identity is a subject of, with all that follows from it."""

    domain: DomainConfig
    sender: Sender
    pattern: Pattern
    scopes: tuple[Scope, ...]
    message_size: int  # octets, the least that applies
    size_of: str  # whose limit that is, for people
    recipients_per_message: int
    recipients_of: str


class Rights:
    """All that one identity may send as."""

    __slots__ = ("_by_domain", "all", "allowed")

    def __init__(self, rights: list[Right]) -> None:
        self.all: tuple[Right, ...] = tuple(rights)
        self._by_domain: dict[str, tuple[Right, ...]] = {}
        for right in rights:
            name = right.domain.domain
            self._by_domain[name] = (*self._by_domain.get(name, ()), right)
        shown = dict.fromkeys(text for right in rights for text in right.pattern.texts)
        self.allowed: str = ", ".join(shown) or "no address"
        """The address patterns, for people."""

    def find(self, address: Address) -> Right | None:
        """The first entry that allows `address`, or None."""
        for right in self._by_domain.get(address.domain, ()):
            if right.pattern.matches(address.local):
                return right
        return None


NO_RIGHTS: Final = Rights([])


class ConfigIndex:
    """One snapshot, ready to be asked."""

    def __init__(self, snapshot: Snapshot, ceilings: Ceilings | None = None) -> None:
        self.snapshot = snapshot
        self.ceilings = ceilings or Ceilings()
        self._rights: dict[Identity, Rights] = {}
        self._peers: dict[str, Identity | None] = {}
        self._secrets: dict[tuple[str, str], list[tuple[DomainConfig, Sender]]] = {}
        self._accounts: dict[tuple[str, str], list[tuple[DomainConfig, Sender]]] = {}
        self._namespaces: dict[str, list[tuple[DomainConfig, Sender]]] = {}
        self._networks: dict[tuple[int, int], dict[int, list[tuple[DomainConfig, Sender]]]] = {}
        for domain in snapshot.domains.values():
            if domain.deleted:  # what is queued goes on with its settings; new mail is refused
                continue
            for sender in domain.senders:
                self._add(domain, sender)

    def _add(self, domain: DomainConfig, sender: Sender) -> None:
        entry = (domain, sender)
        for subject in sender.subjects:
            match subject.kind:
                case "Secret":  # of the MailDomain's own namespace alone, whatever the subject says
                    self._secrets.setdefault((domain.namespace, subject.name), []).append(entry)
                case "ServiceAccount":
                    account = (subject.namespace or domain.namespace, subject.name)
                    self._accounts.setdefault(account, []).append(entry)
                case "Namespaces":
                    for namespace in subject.namespaces:
                        self._namespaces.setdefault(namespace, []).append(entry)
                case "Network":
                    network = ipaddress.ip_network(subject.cidr, strict=False)
                    group = self._networks.setdefault((network.version, network.prefixlen), {})
                    group.setdefault(int(network.network_address), []).append(entry)

    def credential(self, username: str) -> CredentialConfig | None:
        """The login of that name, in any case; None also when its domain has gone."""
        credential = self.snapshot.credentials.get(username.lower())
        if credential is None:
            return None
        domain = self.snapshot.domains.get(credential.domain)
        return None if domain is None or domain.deleted else credential

    def network(self, address: str) -> Identity | None:
        """The identity of a peer whose address a Network sender lists, or None."""
        if not self._networks:
            return None
        try:
            return self._peers[address]
        except KeyError:
            pass
        peer = canonical_address(address)
        identity = Identity("Network", peer) if peer and self._entries_of_peer(peer) else None
        if len(self._peers) >= _MAX_CACHED:
            self._peers.clear()
        self._peers[address] = identity
        return identity

    def rights(self, identity: Identity) -> Rights:
        """What an identity may send as; kept for as long as the snapshot."""
        rights = self._rights.get(identity)
        if rights is None:
            entries = self._entries(identity)
            rights = Rights([self._right(identity, *entry) for entry in entries]) if entries else NO_RIGHTS
            if len(self._rights) >= _MAX_CACHED:
                self._rights.clear()
            self._rights[identity] = rights
        return rights

    def _entries(self, identity: Identity) -> list[tuple[DomainConfig, Sender]]:
        match identity.kind:
            case "Secret":
                if self.credential(identity.name) is None:  # revoked since the session logged in
                    return []
                found = self._secrets.get((identity.namespace, identity.account), [])
            case "ServiceAccount":
                found = [
                    *self._accounts.get((identity.namespace, identity.account), []),
                    *self._namespaces.get(identity.namespace, []),
                ]
            case "Network":
                found = self._entries_of_peer(identity.name)
        unique = {(domain.domain, sender.name): (domain, sender) for domain, sender in found}
        return list(unique.values())

    def _entries_of_peer(self, peer: str) -> list[tuple[DomainConfig, Sender]]:
        address = ipaddress.ip_address(peer)
        number, bits = int(address), address.max_prefixlen
        found: list[tuple[DomainConfig, Sender]] = []
        for (version, length), group in self._networks.items():
            if version == address.version:
                shift = bits - length
                found += group.get(number >> shift << shift, ())
        return found

    def _right(self, identity: Identity, domain: DomainConfig, sender: Sender) -> Right:
        ceilings = self.ceilings
        of_sender = f'of sender "{sender.name}" of {domain.domain}'
        of_domain = f"of {domain.domain}"
        size, size_of = _least(
            (ceilings.message_size, "of this server"),
            (domain.limits.message_size, of_domain),
            (sender.limits.message_size, of_sender),
        )
        recipients, recipients_of = _least(
            (ceilings.recipients_per_message, "of this server"),
            (domain.limits.recipients_per_message, of_domain),
            (sender.limits.recipients_per_message, of_sender),
        )
        return Right(
            domain,
            sender,
            compile_patterns(sender.addresses, identity),
            self._scopes(identity, domain, sender, of_domain, of_sender),
            size,
            size_of,
            recipients,
            recipients_of,
        )

    def _scopes(
        self, identity: Identity, domain: DomainConfig, sender: Sender, of_domain: str, of_sender: str
    ) -> tuple[Scope, ...]:
        """The sender's limits count for each of its credentials, and for its networks as one; then the domain's."""
        of = f"{domain.domain}/{sender.name}"
        key = f"network:{of}" if identity.kind == "Network" else f"credential:{identity.name}:{of}"
        ceilings = self.ceilings
        whole = Limits(
            recipients_per_minute=_lower(domain.limits.recipients_per_minute, ceilings.recipients_per_minute),
            recipients_per_day=_lower(domain.limits.recipients_per_day, ceilings.recipients_per_day),
        )
        scopes = (
            _scope(key, identity.label, of_sender, sender.limits),
            _scope(f"domain:{domain.domain}", domain.domain, of_domain, whole),
        )
        return tuple(scope for scope in scopes if scope.per_minute is not None or scope.per_day is not None)


def canonical_address(address: str) -> str:
    """An IP address as text, an IPv4-mapped IPv6 address being the IPv4 one; "" for what is none."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _scope(key: str, who: str, of: str, limits: Limits) -> Scope:
    return Scope(key, who, of, limits.recipients_per_minute, limits.recipients_per_day)


def _least(first: tuple[int, str], *others: tuple[int | None, str]) -> tuple[int, str]:
    """The lowest of the limits that are set, and whose it is."""
    least = first
    for limit, of in others:
        if limit is not None and limit < least[0]:
            least = (limit, of)
    return least


def _lower(first: int | None, second: int | None) -> int | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
