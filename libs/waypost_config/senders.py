"""Senders of a MailDomain: who they are, and the logins of those that are Secrets."""

import ipaddress
from collections.abc import Callable

import msgspec

from waypost_queue import config

from .credentials import SecretError, WantedSecret, sender_login
from .maildomain import Sender, Subject
from .manifests import Manifests
from .outbound import limits
from .resources import Key, MailDomain
from .status import Fact


class Senders(msgspec.Struct, frozen=True):
    senders: tuple[config.Sender, ...]
    credentials: dict[str, config.CredentialConfig]
    wanted: tuple[WantedSecret, ...]
    fact: Fact


def compile_senders(
    resource: MailDomain,
    manifests: Manifests,
    previous: config.Snapshot,
    hash_password: Callable[[str, str], str],
) -> Senders:
    """The senders of one accepted MailDomain.

    A Secret that can't be used keeps the login that it gave before; one that nobody made is wanted of the operator,
    unless a manifest that can't be read may hold it.
    """
    logins = _Logins(resource, manifests, previous, hash_password)
    domain = resource.spec.domain
    senders = tuple(_sender(sender, domain, logins, manifests) for sender in resource.spec.senders or ())
    return Senders(senders, logins.credentials, tuple(logins.wanted), logins.fact())


def _sender(sender: Sender, domain: str, logins: "_Logins", manifests: Manifests) -> config.Sender:
    return config.Sender(
        name=sender.name,
        subjects=tuple(_subject(subject, logins, manifests) for subject in sender.subjects),
        addresses=sender.addresses if sender.addresses is not None else (f"*@{domain}",),
        limits=limits(sender.limits),
    )


def _subject(subject: Subject, logins: "_Logins", manifests: Manifests) -> config.Subject:
    home = logins.namespace
    if subject.kind == "ServiceAccount":
        return config.Subject(kind="ServiceAccount", namespace=subject.namespace or home, name=subject.name or "")
    if subject.kind == "Secret":
        logins.add(subject.name or "")
        return config.Subject(kind="Secret", namespace=home, name=subject.name or "")
    if subject.kind == "Network":
        return config.Subject(kind="Network", cidr=str(ipaddress.ip_network(subject.cidr or "", strict=False)))
    wanted = set((subject.selector.match_labels if subject.selector is not None else {}).items())
    matching = (key.name for key, namespace in manifests.namespaces.items() if wanted <= namespace.labels.items())
    return config.Subject(kind="Namespaces", namespaces=tuple(sorted(matching)))


class _Logins:
    """The Secrets that the senders of one domain name."""

    def __init__(
        self,
        resource: MailDomain,
        manifests: Manifests,
        previous: config.Snapshot,
        hash_password: Callable[[str, str], str],
    ) -> None:
        self.namespace = resource.meta.key.namespace
        self.credentials: dict[str, config.CredentialConfig] = {}
        self.wanted: list[WantedSecret] = []
        self._domain = resource.spec.domain
        self._manifests = manifests
        self._previous = previous
        self._hash = hash_password
        self._seen: set[str] = set()
        self._faults: list[tuple[str, str]] = []  # (reason, message)

    def add(self, name: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        key = Key("Secret", self.namespace, name)
        secret = self._manifests.secrets.get(key)
        if secret is None:
            self._absent(key)
            return
        try:
            login = sender_login(secret, self._domain)
        except SecretError as error:
            self._keep(name, "SecretInvalid", str(error))
            return
        holder = self.credentials.get(login.username)
        if holder is not None:
            text = (
                f"{key}: username {login.username} is that of Secret {self.namespace}/{holder.secret}; choose another."
            )
            self._faults.append(("SecretInvalid", text))
            return
        self.credentials[login.username] = config.CredentialConfig(
            username=login.username,
            domain=self._domain,
            namespace=self.namespace,
            secret=name,
            hash=self._hash(login.username, login.password),
        )

    def _absent(self, key: Key) -> None:
        if key in self._manifests.broken:
            self._keep(key.name, "SecretInvalid", f"{key} can't be read; see the problems of its manifest.")
        elif self._manifests.unreadable:
            files = ", ".join(sorted(self._manifests.unreadable)[:3])
            text = f"{key} is not there, and is not made while a manifest can't be read: {files}."
            self._keep(key.name, "SecretNotFound", text)
        else:
            self.wanted.append(WantedSecret(key.namespace, key.name, f"{key.name}@{self._domain}", self._domain))

    def _keep(self, name: str, reason: str, text: str) -> None:
        """The login that this Secret gave before stays in force."""
        kept = [
            credential
            for credential in self._previous.credentials.values()
            if (credential.domain, credential.namespace, credential.secret) == (self._domain, self.namespace, name)
        ]
        for credential in kept:
            self.credentials.setdefault(credential.username, credential)
        self._faults.append((reason, text + (" Its last good login stays in force." if kept else "")))

    def fact(self) -> Fact:
        if not self._faults and self.wanted:
            names = ", ".join(f"{wanted.namespace}/{wanted.name}" for wanted in self.wanted)
            return Fact("SendersReady", "Unknown", "SecretNotFound", f"Being made: Secret {names}.")
        if not self._faults:
            return Fact("SendersReady", "True", "Ready", "")
        reason, text = self._faults[0]
        more = f" {len(self._faults) - 1} more of its Secrets can't be used." if len(self._faults) > 1 else ""
        return Fact("SendersReady", "False", reason, text + more)
