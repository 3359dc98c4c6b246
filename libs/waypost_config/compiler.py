"""Resources to the configuration that services use, and to the facts about each resource: one pure function.

What can't be put into force leaves its previous value there, and a condition says why. The folder shell and the
cluster's operator share it, so that `kubectl get md` and `waypost get md` say the same.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from waypost_queue import config

from .claims import Claim, judge
from .credentials import WantedSecret
from .manifests import Manifests, Problem
from .outbound import Passwords, limits, retry, retry_override, route
from .policies import shadows
from .resources import DestinationPolicy, Key, MailDomain
from .senders import Senders, compile_senders
from .status import Fact

HashPassword = Callable[[str, str], str]
"""(user name, password) -> an Argon2id or scrypt encoded string; the same one for the same login, if it can."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the whole installation says."""

    pools: tuple[str, ...] = ()  # that exist; () = not known, and not checked
    tenancy: Literal["Open", "Delegated"] = "Open"
    release_namespace: str = "default"  # where DestinationPolicies' Secrets are
    jwks: str = ""
    issuer: str = ""


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """`keys` are plain secrets by their name in the bucket `keys`: to be sealed, and shown to nobody."""

    snapshot: config.Snapshot
    facts: dict[Key, tuple[Fact, ...]]
    wanted_secrets: tuple[WantedSecret, ...]
    keys: dict[str, str]
    problems: list[Problem]

    def __repr__(self) -> str:
        return f"Compiled({len(self.snapshot.domains)} domains, {len(self.keys)} keys)"


def compile_manifests(
    manifests: Manifests,
    *,
    settings: Settings,
    hash_password: HashPassword,
    previous: config.Snapshot | None = None,
) -> Compiled:
    """The configuration of all resources together, on top of the one in force (`previous`).

    `problems` are what `waypost check` reports beyond single objects: each condition that is not True, at its object.
    """
    work = _Compilation(manifests, settings, hash_password, previous or config.Snapshot())
    for claim in judge(manifests, delegated_only=settings.tenancy == "Delegated"):
        work.domain(claim)
    work.all_policies()
    return work.result()


