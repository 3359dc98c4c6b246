"""From a claim to an identity: lockouts, then the password's hash or the token's signature, then the tally."""

from collections.abc import Callable

from waypost_policy.identity import Identity
from waypost_policy.index import ConfigIndex
from waypost_policy.replies import Answer

from .sasl import PasswordClaim, TokenClaim


class Authenticator:
    """Shared by all sessions of a process."""

    def __init__(self, index: Callable[[], ConfigIndex]) -> None:
        """`index` gives the index of the current configuration."""
        self._index = index

    async def authenticate(self, claim: PasswordClaim | TokenClaim, address: str) -> Identity | Answer:
        """The identity that `claim` proves, or the answer to give (after the delay that is due). `address`: the peer's."""
        raise NotImplementedError

    def close(self) -> None:
        """End the threads."""
