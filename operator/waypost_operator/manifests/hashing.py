"""Argon2id hashes of logins; the same login keeps its hash, so that a restart changes nothing in the store."""

import hashlib
import hmac
import os

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from waypost_queue import config

# OWASP's second choice for Argon2id: 19 MiB and 2 passes. Ingress pays this for each login that it has not cached.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class Hasher:
    """Called by the compiler, in a thread. Passwords are remembered as keyed digests only."""

    def __init__(self) -> None:
        self._salt = os.urandom(32)
        self._known: dict[tuple[str, bytes], str] = {}
        self._before: dict[str, str] = {}

    def start(self, previous: config.Snapshot) -> None:
        """Before a compilation: hashes in force now, of which one that fits is used again."""
        self._before = {name: credential.hash for name, credential in previous.credentials.items()}

    def end(self, snapshot: config.Snapshot) -> None:
        """After it: forgets what no login uses any more."""
        used = {credential.hash for credential in snapshot.credentials.values()}
        self._known = {key: value for key, value in self._known.items() if value in used}

    def __call__(self, username: str, password: str) -> str:
        key = (username, hmac.digest(self._salt, password.encode(), hashlib.sha256))
        found = self._known.get(key)
        if found is None:
            before = self._before.get(username, "")
            found = before if _fits(before, password) else _HASHER.hash(password)
            self._known[key] = found
        return found


def _fits(encoded: str, password: str) -> bool:
    try:
        if not encoded or _HASHER.check_needs_rehash(encoded):
            return False
        return _HASHER.verify(encoded, password)
    except (VerificationError, InvalidHashError):
        return False
