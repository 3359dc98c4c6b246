"""What delivery can be told: `WAYPOST_...` environment variables, in addition to those of every service."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from waypost_runtime.settings import ServiceSettings

from .transport import TransportSettings

Address = tuple[str, int]


class DeliverySettings(ServiceSettings):
    """A process serves one pool: a source identity of its own."""

    pool: str = Field("default", description="the pool that this process delivers for; one of `pools`")

    dns: Annotated[tuple[Address, ...], NoDecode] = Field(
        (), description="resolvers HOST:PORT, separated by commas; none = those of the system"
    )
    remote_port: int = Field(25, ge=1, le=65535, description="port of every MX; another than 25 is for laboratories")
    allow_private_mx: bool = Field(
        False, description="deliver to MX at loopback, private and link-local addresses: laboratories only"
    )
    own_names: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="further host names of this relay, separated by commas: mail for them would loop"
    )
    own_addresses: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="addresses of this relay as the world sees them, separated by commas"
    )
    ca_file: Path | None = Field(None, description="further trusted CAs (PEM), for smarthosts")
    seal_key_file: Path | None = Field(
        None, description="key that opens smarthosts' passwords; default: keys/seal.key in data_dir"
    )

    inbox_catch_all: bool = Field(False, description="keep all mail inside, in the inbox: for a laptop")
    inbox_reserved_names: bool = Field(
        True, description="keep mail to .test, .example, .invalid and .localhost (RFC 6761) in the inbox"
    )

    connections: int = Field(2000, ge=1, description="connections open at once, over all sites")
    site_connections: int = Field(20, ge=1, description="connections to a site where no policy says otherwise")
    bundles: int = Field(64, ge=1, description="bundles in hand, each of at most 64 mails and 1 MiB")
    tickets: int = Field(512, ge=1, description="retries in hand")
    drain_timeout: float = Field(
        25.0, gt=0, le=1800, description="s for attempts under way to finish after SIGTERM; the rest is tried again"
    )

    @field_validator("dns", mode="before")
    @classmethod
    def _servers(cls, value: object) -> object:
        return tuple(_address(part) for part in _parts(value)) if isinstance(value, str) else value

    @field_validator("own_names", "own_addresses", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(part.lower() for part in _parts(value)) if isinstance(value, str) else value

    @field_validator("pool")
    @classmethod
    def _known_pool(cls, value: str, info: ValidationInfo) -> str:
        pools = info.data.get("pools", (value,))
        if value not in pools:
            raise ValueError(f"{value!r} is not one of pools ({', '.join(pools)})")
        return value

    @property
    def seal_key(self) -> Path:
        return self.seal_key_file or self.data_dir / "keys" / "seal.key"

    @property
    def transport(self) -> TransportSettings:
        return TransportSettings(
            hostname=self.hostname,
            dns=self.dns,
            remote_port=self.remote_port,
            allow_private_mx=self.allow_private_mx,
            own_names=frozenset(self.own_names),
            own_addresses=frozenset(self.own_addresses),
            ca_file=str(self.ca_file) if self.ca_file is not None else "",
            max_connections=self.connections,
            site_connections=self.site_connections,
        )


def _parts(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _address(text: str) -> Address:
    """`HOST`, `HOST:PORT` or `[IPV6]:PORT`; the port is 53 if none is given."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no resolver: it should be HOST:PORT, such as 127.0.0.1:53 or [::1]:53")
    return host, int(port)
