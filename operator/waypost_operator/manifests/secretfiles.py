"""Credential Secrets that the operator makes: `<data>/secrets/NS/NAME.yaml`, mode 0600, read back at the next start.

They are manifests, so that `kubectl apply -f` takes them to a cluster later.
"""

import os
from pathlib import Path

from waypost_config.credentials import (
    MADE_BY,
    SecretError,
    Server,
    WantedSecret,
    credential_manifest,
    new_password,
    sender_login,
)
from waypost_config.resources import Secret
from waypost_config.writer import dump


def path_of(folder: Path, wanted: WantedSecret) -> Path:
    return folder / wanted.namespace / f"{wanted.name}.yaml"


def make(folder: Path, wanted: WantedSecret, server: Server) -> Path:
    """Makes a Secret with a new password. Raises OSError."""
    return _write(folder, wanted, new_password(), server)


def refresh(folder: Path, secret: Secret, server: Server) -> bool:
    """Writes a made Secret again where the server's address or CA has changed since; its login stays."""
    domain = secret.data.get("username", b"").decode(errors="replace").rpartition("@")[2]
    made = secret.meta.labels.items() >= MADE_BY.items() and Path(secret.meta.file).is_relative_to(folder)
    expected = {"host": server.host.encode(), "port": str(server.port).encode(), "ca.crt": server.ca.encode()}
    if not made or expected.items() <= secret.data.items():
        return False
    try:
        login = sender_login(secret, domain)
    except SecretError:
        return False  # edited: its MailDomain says what is wrong
    key = secret.meta.key
    _write(folder, WantedSecret(key.namespace, key.name, login.username, domain), login.password, server)
    return True


def _write(folder: Path, wanted: WantedSecret, password: str, server: Server) -> Path:
    path = path_of(folder, wanted)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = dump(credential_manifest(wanted, password, server))
    fresh = path.with_name(f".new-{os.getpid()}")
    fresh.unlink(missing_ok=True)  # O_EXCL: what lies there already may be readable by others
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path
