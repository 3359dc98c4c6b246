"""What every service can be told, as environment variables `WAYPOST_...`."""

import os
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _instance() -> str:
    return f"{socket.gethostname().split('.')[0]}-{os.getpid()}"


class ServiceSettings(BaseSettings):
    """Common settings; each service adds its own. Secrets are `SecretStr`: they print as asterisks."""

    model_config = SettingsConfigDict(env_prefix="WAYPOST_", extra="ignore", frozen=True)

    nats_url: str = Field("nats://127.0.0.1:4222", description="NATS servers, separated by commas")
    nats_user: str = ""
    nats_password: SecretStr | None = None
    nats_credentials: Path | None = Field(None, description="a NATS .creds file, instead of user and password")
    nats_inbox_prefix: str = Field("", description='reply subjects; "" = _INBOX_<service>, or _INBOX without a user')
    nats_system_user: str = Field("", description="user of the system account, to read the durability setting")
    nats_system_password: SecretStr | None = None
    allow_weak_durability: bool = Field(
        False,
        description="accept NATS without `sync_interval: always`: a power cut then loses mail that got its 250",
    )

    shards: int = Field(1, ge=1, le=16)
    pools: Annotated[tuple[str, ...], NoDecode] = ("default",)
    replicas: Literal[1, 3, 5] = 1
    store_bytes: int = Field(
        8 << 30, ge=64 << 20, description="octets of JetStream's file store, split among the streams"
    )

    instance: str = Field(default_factory=_instance, max_length=128)
    hostname: str = Field(default_factory=socket.getfqdn, description="EHLO name, banner and Received")
    data_dir: Path = Path("data")

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    http_host: str = "127.0.0.1"
    http_port: int = Field(0, ge=0, le=65535, description="/livez /readyz /metrics; 0 = a free port")

    @field_validator("pools", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def nats_servers(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.nats_url.split(",") if part.strip())
