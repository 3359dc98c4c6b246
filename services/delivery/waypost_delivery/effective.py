"""What applies to one group: its MailDomain's settings, overridden by the DestinationPolicy of its destination. Pure.

Of several policies the most specific decides alone, field by field: exact domain > mx > `*.domain` > the policy named
"default". Among equals the longer pattern, then the name, so that every pod decides alike (of true equals all but the
oldest are `Shadowed`, and don't come here).
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from waypost_queue.config import DestinationConfig, DomainConfig, Retry, RetryOverride, Smarthost, Snapshot
from waypost_queue.model import Mail

from .transport import DeliveryPlan, IpFamily

DEFAULT_POLICY = "default"
MAX_MERGED = 20_000  # pairs kept ready

# RFC 6761 6.2 to 6.5: names that can't be in the public DNS. example.com and its like are real zones and go their way.
RESERVED = frozenset({"test", "example", "invalid", "localhost"})


class Effective(Struct, frozen=True, kw_only=True):
    """What applies: `plan` without its password, whose key in the bucket `keys` is `secret` ("" = none needed)."""

    plan: DeliveryPlan
    retry: Retry
    pool: str
    secret: str = ""


class PolicyIndex:
    """Policies by what they match; built once per configuration."""

    def __init__(self, policies: Mapping[str, DestinationConfig]) -> None:
        self._exact: dict[str, DestinationConfig] = {}
        self._below: dict[str, DestinationConfig] = {}
        self._mx_exact: dict[str, DestinationConfig] = {}
        self._mx_below: dict[str, DestinationConfig] = {}
        self._default = policies.get(DEFAULT_POLICY)
        for name in sorted(policies):
            policy = policies[name]
            _place(policy, policy.domains, self._exact, self._below)
            _place(policy, policy.mx, self._mx_exact, self._mx_below)

    def needs_mx(self, domain: str) -> bool:
        """Whether the answer for `domain` depends on its MX hosts."""
        return bool(self._mx_exact or self._mx_below) and domain not in self._exact

    def find(self, domain: str, mx: Iterable[str] = ()) -> DestinationConfig | None:
        """The policy of a destination domain whose mail goes to the hosts `mx`; None: no policy says anything."""
        found = self._exact.get(domain)
        if found is not None:
            return found
        hosts = [host.lower().rstrip(".") for host in mx]
        for host in hosts:
            found = self._mx_exact.get(host)
            if found is not None:
                return found
        matches = [match for host in hosts if (match := _longest(self._mx_below, host)) is not None]
        if matches:
            return max(matches)[2]
        below = _longest(self._below, domain)
        return below[2] if below is not None else self._default


def _place(
    policy: DestinationConfig,
    patterns: tuple[str, ...],
    exact: dict[str, DestinationConfig],
    below: dict[str, DestinationConfig],
) -> None:
    for pattern in patterns:
        text = pattern.lower().rstrip(".")
        if text.startswith("*."):
            below.setdefault(text[2:], policy)
        elif text == "*":
            below.setdefault("", policy)
        else:
            exact.setdefault(text, policy)


def _longest(below: Mapping[str, DestinationConfig], name: str) -> tuple[int, str, DestinationConfig] | None:
    """The longest `*.suffix` that `name` is truly below, as (length, suffix, policy)."""
    if name.startswith("["):  # an address literal is below nothing but `*`
        return (0, "", below[""]) if "" in below else None
    rest = name if below else ""
    while rest:
        _, _, rest = rest.partition(".")
        if rest in below:
            return len(rest), rest, below[rest]
    return None


def merge(domain: DomainConfig, policy: DestinationConfig | None) -> Effective:
    """The settings of `domain` with what `policy` says instead."""
    if policy is None:
        return Effective(
            plan=DeliveryPlan(route=domain.route, tls=domain.tls),
            retry=domain.retry,
            pool=domain.pool,
            secret=_secret(domain.route.smarthost),
        )
    route = policy.route or domain.route
    plan = DeliveryPlan(
        route=route,
        tls=policy.tls or domain.tls,
        ip_families=_families(policy),
        limits=policy.limits,
    )
    return Effective(
        plan=plan,
        retry=_override(domain.retry, policy.retry),
        pool=policy.pool or domain.pool,
        secret=_secret(route.smarthost),
    )


def _secret(smarthost: Smarthost | None) -> str:
    return smarthost.secret if smarthost is not None else ""


def _families(policy: DestinationConfig) -> tuple[IpFamily, ...]:
    """Those allowed, IPv6 first: RFC 8305's order, with IPv4 as the fallback."""
    allowed = policy.ip_families
    return tuple(family for family in DeliveryPlan().ip_families if not allowed or family in allowed)


def _override(base: Retry, over: RetryOverride) -> Retry:
    """Each field of the policy that is set; what then contradicts gives way to the longer time, never to a shorter."""
    initial = base.initial if over.initial is None else over.initial
    longest = max(initial, base.max if over.max is None else over.max)
    expire = base.expire_after if over.expire_after is None else over.expire_after
    notify = base.notify_delay_after if over.notify_delay_after is None else over.notify_delay_after
    return Retry(initial=initial, max=longest, expire_after=expire, notify_delay_after=notify)


def reserved(domain: str) -> bool:
    """Whether RFC 6761 keeps `domain` out of the public DNS: .test, .example, .invalid, .localhost."""
    return domain.rpartition(".")[2] in RESERVED


class Configured:
    """A configuration snapshot as delivery asks it. What applies to a (MailDomain, policy) pair is made once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.policies = PolicyIndex(snapshot.policies)
        self._merged: dict[tuple[str, str], Effective] = {}

    def domain(self, mail: Mail) -> DomainConfig:
        """The MailDomain that governs `mail`: a deleted one's last settings, the defaults for one that nobody knows."""
        found = self.snapshot.domains.get(mail.domain)
        return found if found is not None else DomainConfig(domain=mail.domain, namespace=mail.tenant)

    def effective(self, domain: DomainConfig, policy: DestinationConfig | None) -> Effective:
        key = (domain.domain, policy.name if policy is not None else "")
        found = self._merged.get(key)
        if found is None:
            if len(self._merged) >= MAX_MERGED:
                self._merged.clear()
            found = self._merged[key] = merge(domain, policy)
        return found
