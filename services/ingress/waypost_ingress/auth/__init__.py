"""Authentication of SMTP sessions: SASL exchanges, passwords, tokens, lockouts.

`Exchange` turns an AUTH dialogue into a claim, `Authenticator` turns the claim into an identity; the rest are parts.
"""

from .authenticator import Authenticator
from .lockouts import LockoutRules, Lockouts
from .passwords import PasswordChecker
from .sasl import MAX_LINE, MECHANISMS, Challenge, Exchange, Malformed, PasswordClaim, TokenClaim, failure_challenge
from .tokens import JwksVerifier, TokenVerifier

__all__ = [
    "MAX_LINE",
    "MECHANISMS",
    "Authenticator",
    "Challenge",
    "Exchange",
    "JwksVerifier",
    "LockoutRules",
    "Lockouts",
    "Malformed",
    "PasswordChecker",
    "PasswordClaim",
    "TokenClaim",
    "TokenVerifier",
    "failure_challenge",
]
