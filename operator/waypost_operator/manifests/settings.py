"""What the service can be told."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from waypost_runtime.settings import ServiceSettings

from .overrides import SecretOverride, ServiceOverride, secret_override, service_override


class ManifestsSettings(ServiceSettings):
    """`WAYPOST_MANIFESTS` and its companions."""

    manifests: str = Field("", min_length=1, description="a folder or file of manifests, watched; - reads stdin once")
    secret_overrides: Annotated[tuple[SecretOverride, ...], NoDecode] = Field(
        (), description="NS/NAME=KEY=@FILE, one a line: values over those of the manifests"
    )
    service_overrides: Annotated[tuple[ServiceOverride, ...], NoDecode] = Field(
        (), description="NS/NAME=HOST:PORT, one a line: where a Service is"
    )
    seal_key_file: Path | None = Field(None, description="seals smarthost passwords; by default under the data folder")
    submission_host: str = Field("127.0.0.1", description="written into the credential Secrets that are made")
    submission_port: int = Field(2587, ge=1, le=65535)
    ca_file: Path | None = Field(None, description="PEM, written into the credential Secrets that are made")
    tenancy: Literal["Open", "Delegated"] = "Open"
    release_namespace: str = Field("default", description="where the Secrets of DestinationPolicies are")

    @field_validator("secret_overrides", mode="before")
    @classmethod
    def _secrets(cls, value: object) -> object:
        return tuple(secret_override(line) for line in _lines(value)) if isinstance(value, str) else value

    @field_validator("service_overrides", mode="before")
    @classmethod
    def _services(cls, value: object) -> object:
        return tuple(service_override(line) for line in _lines(value)) if isinstance(value, str) else value

    @property
    def seal_key(self) -> Path:
        return self.seal_key_file or self.data_dir / "keys" / "seal.key"

    @property
    def secrets_dir(self) -> Path:
        """Where the Secrets lie that the operator would create."""
        return self.data_dir / "secrets"


def _lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip()]
