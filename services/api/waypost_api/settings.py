"""Settings of the API service."""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from waypost_runtime.settings import ServiceSettings


class ApiSettings(ServiceSettings):
    """`http_host` and `http_port` are where the API itself listens; health and metrics are routes of it."""

    http_port: int = Field(8080, ge=0, le=65535)
    history_url: str = Field(
        "sqlite:///history.db", description="SQLAlchemy URL; a projection of EVENTS, rebuilt if deleted"
    )
    history_days: int = Field(30, ge=1, le=3650, description="older history is deleted")
    api_tokens: Annotated[dict[str, SecretStr], NoDecode] = Field(
        default_factory=dict, description="name=token pairs, separated by commas; the name is noted with each action"
    )
    allow_anonymous: bool = Field(False, description="no token asked; for loopback only")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        ("localhost", "127.0.0.1", "[::1]"), description="Host headers answered to the anonymous (DNS rebinding)"
    )

    @field_validator("api_tokens", mode="before")
    @classmethod
    def _tokens(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not name.strip() or len(token) < 16 for name, _, token in pairs):
            raise ValueError("WAYPOST_API_TOKENS must be name=token pairs, each token of 16 characters or more")
        return {name.strip(): SecretStr(token.strip()) for name, _, token in pairs}

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _someone_may_call(self) -> "ApiSettings":
        if not self.allow_anonymous and not self.api_tokens:
            raise ValueError(
                "set WAYPOST_API_TOKENS (name=token,...), or WAYPOST_ALLOW_ANONYMOUS=true for an API on loopback"
            )
        return self
