"""Passwords against their Argon2id or scrypt hashes, off the event loop.

A verification is meant to be dear (tens of ms and MiB), so: few threads, a bounded queue before them, one verification
for equal claims that come together, and a short memory of what was right. The memory's keys are keyed digests over user
name, hash and password: it holds no password, and a changed hash is another key.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import argon2
from argon2.low_level import Type, verify_secret

MAX_MEMORY: Final = 256 * 1024 * 1024  # octets that one verification may take
_SCRYPT = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)\Z")
NOBODY: Final = "$argon2id$v=19$m=19456,t=2,p=1$IKCcEjjhbheg5qL48aiOmw$TgS9u67Sxz132GxEBPvpY/Ljv/VdlYfW5lTDCyB8RNo"
"""What an unknown user is checked against while there is no other hash; no password is known for it."""


class HashError(ValueError):
    """A stored hash that is no Argon2id or scrypt string, or asks for too much memory."""


class BusyError(Exception):
    """Too many verifications wait already."""


def verify(encoded: str, password: str) -> bool:
    """Whether `password` is the one of `encoded` (PHC string format). Raises HashError. Slow by design."""
    if encoded.startswith("$argon2id$"):
        try:
            if argon2.extract_parameters(encoded).memory_cost * 1024 > MAX_MEMORY:
                raise HashError("the Argon2id hash asks for more than 256 MiB")
            return verify_secret(encoded.encode("ascii"), password.encode(), Type.ID)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHash, UnicodeEncodeError) as error:
            raise HashError("the Argon2id hash can't be read") from error
    match = _SCRYPT.match(encoded)
    if match is None:
        raise HashError("the hash must be $argon2id$... or $scrypt$ln=,r=,p=$salt$hash")
    cost, block, parallel = 1 << int(match[1]), int(match[2]), int(match[3])
    if 128 * cost * block + 128 * block * parallel > MAX_MEMORY or not (block and parallel and cost > 1):
        raise HashError("the scrypt hash asks for more than 256 MiB, or has a parameter of 0")
    try:
        salt, expected = _unpadded(match[4]), _unpadded(match[5])
        found = hashlib.scrypt(
            password.encode(), salt=salt, n=cost, r=block, p=parallel, maxmem=2 * MAX_MEMORY, dklen=len(expected)
        )
    except (binascii.Error, ValueError) as error:
        raise HashError("the scrypt hash can't be read") from error
    return hmac.compare_digest(found, expected)


def like(encoded: str) -> str:
    """A hash that costs as much to verify as `encoded`, and that no known password has: for users that do not exist."""
    head, _, digest = encoded.rpartition("$")
    size = len(digest) * 3 // 4
    return f"{head}${base64.b64encode(os.urandom(size)).decode().rstrip('=')}"


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


class PasswordChecker:
    """Verifies in threads. `ttl` is in seconds; `waiting` counts verifications begun and not ended."""

    def __init__(
        self,
        *,
        threads: int = 2,
        waiting: int = 128,
        remembered: int = 4096,
        ttl: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="password")
        self._waiting = waiting
        self._remembered = remembered
        self._ttl = ttl
        self._clock = clock
        self._key = os.urandom(32)
        self._right: dict[bytes, float] = {}  # digest -> forgotten at
        self._running: dict[bytes, asyncio.Future[bool]] = {}

    async def check(self, username: str, encoded: str, password: str) -> bool:
        """Whether the password is right. Raises BusyError or HashError."""
        digest = hmac.digest(self._key, f"{username}\0{encoded}\0{password}".encode(), "sha256")
        expires = self._right.get(digest)
        if expires is not None:
            if self._clock() < expires:
                return True
            del self._right[digest]
        running = self._running.get(digest)
        if running is None:
            if len(self._running) >= self._waiting:
                raise BusyError
            running = asyncio.get_running_loop().run_in_executor(self._pool, verify, encoded, password)
            self._running[digest] = running
            running.add_done_callback(lambda done: self._ended(digest, done))
        return await asyncio.shield(running)  # a session that leaves takes nobody else's answer away

    def _ended(self, digest: bytes, done: "asyncio.Future[bool]") -> None:
        del self._running[digest]
        if done.cancelled() or done.exception() is not None or not done.result():
            return
        if len(self._right) >= self._remembered:
            del self._right[next(iter(self._right))]
        self._right[digest] = self._clock() + self._ttl

    def close(self) -> None:
        """Ends the threads; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
