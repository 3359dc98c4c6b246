"""Which DestinationPolicy a pattern belongs to when several name it."""

import math
from collections.abc import Iterable, Iterator

from .resources import DestinationPolicy


def shadows(policies: Iterable[DestinationPolicy]) -> Iterator[tuple[DestinationPolicy, dict[str, str]]]:
    """Each policy, the older first, with those of its patterns that an older one has: pattern -> that one's name.

    A pattern for MX names is written `mx <pattern>`.
    """
    owners: dict[str, str] = {}
    for policy in sorted(policies, key=_age):
        match = policy.spec.match
        patterns = [] if match is None else [*(match.domains or ()), *(f"mx {name}" for name in match.mx or ())]
        yield policy, {pattern: owners[pattern] for pattern in patterns if pattern in owners}
        for pattern in patterns:
            owners.setdefault(pattern, policy.meta.key.name)


def _age(policy: DestinationPolicy) -> tuple[float, str]:
    meta = policy.meta
    return (meta.created if meta.created is not None else math.inf, meta.key.name)
