"""From a claim to an identity: the lockouts, then the password's hash or the token's signature, then the tally.

Whoever is refused learns nothing but that: an unknown user costs as much time as a wrong password, counts alike, and
gets the same reply. Why it was refused stands in the log, without the secret.
"""

import asyncio
import time
from collections.abc import Callable

import opentelemetry.metrics
import structlog

from waypost_policy.identity import Identity
from waypost_policy.index import ConfigIndex
from waypost_policy.replies import Answer, Replies, printable

from .lockouts import Lockouts
from .passwords import NOBODY, BusyError, HashError, PasswordChecker, like
from .sasl import PasswordClaim, TokenClaim
from .tokens import JwksVerifier, TokenError, TokensUnavailableError, TokenVerifier, looks_like_token

log = structlog.get_logger(__name__)

_meter = opentelemetry.metrics.get_meter("waypost")
ATTEMPTS = _meter.create_counter(
    "waypost.auth.attempts",
    unit="{attempt}",
    description="AUTH attempts by mechanism and result: accepted, refused, locked, unavailable.",
)


class _RefusedError(Exception):
    """The claim is wrong; the message is for the log."""


class _UndecidedError(Exception):
    """Nothing can be said about the claim now; the message is for the log."""


class Authenticator:
    """Shared by all sessions of a process."""

    def __init__(
        self,
        index: Callable[[], ConfigIndex],
        *,
        passwords: PasswordChecker | None = None,
        tokens: TokenVerifier | None = None,
        lockouts: Lockouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`index` gives the index of the current configuration; tokens are verified by its key set by default."""
        self._index = index
        self._passwords = passwords or PasswordChecker()
        self._tokens = tokens or JwksVerifier(lambda: (index().snapshot.meta.jwks, index().snapshot.meta.issuer))
        self._lockouts = lockouts or Lockouts()
        self._clock = clock
        self._nobody = ("", NOBODY)  # a real hash, and one that costs as much

    async def authenticate(self, claim: PasswordClaim | TokenClaim, address: str) -> Identity | Answer:
        """The identity that `claim` proves, or the answer to give, after the delay that is due.

        `address` is the peer's.
        """
        token = claim.token if isinstance(claim, TokenClaim) else claim.password
        by_token = isinstance(claim, TokenClaim) or looks_like_token(claim.password)
        user = "" if by_token or isinstance(claim, TokenClaim) else claim.username.lower()
        locked = self._lockouts.begin(address, user, self._clock())
        if locked:
            self._tell("locked", claim, address, f"{locked:.0f} s are left")
            return Replies.AUTH_LOCKED(seconds=max(1, round(locked)))
        try:
            identity = await (self._by_token(token) if by_token else self._by_password(user, token))
        except _UndecidedError as error:
            self._lockouts.withdraw(address, user, self._clock())
            self._tell("unavailable", claim, address, str(error))
            return Replies.AUTH_UNAVAILABLE()
        except _RefusedError as error:
            self._tell("refused", claim, address, str(error))
            delay = self._lockouts.delay(address, user, self._clock())
            if delay:
                await asyncio.sleep(delay)
            return Replies.AUTH_FAILED()
        self._lockouts.succeeded(address, user, self._clock())
        ATTEMPTS.add(1, {"mechanism": claim.mechanism, "result": "accepted"})
        return identity

    async def _by_password(self, user: str, password: str) -> Identity:
        credential = self._index().credential(user)
        encoded = self._unknown() if credential is None else credential.hash
        try:
            right = await self._passwords.check(user, encoded, password)
        except BusyError as error:
            raise _UndecidedError("too many logins are being verified") from error
        except HashError as error:
            raise _UndecidedError(str(error)) from error
        if credential is None:
            raise _RefusedError("there is no such user")
        if not right:
            raise _RefusedError("the password is wrong")
        return Identity("Secret", credential.username, credential.namespace, credential.secret)

    async def _by_token(self, token: str) -> Identity:
        try:
            identity = await self._tokens.verify(token)
        except TokenError as error:
            raise _RefusedError(str(error)) from error
        except TokensUnavailableError as error:
            raise _UndecidedError(str(error)) from error
        if not self._index().rights(identity).all:
            raise _RefusedError(f"{identity.name} is no sender of any MailDomain")
        return identity

    def _unknown(self) -> str:
        """A hash for a user that does not exist, as dear as those of users that do."""
        real = next(iter(self._index().snapshot.credentials.values()), None)
        pattern = NOBODY if real is None else real.hash
        if self._nobody[0] != pattern:
            self._nobody = (pattern, like(pattern))
        return self._nobody[1]

    def _tell(self, result: str, claim: PasswordClaim | TokenClaim, address: str, reason: str) -> None:
        ATTEMPTS.add(1, {"mechanism": claim.mechanism, "result": result})
        user = printable(claim.username) if isinstance(claim, PasswordClaim) else ""
        log.warning(f"auth.{result}", mechanism=claim.mechanism, user=user, address=address, reason=reason)

    def close(self) -> None:
        """Ends the threads."""
        self._passwords.close()
