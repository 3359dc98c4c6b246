"""SASL exchanges as pure state machines: PLAIN (RFC 4616), LOGIN, OAUTHBEARER (RFC 7628), XOAUTH2.

exchange = Exchange("PLAIN")
step = exchange.step(initial_response_or_None)   # bytes after `AUTH PLAIN `, base64
while isinstance(step, Challenge):               # send 334 and step.line, read a line
    step = exchange.step(line)                   # the caller has handled `*` (cancel) before
# PasswordClaim, TokenClaim: to the Authenticator. Malformed: its answer goes to the client.
"""

from typing import Final

from msgspec import Struct
from waypost_policy.replies import Answer

MECHANISMS: Final = ("PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2")
MAX_LINE: Final = 12288  # octets of an AUTH line with CRLF, RFC 4954 4


class Challenge(Struct, frozen=True):
    line: bytes  # the whole reply line, `334 ...\r\n`


class PasswordClaim(Struct, frozen=True):
    username: str
    password: str


class TokenClaim(Struct, frozen=True):
    token: str
    mechanism: str  # an error challenge is due in OAUTHBEARER and XOAUTH2 before the final reply: `failure_challenge`


class Malformed(Struct, frozen=True):
    answer: Answer


class Exchange:
    """One AUTH command from its first response to the claim it makes."""

    def __init__(self, mechanism: str) -> None:
        """`mechanism` is one of MECHANISMS."""
        self.mechanism = mechanism

    def step(self, response: bytes | None) -> "Challenge | PasswordClaim | TokenClaim | Malformed":
        """Feed one response (base64, without CRLF; None: AUTH came without an initial response)."""
        raise NotImplementedError


def failure_challenge(claim: PasswordClaim | TokenClaim) -> Challenge | None:
    """What a refused OAUTHBEARER or XOAUTH2 client is told before it answers with a line of its own and gets its 535.

    RFC 7628 3.2.3. None for PLAIN and LOGIN: the 535 is sent at once.
    """
    raise NotImplementedError
