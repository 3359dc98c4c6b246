"""DestinationPolicy: shaping, TLS floor and route towards destinations.

No field but `state` and `limits.adaptive` has a default: one would be filled in, and overrule every MailDomain.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from .common import DomainGlob, Label, RetryOverride, Route, TlsFloor
from .schema import Items, Model, Number, Path, Rule

DEFAULT_POLICY = "default"
"""The policy of this name is for all destinations that no other one matches."""


class Match(Model, frozen=True):
    domains: Annotated[tuple[DomainGlob, ...], Items(max=64, min=1, kind="set")] | None = None
    mx: Annotated[tuple[DomainGlob, ...], Items(max=64, min=1, kind="set")] | None = None

    RULES = (
        Rule(
            cel="has(self.domains) || has(self.mx)",
            message="domains or mx is required",
            mirror=lambda self: None if "domains" in self or "mx" in self else (),
        ),
    )


class DestinationLimits(Model, frozen=True):
    connections: Annotated[int, Number(min=1, max=10_000)] | None = None
    messages_per_connection: Annotated[int, Number(min=1, max=10_000)] | None = None
    messages_per_minute: Annotated[int, Number(min=1, max=1_000_000)] | None = None
    recipients_per_message: Annotated[int, Number(min=1, max=1000)] | None = None
    adaptive: Literal["Enabled", "Disabled"] = "Enabled"


class DestinationPolicySpec(Model, frozen=True):
    match: Match | None = None
    state: Literal["Active", "Suspended"] = "Active"
    limits: DestinationLimits = DestinationLimits()
    tls: TlsFloor | None = None
    ip_families: Annotated[tuple[Literal["IPv4", "IPv6"], ...], Items(max=2, min=1, kind="set")] | None = None
    pool: Label | None = None
    retry: RetryOverride | None = None
    route: Route | None = None


def _match_or_default(self: Mapping[str, Any]) -> Path | None:
    return None if (self["metadata"]["name"] == DEFAULT_POLICY) != ("match" in self["spec"]) else ("spec", "match")


ROOT_RULES = (
    Rule(
        cel=f"(self.metadata.name == '{DEFAULT_POLICY}') != has(self.spec.match)",
        message=f"match is required; only the policy named {DEFAULT_POLICY} goes without, since it is for all the rest",
        mirror=_match_or_default,
    ),
)
