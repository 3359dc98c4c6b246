"""ServiceAccount tokens where there is no cluster: a key of our own, its JWKS, and tokens with Kubernetes' claims.

A token minted here looks to ingress as a projected one of a cluster does: the same `sub`, `aud` and `kubernetes.io`
claims, RS256, checked by JWKS. The key lies in the data folder, readable by its owner alone.
"""

import base64
import contextlib
import hashlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .quantities import seconds

AUDIENCE: Final = "waypost"
ISSUER: Final = "https://waypost.dev.localhost"  # RFC 6761: never a host of anybody's
MAX_TTL: Final = 24 * 3600.0  # s; Kubernetes' own default is an hour
_UID_SPACE: Final = uuid.UUID("6f0c5fb2-2f3c-5c0b-9f0e-6b1d0e6a7a11")  # of uids: equal names, equal uids
_CLOCK_SKEW: Final = 5  # s


class DevTokenError(ValueError):
    """Why no token can be minted, and what would be right."""


def key_path(data_dir: Path) -> Path:
    """Where the signing key of this data folder lies."""
    return data_dir / "keys" / "dev-token.pem"


def new_key() -> bytes:
    """A new RSA key of 2048 bits, as PEM (PKCS 8)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_or_create(path: Path) -> bytes:
    """The key at `path`, made when it is not there. Raises OSError, DevTokenError.

    It is linked into its place whole: of two processes that make it, both read the same key.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(new_key())
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink()
    pem = path.read_bytes()
    _private(pem)
    return pem


def parse_ttl(text: str) -> float:
    """Seconds of a life time such as `90s`, `30m` or `1h`. Raises DevTokenError."""
    try:
        ttl = seconds(text)
    except ValueError as error:
        raise DevTokenError(str(error)) from error
    if not 0 < ttl <= MAX_TTL:
        raise DevTokenError(f"a token lives between 1s and {MAX_TTL / 3600:g}h, not {text}")
    return ttl


def jwks(pem: bytes) -> str:
    """The JSON Web Key Set (RFC 7517) that verifies what this key signs."""
    return json.dumps({"keys": [_jwk(pem)]}, separators=(",", ":"))


def mint(
    pem: bytes, namespace: str, name: str, ttl: float = 3600.0, *, now: float | None = None, issuer: str = ISSUER
) -> str:
    """A token of the ServiceAccount, valid for `ttl` seconds from `now` (Unix seconds; None = this moment)."""
    import jwt  # PyJWT is of the command and of ingress; the operator, which needs the key set alone, goes without

    issued = int(time.time() if now is None else now)
    claims = {
        "iss": issuer,
        "sub": subject(namespace, name),
        "aud": [AUDIENCE],
        "iat": issued,
        "nbf": issued - _CLOCK_SKEW,
        "exp": issued + max(1, int(ttl)),
        "jti": str(uuid.uuid4()),
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": str(uuid.uuid5(_UID_SPACE, f"{namespace}/{name}"))},
        },
    }
    return jwt.encode(claims, _private(pem), algorithm="RS256", headers={"kid": _jwk(pem)["kid"]})


def subject(namespace: str, name: str) -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def _private(pem: bytes) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except ValueError as error:
        raise DevTokenError("the signing key is no PEM private key; remove the file, and it is made anew") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise DevTokenError("the signing key is no RSA key; remove the file, and it is made anew")
    return key


def _jwk(pem: bytes) -> dict[str, Any]:
    numbers = _private(pem).public_key().public_numbers()
    public = {"e": _base64url(numbers.e), "kty": "RSA", "n": _base64url(numbers.n)}
    thumbprint = hashlib.sha256(json.dumps(public, separators=(",", ":"), sort_keys=True).encode()).digest()  # RFC 7638
    kid = base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
    return {**public, "kid": kid, "use": "sig", "alg": "RS256"}


def _base64url(number: int) -> str:
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
