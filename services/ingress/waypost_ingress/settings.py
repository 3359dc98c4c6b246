"""What the ingress can be told: `WAYPOST_...` environment variables, in addition to those of every service."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from waypost_runtime.settings import ServiceSettings

from .budget import STEP

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class IngressSettings(ServiceSettings):
    """A port of -1 leaves its listener out; 0 takes a free one."""

    host: str = Field("127.0.0.1", description="address that the three listeners bind")
    mx_port: int = Field(2525, ge=-1, le=65535, description="MX: mail from other servers and trusted networks")
    submission_port: int = Field(2587, ge=-1, le=65535, description="submission: AUTH after STARTTLS")
    submissions_port: int = Field(2465, ge=-1, le=65535, description="submissions: AUTH over implicit TLS")
    workers: int = Field(
        1, ge=1, le=64, description="processes on the same ports; worker i keeps to shard i mod shards"
    )

    tls_cert: Path | None = Field(None, description="PEM chain; re-read when it changes. Without one: no TLS, no AUTH")
    tls_key: Path | None = Field(None, description="PEM key; re-read when it changes")
    proxy_from: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="networks of proxies that send a PROXY header, separated by commas; nobody else may"
    )

    message_size: int = Field(25 << 20, ge=64 << 10, le=256 << 20, description="octets of a mail at most")
    recipients: int = Field(1000, ge=100, le=2000, description="recipients of a mail at most (RFC 5321 4.5.3.1.8: 100)")
    connections: int = Field(2000, ge=1, description="connections of a worker at most")
    connections_per_address: int = Field(
        200, ge=1, description="connections of a worker from one IPv4 address or IPv6 /64 at most"
    )
    hidden_peers_after: int = Field(
        200,
        ge=0,
        description="connections in an hour, all from one or two addresses, after which Network senders are not "
        "trusted, since a gateway hides who connects; loopback is exempt; 0 = never",
    )
    content_memory: int = Field(
        256 << 20, ge=1 << 20, description="octets of unfinished large mails that a worker holds at most, then 452"
    )
    recipients_per_minute: int | None = Field(None, ge=1, description="ceiling of every MailDomain")
    recipients_per_day: int | None = Field(None, ge=1, description="ceiling of every MailDomain")
    address_recipients_per_minute: int | None = Field(None, ge=1, description="ceiling of every sender address")

    command_timeout: float = Field(300.0, gt=0, description="s for a command to arrive whole (RFC 5321 4.5.3.2.7)")
    data_timeout: float = Field(180.0, gt=0, description="s that DATA may stand still (RFC 5321 4.5.3.2.5)")
    data_rate: int = Field(500, ge=1, description="octets/s that DATA must make on average beyond data_timeout")
    tls_timeout: float = Field(30.0, gt=0, description="s for a TLS handshake")
    proxy_timeout: float = Field(1.0, gt=0, description="s after which a listed proxy without a header is greeted")
    greet_delay: float = Field(
        0.2, ge=0, description="s before a stranger on the MX port is greeted; who talks earlier is no mail server"
    )
    drain_timeout: float = Field(25.0, gt=0, le=600, description="s for DATA in flight to finish after SIGTERM")

    worker: int = Field(-1, description="set by the supervisor: the number of this worker")
    listen_fds: str = Field("", description="set by the supervisor: listening sockets to take over, kind=number,...")
    parent_fd: int = Field(-1, description="set by the supervisor: a pipe that ends with it")

    @field_validator("proxy_from", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _room_for_the_largest(self) -> "IngressSettings":
        needed = 2 * self.message_size + STEP  # budget.py: as it came, and as it is stored
        if self.content_memory < needed:
            raise ValueError(
                f"content_memory ({self.content_memory}) has no room for one mail of message_size "
                f"({self.message_size}), which would get a 452 for ever; it must be {needed} or more"
            )
        return self
