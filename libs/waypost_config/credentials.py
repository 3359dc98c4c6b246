"""Credential Secrets: what one must hold, and what the operator puts into the ones that it makes."""

import secrets
from typing import Any, Final
from urllib.parse import quote

import msgspec

from .resources import Key, Secret

MAX_USERNAME: Final = 320
MAX_PASSWORD: Final = 1024
MADE_BY: Final = {"app.kubernetes.io/managed-by": "waypost"}


class SecretError(ValueError):
    """Why a Secret can't be used, and what would be right. The text holds no secret value."""


class Login(msgspec.Struct, frozen=True):
    username: str  # lower case where it is a login here; as written where it is one elsewhere
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r})"


class WantedSecret(msgspec.Struct, frozen=True):
    """A credential Secret that a MailDomain names and nobody has made."""

    namespace: str
    name: str
    username: str
    domain: str

    @property
    def key(self) -> Key:
        return Key("Secret", self.namespace, self.name)


class Server(msgspec.Struct, frozen=True):
    """What a client needs to reach submission."""

    host: str
    port: int
    ca: str = ""  # PEM


def login(secret: Secret) -> Login:
    """`username` and `password` of a Secret. Raises SecretError."""
    where = f"{secret.meta.key}"
    texts = {}
    for name, most in (("username", MAX_USERNAME), ("password", MAX_PASSWORD)):
        value = secret.data.get(name)
        if not value:
            have = ", ".join(sorted(secret.data)) or "none"
            raise SecretError(f"{where}: key {name} is missing or empty; it has {have}.")
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise SecretError(f"{where}: key {name} is no UTF-8 text.") from None
        if text.endswith(("\n", "\r")):
            raise SecretError(f"{where}: key {name} ends in a line break; make it without one (printf, echo -n).")
        if len(value) > most or not text.isprintable():
            raise SecretError(f"{where}: key {name} must be at most {most} octets of printable text.")
        texts[name] = text
    return Login(texts["username"], texts["password"])


def sender_login(secret: Secret, domain: str) -> Login:
    """A login for senders of `domain`, whose user name ends in it. Raises SecretError."""
    found = login(secret)
    username = found.username.lower()
    if not username.endswith("@" + domain) or username == "@" + domain:
        raise SecretError(
            f"{secret.meta.key}: username {found.username!r} must end in @{domain}, so that logins are unique."
        )
    return Login(username, found.password)


def new_password() -> str:
    return secrets.token_urlsafe(24)  # 192 bits


def credential_data(wanted: WantedSecret, password: str, server: Server) -> dict[str, str]:
    """What stands in a made Secret: each key as an environment variable or file of a pod."""
    uri = f"smtp://{quote(wanted.username, safe='')}:{quote(password, safe='')}@{server.host}:{server.port}"
    return {
        "host": server.host,
        "port": str(server.port),
        "username": wanted.username,
        "password": password,
        "uri": uri,
        "ca.crt": server.ca,
    }


def credential_manifest(wanted: WantedSecret, password: str, server: Server) -> dict[str, Any]:
    """The Secret as a manifest that `kubectl apply` takes."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": wanted.name,
            "namespace": wanted.namespace,
            "labels": dict(MADE_BY),
            "annotations": {"waypost.dev/domain": wanted.domain},
        },
        "type": "Opaque",
        "stringData": credential_data(wanted, password, server),
    }
