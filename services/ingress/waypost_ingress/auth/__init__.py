"""Authentication of SMTP sessions: SASL exchanges, passwords, tokens, lockouts.

`Authenticator` is what a session uses; the rest are its parts.
"""

from .authenticator import Authenticator
from .sasl import MECHANISMS, Challenge, Exchange, Malformed, PasswordClaim, TokenClaim

__all__ = ["MECHANISMS", "Authenticator", "Challenge", "Exchange", "Malformed", "PasswordClaim", "TokenClaim"]
