"""Secrets at rest in the KV bucket `keys`: AES-256-GCM under a key that only their writer and their reader mount.

The name of a value is bound to it as associated data, so that a sealed password can't be put under another's name.
"""

import base64
import binascii
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZE: Final = 32  # octets
_VERSION: Final = b"\x01"
_NONCE: Final = 12  # octets, NIST SP 800-38D


class SealError(Exception):
    """A sealed value or a key file that can't be used; says why, never what is in it."""


class Sealer:
    """Seals and opens values under one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise SealError(f"a sealing key has {KEY_SIZE} octets, not {len(key)}")
        self._aead = AESGCM(key)

    def seal(self, name: str, value: bytes) -> bytes:
        """`value` under `name`; different each time."""
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._aead.encrypt(nonce, value, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """The value; SealError when it was sealed with another key or under another name, or was changed."""
        if sealed[:1] != _VERSION:
            raise SealError(f"{name}: not a sealed value of a version that this one knows")
        nonce, box = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        if len(nonce) != _NONCE:
            raise SealError(f"{name}: cut short")
        try:
            return self._aead.decrypt(nonce, box, name.encode())
        except InvalidTag as error:
            raise SealError(
                f"{name}: can't be opened with this key; its writer and its reader must mount the same sealing key"
            ) from error


def load_key(path: Path, create: bool) -> bytes:
    """The key in a file (base64 of 32 octets); with `create` a missing one is made, readable by its owner alone."""
    if create:
        _create(path)
    try:
        text = path.read_text(encoding="ascii")
        key = base64.b64decode(text.strip(), validate=True)
    except OSError as error:
        raise SealError(f"{path}: {error.strerror}; it should hold the sealing key, 32 octets in base64") from error
    except (ValueError, binascii.Error) as error:
        raise SealError(f"{path}: not base64; it should hold the sealing key, 32 octets in base64") from error
    if len(key) != KEY_SIZE:
        raise SealError(f"{path}: {len(key)} octets; the sealing key has {KEY_SIZE}, in base64")
    return key


def _create(path: Path) -> None:
    """Makes the file unless it is there. It is linked into place whole, so that of two makers both read one key."""
    if path.exists():
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(os.urandom(KEY_SIZE)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    except OSError as error:
        raise SealError(f"{path}: can't be made: {error.strerror}; give a folder that can be written") from error
