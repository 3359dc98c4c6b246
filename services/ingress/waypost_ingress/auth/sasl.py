"""SASL exchanges as pure state machines: PLAIN (RFC 4616), LOGIN, OAUTHBEARER (RFC 7628), XOAUTH2.

    exchange = Exchange("PLAIN")
    step = exchange.step(initial_response_or_None)   # what follows `AUTH PLAIN `, base64
    while isinstance(step, Challenge):               # send step.line, read a line
        step = exchange.step(line)                   # the caller has handled `*` (cancel) before
    # PasswordClaim, TokenClaim: to the Authenticator. Malformed: its answer goes to the client.

A claim's secrets are kept out of its repr, so that no log and no traceback shows them.
"""

import base64
import binascii
import re
from typing import Final

from msgspec import Struct

from waypost_policy.replies import Answer, Replies

MECHANISMS: Final = ("PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2")
MAX_LINE: Final = 12288  # octets of an AUTH line with CRLF, RFC 4954 4

_ASK: Final = b"334 \r\n"
_ASK_USERNAME: Final = b"334 VXNlcm5hbWU6\r\n"  # "Username:"
_ASK_PASSWORD: Final = b"334 UGFzc3dvcmQ6\r\n"  # "Password:"
_BEARER = re.compile(r"auth=bearer +([A-Za-z0-9._~+/=-]+)\Z", re.IGNORECASE)  # RFC 6750 2.1
_GS2 = re.compile(r"(?:n|y),(?:a=[^,]*)?,\Z")  # RFC 5801 4, without channel binding


class Challenge(Struct, frozen=True):
    """To be sent as it is; the client's next line answers it."""

    line: bytes  # the whole reply line, `334 ...\r\n`


class PasswordClaim(Struct, frozen=True):
    """A user name and what should be its password, or a token in the password's place."""

    username: str
    password: str
    mechanism: str = "PLAIN"

    def __repr__(self) -> str:
        return f"PasswordClaim({self.username!r})"


class TokenClaim(Struct, frozen=True):
    """A bearer token; it says itself whose it is."""

    token: str
    mechanism: str

    def __repr__(self) -> str:
        return f"TokenClaim({self.mechanism})"


class Malformed(Struct, frozen=True):
    """The response is none of its mechanism's; `answer` says what would be right."""

    answer: Answer


Step = Challenge | PasswordClaim | TokenClaim | Malformed


class _MalformedError(ValueError):
    """The sentence says what would be right."""


class Exchange:
    """One AUTH command, from its first response to the claim that it makes."""

    def __init__(self, mechanism: str) -> None:
        """`mechanism` is one of MECHANISMS."""
        self.mechanism = mechanism
        self._username: str | None = None
        self._asked = False

    def step(self, response: bytes | None) -> Step:
        """Feed one response: base64 without CRLF, or None if AUTH came without an initial one."""
        if response is None:
            self._asked = True
            return Challenge(_ASK_USERNAME if self.mechanism == "LOGIN" else _ASK)
        try:
            text = _decode(response, initial=not self._asked)
            self._asked = True
            match self.mechanism:
                case "PLAIN":
                    return _plain(text)
                case "LOGIN":
                    return self._login(text)
                case "OAUTHBEARER":
                    return _oauthbearer(text)
                case _:
                    return _xoauth2(text)
        except _MalformedError as error:
            return Malformed(Replies.AUTH_MALFORMED(mechanism=self.mechanism, right=error))

    def _login(self, text: str) -> Step:
        if self._username is None:
            self._username = _username(text)
            return Challenge(_ASK_PASSWORD)
        return PasswordClaim(self._username, _password(text), "LOGIN")


def failure_challenge(claim: PasswordClaim | TokenClaim) -> Challenge | None:
    """What a refused token client is sent first; it answers with a line of its own, and then gets its 535.

    RFC 7628 3.2.3, and XOAUTH2 alike. None: the 535 is sent at once.
    """
    if isinstance(claim, PasswordClaim):
        return None
    status = b"invalid_token" if claim.mechanism == "OAUTHBEARER" else b"400"
    return Challenge(b"334 " + base64.b64encode(b'{"status":"' + status + b'","schemes":"bearer"}') + b"\r\n")


def _decode(response: bytes, *, initial: bool) -> str:
    if initial and response == b"=":  # RFC 4954 4: an empty initial response
        return ""
    try:
        return base64.b64decode(response, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _MalformedError("the response must be base64 of UTF-8 text") from error


def _plain(text: str) -> Step:
    parts = text.split("\0")
    if len(parts) != 3:
        raise _MalformedError("the response must be [authzid] NUL user name NUL password")
    authorization, username, password = parts
    if authorization and authorization.lower() != username.lower():
        raise _MalformedError("nobody may act for another user; leave the authorization identity empty")
    return PasswordClaim(_username(username), _password(password), "PLAIN")


def _oauthbearer(text: str) -> Step:
    """gs2-header kvsep *(key=value kvsep) kvsep, RFC 7628 3.1."""
    fields = text.split("\x01")
    if len(fields) < 4 or fields[-2:] != ["", ""] or not _GS2.match(fields[0]):
        raise _MalformedError("the response must be n,, ^A auth=Bearer token ^A ^A")
    return TokenClaim(_bearer(fields[1:-2]), "OAUTHBEARER")


def _xoauth2(text: str) -> Step:
    fields = text.split("\x01")
    if len(fields) != 4 or fields[-2:] != ["", ""] or not fields[0].startswith("user="):
        raise _MalformedError("the response must be user=name ^A auth=Bearer token ^A ^A")
    return TokenClaim(_bearer(fields[1:-2]), "XOAUTH2")


def _bearer(fields: list[str]) -> str:
    tokens = [match[1] for field in fields if (match := _BEARER.match(field))]
    if len(tokens) != 1:
        raise _MalformedError("the response must hold auth=Bearer and one token")
    return tokens[0]


def _username(text: str) -> str:
    if not text or len(text) > 320 or not text.isprintable():
        raise _MalformedError("the user name must be 1 to 320 printable characters")
    return text


def _password(text: str) -> str:
    if not text or "\0" in text:
        raise _MalformedError("the password must not be empty or hold NUL")
    return text
