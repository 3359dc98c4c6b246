"""Routes, retry and limits in the units that services use, and the passwords that routes need."""

import msgspec

from waypost_queue import config
from waypost_queue.subjects import token

from .common import Retry, RetryOverride, Route, Smarthost
from .credentials import SecretError, login
from .maildomain import Limits
from .manifests import Manifests
from .quantities import octets, seconds
from .resources import Key


class PasswordError(msgspec.Struct, frozen=True):
    reason: str
    text: str


class Passwords:
    """Smarthosts' logins: `keys` collects each password under its name in the bucket `keys`."""

    def __init__(self, manifests: Manifests, previous: config.Snapshot) -> None:
        self.keys: dict[str, str] = {}
        self._manifests = manifests
        routes = [domain.route for domain in previous.domains.values()]
        routes += [policy.route for policy in previous.policies.values() if policy.route is not None]
        self._before = {each.smarthost.secret: each.smarthost.username for each in routes if each.smarthost is not None}

    def error(self, smarthost: Smarthost, namespace: str) -> PasswordError | None:
        """Why the login of a smarthost can't be used; None: it can, or none is needed."""
        if smarthost.secret_ref is None:
            return None
        key = Key("Secret", namespace, smarthost.secret_ref.name)
        if key in self._manifests.broken:
            return PasswordError("SecretInvalid", f"{key} can't be read; see the problems of its manifest.")
        secret = self._manifests.secrets.get(key)
        if secret is None:
            return PasswordError(
                "SecretNotFound", f"{key} is not there; it needs the keys username and password for {smarthost.host}."
            )
        try:
            login(secret)
        except SecretError as error:
            return PasswordError("SecretInvalid", str(error))
        return None

    def compiled(self, smarthost: Smarthost, namespace: str) -> config.Smarthost:
        """The smarthost. One whose login is missing still names its secret: delivery waits for it, and never relays
        without."""
        username = secret_name = ""
        if smarthost.secret_ref is not None:
            secret_name = f"smarthost.{token(namespace)}.{token(smarthost.secret_ref.name)}"
            if self.error(smarthost, namespace) is None:
                found = login(self._manifests.secrets[Key("Secret", namespace, smarthost.secret_ref.name)])
                username = found.username
                self.keys[secret_name] = found.password
            elif Key("Secret", namespace, smarthost.secret_ref.name) in self._manifests.broken or (
                self._manifests.unreadable
                and Key("Secret", namespace, smarthost.secret_ref.name) not in self._manifests.secrets
            ):
                username = self._before.get(secret_name, "")  # its last good login, whose password is still sealed
        return config.Smarthost(
            host=smarthost.host, port=smarthost.port, tls=smarthost.tls, username=username, secret=secret_name
        )


def route(value: Route, passwords: Passwords, namespace: str) -> config.Route:
    """A route; `namespace` is where its Secret lies."""
    if value.smarthost is None:
        return config.Route()
    return config.Route(type="Smarthost", smarthost=passwords.compiled(value.smarthost, namespace))


def retry(value: Retry) -> config.Retry:
    return config.Retry(
        initial=seconds(value.initial),
        max=seconds(value.max),
        expire_after=seconds(value.expire_after),
        notify_delay_after=seconds(value.notify_delay_after),
    )


def retry_override(value: RetryOverride | None) -> config.RetryOverride:
    if value is None:
        return config.RetryOverride()

    def of(text: str | None) -> float | None:
        return None if text is None else seconds(text)

    return config.RetryOverride(
        initial=of(value.initial),
        max=of(value.max),
        expire_after=of(value.expire_after),
        notify_delay_after=of(value.notify_delay_after),
    )


def limits(value: Limits | None) -> config.Limits:
    if value is None:
        return config.Limits()
    return config.Limits(
        recipients_per_minute=value.recipients_per_minute,
        recipients_per_day=value.recipients_per_day,
        recipients_per_message=value.recipients_per_message,
        message_size=None if value.message_size is None else octets(value.message_size),
    )