class _Compilation:
    def __init__(
        self, manifests: Manifests, settings: Settings, hash_password: HashPassword, previous: config.Snapshot
    ) -> None:
        self._manifests = manifests
        self._settings = settings
        self._hash = hash_password
        self._previous = previous
        self._passwords = Passwords(manifests, self._previous)
        self._domains: dict[str, config.DomainConfig] = {}
        self._credentials: dict[str, config.CredentialConfig] = {}
        self._policies: dict[str, config.DestinationConfig] = {}
        self._facts: dict[Key, tuple[Fact, ...]] = {}
        self._wanted: dict[Key, WantedSecret] = {}

    def domain(self, claim: Claim) -> None:
        """One MailDomain: its facts, and its configuration if the claim holds."""
        resource, name = claim.resource, claim.resource.spec.domain
        key = resource.meta.key
        if claim.refusal is not None:
            refusal = claim.refusal
            if refusal.reason == "PoolNotAllowed":
                refusal = self._keep_pool(resource, refusal)
            self._facts[key] = (refusal, Fact("Programmed", "False", "Invalid", refusal.message))
            return
        senders = compile_senders(resource, self._manifests, self._previous, self._hash)
        for wanted in senders.wanted:
            self._wanted.setdefault(wanted.key, wanted)
        accepted = Fact("Accepted", "True", "Accepted", "")
        pool = resource.spec.outbound.pool
        if self._settings.pools and pool not in self._settings.pools:
            have = ", ".join(self._settings.pools)
            text = f"Pool {pool} does not exist; there is {have}."
            kept = self._previous.domains.get(name)
            if kept is not None and not kept.deleted and kept.namespace == key.namespace:
                self._domains[name] = kept
                self._keep_credentials(name)
                text += f" Generation {kept.generation} stays in force."
            missing = Fact("OutboundReady", "False", "PoolNotFound", text)
            self._facts[key] = (
                accepted,
                senders.fact,
                missing,
                Fact("Programmed", "False", "Invalid", text),
            )
            return
        outbound = self._outbound_fact(resource)
        self._domains[name] = self._domain_config(resource, senders)
        self._credentials.update(senders.credentials)
        self._facts[key] = (accepted, senders.fact, outbound)

    def _keep_pool(self, resource: MailDomain, refusal: Fact) -> Fact:
        """The last good version stays, unless it is its pool that was taken away."""
        kept = self._previous.domains.get(resource.spec.domain)
        if (
            kept is None
            or kept.deleted
            or kept.namespace != resource.meta.key.namespace
            or kept.pool == resource.spec.outbound.pool
        ):
            return refusal
        self._domains[kept.domain] = kept
        self._keep_credentials(kept.domain)
        return msgspec.structs.replace(
            refusal, message=f"{refusal.message}. Generation {kept.generation} stays in force."
        )

    def _keep_credentials(self, domain: str) -> None:
        for username, credential in self._previous.credentials.items():
            if credential.domain == domain:
                self._credentials[username] = credential

    def _outbound_fact(self, resource: MailDomain) -> Fact:
        smarthost = resource.spec.outbound.route.smarthost
        if smarthost is not None:
            error = self._passwords.error(smarthost, resource.meta.key.namespace)
            if error is not None:
                return Fact("OutboundReady", "False", error.reason, f"{error.text} Mail waits until it is there.")
        return Fact("OutboundReady", "True", "Ready", "")

    def _domain_config(self, resource: MailDomain, senders: Senders) -> config.DomainConfig:
        spec, meta = resource.spec, resource.meta
        outbound = spec.outbound
        return config.DomainConfig(
            domain=spec.domain,
            namespace=meta.key.namespace,
            generation=meta.generation,
            suspend=spec.suspend,
            senders=senders.senders,
            limits=limits(spec.limits),
            route=route(outbound.route, self._passwords, meta.key.namespace),
            pool=outbound.pool,
            tls="Encrypted" if outbound.tls != "Opportunistic" else "Opportunistic",
            retry=retry(outbound.retry),
        )

    def all_policies(self) -> None:
        """Every DestinationPolicy, the older before the younger: a tie is the older one's."""
        for policy, taken in shadows(self._manifests.policies.values()):
            self._policy(policy, taken)

    def _policy(self, policy: DestinationPolicy, taken: Mapping[str, str]) -> None:
        spec, key = policy.spec, policy.meta.key
        refusal: Fact | None = None
        match = spec.match
        domains = tuple(domain for domain in (match.domains or ()) if domain not in taken) if match else ()
        mx = tuple(name for name in (match.mx or ()) if f"mx {name}" not in taken) if match else ()
        said = ", ".join(f"{pattern} (DestinationPolicy {owner}, older)" for pattern, owner in taken.items())
        if match is not None and not domains and not mx:
            refusal = Fact("Accepted", "False", "Shadowed", f"All it matches is matched by another: {said}.")
        elif spec.pool and self._settings.pools and spec.pool not in self._settings.pools:
            text = f"Pool {spec.pool} does not exist; there is {', '.join(self._settings.pools)}."
            refusal = Fact("Accepted", "False", "PoolNotFound", text)
        elif spec.route is not None and spec.route.smarthost is not None:
            error = self._passwords.error(spec.route.smarthost, self._settings.release_namespace)
            if error is not None:
                refusal = Fact("Accepted", "False", error.reason, error.text)
        if refusal is not None:
            kept = self._previous.policies.get(key.name)
            waits = refusal.reason.startswith("Secret")  # without the policy, mail would pass by its smarthost
            text = ""
            if kept is not None and refusal.reason != "Shadowed":
                self._policies[key.name] = kept
                text = f" Generation {kept.generation} stays in force."
            elif waits:
                text = " Mail for these destinations waits until it is there."
            self._facts[key] = (msgspec.structs.replace(refusal, message=refusal.message + text),)
            if kept is not None or not waits:
                return
        else:
            reason, text = ("PartlyShadowed", f"Matched by another: {said}.") if taken else ("Accepted", "")
            self._facts[key] = (Fact("Accepted", "True", reason, text),)
        own = spec.limits
        self._policies[key.name] = config.DestinationConfig(
            name=key.name,
            domains=domains,
            mx=mx,
            suspended=spec.state == "Suspended",
            limits=config.DestinationLimits(
                connections=own.connections,
                messages_per_connection=own.messages_per_connection,
                messages_per_minute=own.messages_per_minute,
                recipients_per_message=own.recipients_per_message,
                adaptive=own.adaptive == "Enabled",
            ),
            tls="Encrypted" if spec.tls == "Verified" else spec.tls or "",
            ip_families=spec.ip_families or (),
            pool=spec.pool or "",
            retry=retry_override(spec.retry),
            route=route(spec.route, self._passwords, self._settings.release_namespace) if spec.route else None,
            generation=policy.meta.generation,
        )

    def result(self) -> Compiled:
        before = self._previous
        meta = config.Meta(
            generation=before.meta.generation,
            write_format=before.meta.write_format,
            jwks=self._settings.jwks,
            issuer=self._settings.issuer,
        )
        snapshot = config.Snapshot(
            domains=self._domains, credentials=self._credentials, policies=self._policies, meta=meta
        )
        alive = {name: domain for name, domain in before.domains.items() if not domain.deleted}
        if snapshot != msgspec.structs.replace(before, domains=alive):
            snapshot = msgspec.structs.replace(
                snapshot, meta=msgspec.structs.replace(meta, generation=before.meta.generation + 1)
            )
        return Compiled(
            snapshot=snapshot,
            facts=self._facts,
            wanted_secrets=tuple(self._wanted[key] for key in sorted(self._wanted)),
            keys=self._passwords.keys,
            problems=self._problems(),
        )

    def _problems(self) -> list[Problem]:
        resources: dict[Key, MailDomain | DestinationPolicy] = {**self._manifests.domains, **self._manifests.policies}
        out = []
        for key, facts in self._facts.items():
            meta = resources[key].meta
            for fact in facts:
                if fact.status == "False" and fact.type != "Programmed":
                    text = f"{fact.reason}: {fact.message}"
                    out.append(Problem(message=text, file=meta.file, line=meta.line, object=str(key)))
        return out
