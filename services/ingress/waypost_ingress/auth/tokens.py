"""Bearer tokens of ServiceAccounts: who they are for, who signed them, and whose they are.

`TokenVerifier` is what the authenticator needs. `JwksVerifier` answers it from a JSON Web Key Set in the configuration,
as `waypost dev-token` and a cluster's issuer sign. RS256 alone (Kubernetes' own algorithm): a token does not choose how
it is verified (RFC 8725 3.1).
"""

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from waypost_policy.identity import Identity, service_account

_ALGORITHM: Final = "RS256"
_LEEWAY: Final = 10  # seconds that two clocks may differ
_MIN_KEY: Final = 2048  # bits, RFC 7518 3.3


class TokenError(Exception):
    """The token proves nothing; the message says why, for the log."""


class TokensUnavailableError(Exception):
    """Nothing can be said about any token at the moment; the message says why."""


class TokenVerifier(Protocol):
    """Says whose a bearer token is."""

    async def verify(self, token: str) -> Identity:
        """The identity. Raises TokenError or TokensUnavailableError."""
        ...


def looks_like_token(text: str) -> bool:
    """Whether a password is a JSON Web Token: a header that begins a JSON object, and two more parts."""
    return text.startswith("eyJ") and text.count(".") == 2


class JwksVerifier:
    """Verifies ServiceAccount tokens by the key set that `keys` gives: (JWKS as JSON, issuer; "" = any)."""

    def __init__(
        self,
        keys: Callable[[], tuple[str, str]],
        *,
        audience: str = "waypost",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = keys
        self._audience = audience
        self._clock = clock
        self._jwks = ""
        self._keys: dict[str, RSAPublicKey] = {}

    async def verify(self, token: str) -> Identity:
        """The ServiceAccount that the token was issued to."""
        jwks, issuer = self._source()
        if not jwks:
            raise TokensUnavailableError("the configuration holds no key set (meta.jwks)")
        if jwks != self._jwks:
            self._keys = read_keys(jwks)
            self._jwks = jwks
        try:
            key = self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=self._audience,
                options={
                    "require": ["exp", "aud", "sub", "iss"],
                    "verify_exp": False,  # the times are compared below, by this process' clock
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidTokenError as error:
            raise TokenError(f"{type(error).__name__}: {error}") from error
        if issuer and claims["iss"] != issuer:
            raise TokenError(f"it was issued by {claims['iss']!r}, not by {issuer!r}")
        self._check_times(claims)
        return identity_of(claims)

    def _key(self, kid: object) -> RSAPublicKey:
        key = self._keys.get(str(kid))
        if key is None:
            raise TokenError(f"its key {str(kid)[:64]!r} is not in the key set")
        return key

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._clock()
        expires, begins = claims["exp"], claims.get("nbf", 0)
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (expires, begins)):
            raise TokenError("exp and nbf must be numbers")
        if now > expires + _LEEWAY:
            raise TokenError(f"it expired {now - expires:.0f} s ago")
        if now < begins - _LEEWAY:
            raise TokenError(f"it becomes valid in {begins - now:.0f} s")


def read_keys(jwks: str) -> dict[str, RSAPublicKey]:
    """The RSA signature keys of a key set, by `kid`. Raises TokensUnavailableError if it holds none."""
    try:
        entries = msgspec.json.decode(jwks, type=dict[str, Any]).get("keys", [])
        keys = {}
        for entry in entries:
            if entry.get("kty") == "RSA" and entry.get("kid") and entry.get("alg", _ALGORITHM) == _ALGORITHM:
                key = jwt.PyJWK(entry, algorithm=_ALGORITHM).key
                if isinstance(key, RSAPublicKey) and key.key_size >= _MIN_KEY:
                    keys[str(entry["kid"])] = key
    except (msgspec.DecodeError, jwt.PyJWKError, jwt.InvalidKeyError, AttributeError, TypeError, ValueError) as error:
        raise TokensUnavailableError(f"the configuration's key set can't be read: {error}") from error
    if not keys:
        raise TokensUnavailableError("the configuration's key set holds no RSA key of 2048 bits or more with a kid")
    return keys


def identity_of(claims: dict[str, Any]) -> Identity:
    """The ServiceAccount in verified claims: `kubernetes.io`, and `sub` must agree. Raises TokenError."""
    match claims.get("kubernetes.io"):
        case {"namespace": str(namespace), "serviceaccount": {"name": str(name)}}:
            if claims["sub"] == f"system:serviceaccount:{namespace}:{name}":
                return service_account(namespace, name)
            raise TokenError("sub and kubernetes.io name different ServiceAccounts")
        case _:
            raise TokenError("it is no ServiceAccount token: the claim kubernetes.io is missing")
