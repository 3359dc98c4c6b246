"""Lookups that the decisions need, built once for each configuration snapshot, so that a mail costs a few microseconds.

index = ConfigIndex(snapshot)             # again whenever the configuration changes
identity = index.network("127.0.0.1")     # at connection: a trusted network, or None
rights = index.rights(identity)           # what it may send as; cached
"""

from msgspec import Struct
from waypost_queue.config import CredentialConfig, DomainConfig, Limits, Sender, Snapshot

from .addresses import Address
from .identity import Identity


class Ceilings(Struct, frozen=True):
    """What no MailDomain can exceed (settings of the ingress). None = no ceiling."""

    message_size: int = 25 * 1024 * 1024  # octets
    recipients_per_message: int = 1000
    recipients_per_minute: int | None = None  # of a domain
    recipients_per_day: int | None = None  # of a domain
    address_recipients_per_minute: int | None = None  # of one reverse-path


class Right(Struct, frozen=True):
    """One sender entry of one MailDomain that an identity is a subject of."""

    domain: DomainConfig
    sender: Sender


class Rights:
    """All that one identity may send as."""

    def find(self, address: Address) -> Right | None:
        """The entry that allows `address`, or None."""
        raise NotImplementedError

    @property
    def allowed(self) -> str:
        """The address patterns, for people: "*@example.com, app@example.net", "nothing" if there are none."""
        raise NotImplementedError


class ConfigIndex:
    """One snapshot, ready to be asked."""

    def __init__(self, snapshot: Snapshot, ceilings: Ceilings = Ceilings()) -> None:
        self.snapshot = snapshot
        self.ceilings = ceilings

    def credential(self, username: str) -> CredentialConfig | None:
        """The login of that name, in any case; None also when its domain has gone."""
        raise NotImplementedError

    def network(self, address: str) -> Identity | None:
        """The identity of a peer whose address a Network sender lists, or None."""
        raise NotImplementedError

    def rights(self, identity: Identity) -> Rights:
        """What an identity may send as."""
        raise NotImplementedError
