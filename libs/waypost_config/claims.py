"""Who holds a domain: delegation by the namespace's annotation, then the oldest claim."""

import math
from collections.abc import Iterator

import msgspec

from .manifests import Manifests
from .resources import DOMAINS_ANNOTATION, POOLS_ANNOTATION, MailDomain, Namespace
from .status import Fact, rfc3339

_DEFAULT_POOL = "default"


class Claim(msgspec.Struct, frozen=True):
    """A MailDomain, and why it is not accepted, if it is not."""

    resource: MailDomain
    refusal: Fact | None


def judge(manifests: Manifests, *, delegated_only: bool) -> Iterator[Claim]:
    """Every MailDomain once. Of two claims the older holds: creation time, then namespace and name."""
    holders: dict[str, MailDomain] = {}
    namespaces = {key.name: namespace for key, namespace in manifests.namespaces.items()}
    for resource in sorted(manifests.domains.values(), key=_age):
        domain, namespace = resource.spec.domain, resource.meta.key.namespace
        home = namespaces.get(namespace)
        refusal: Fact | None = None
        allowed = _listed(home, DOMAINS_ANNOTATION) or ()
        if delegated_only and not _delegated(domain, allowed):
            text = (
                f"namespace {namespace} may not claim {domain}; it is delegated [{', '.join(allowed)}]; "
                f"ask a cluster admin to add it to the annotation {DOMAINS_ANNOTATION} of the namespace"
            )
            refusal = Fact("Accepted", "False", "DomainNotDelegated", text)
        elif domain in holders:
            refusal = Fact("Accepted", "False", "DomainConflict", _conflict(domain, holders[domain]))
        else:
            holders[domain] = resource
            refusal = _pool(resource, _listed(home, POOLS_ANNOTATION), delegated_only)
        yield Claim(resource, refusal)


def _age(resource: MailDomain) -> tuple[float, str, str]:
    meta = resource.meta
    return (meta.created if meta.created is not None else math.inf, meta.key.namespace, meta.key.name)


def _listed(namespace: Namespace | None, annotation: str) -> tuple[str, ...] | None:
    """The parts of a comma-separated annotation; None when it is not there."""
    if namespace is None or annotation not in namespace.meta.annotations:
        return None
    return tuple(part.strip() for part in namespace.meta.annotations[annotation].split(",") if part.strip())


def _delegated(domain: str, allowed: tuple[str, ...]) -> bool:
    return any(domain == part or (part.startswith("*.") and domain.endswith(part[1:])) for part in allowed)


def _conflict(domain: str, holder: MailDomain) -> str:
    place = f"{holder.meta.key.namespace}/{holder.meta.key.name}"
    age = f" ({rfc3339(holder.meta.created)[:10]}, older)" if holder.meta.created is not None else ""
    advice = f"Delete one, or have {place} list your ServiceAccount under senders."
    return f"{domain} is held by MailDomain {place}{age}. {advice}"


def _pool(resource: MailDomain, allowed: tuple[str, ...] | None, delegated_only: bool) -> Fact | None:
    pool = resource.spec.outbound.pool
    if pool == _DEFAULT_POOL or (allowed is None and not delegated_only) or pool in (allowed or ()):
        return None
    namespace = resource.meta.key.namespace
    text = (
        f"namespace {namespace} may not use pool {pool}; it may use [{', '.join((_DEFAULT_POOL, *(allowed or ())))}]; "
        f"ask a cluster admin to add it to the annotation {POOLS_ANNOTATION} of the namespace"
    )
    return Fact("Accepted", "False", "PoolNotAllowed", text)
