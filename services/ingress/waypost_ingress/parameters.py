"""ESMTP parameters of MAIL and RCPT, parsed and checked. Pure: text and time in, values or a refusal out.

SIZE (RFC 1870), BODY (6152), SMTPUTF8 (6531), RET, ENVID, NOTIFY, ORCPT (3461, 6533), AUTH (4954), HOLDFOR and
HOLDUNTIL (4865), MT-PRIORITY (6710). Values keep their case: ENVID and ORCPT come back to the sender in a DSN.
"""

import re
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from waypost_policy.replies import Answer, Replies

MAX_HOLD: Final = 7 * 86_400  # s, FUTURERELEASE's max-future-release-interval
MAX_ENVID: Final = 100  # characters, RFC 3461 4.4
MAX_ORCPT: Final = 500  # characters, RFC 3461 4.2

_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z")  # RFC 5321 4.1.2
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")  # RFC 3461 4
_HEX = re.compile(r"\+([0-9A-F]{2})")
_UNICODE = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 3, EmbeddedUnicodeChar
_PRIORITY = re.compile(r"-?[0-9]\Z")
_NOTIFY = ("SUCCESS", "FAILURE", "DELAY")


class MailParameters(Struct, frozen=True):
    """Of MAIL."""

    size: int = 0
    eight_bit: bool = False
    smtputf8: bool = False
    ret: Literal["", "FULL", "HDRS"] = ""
    envid: str = ""
    not_before: float = 0.0  # Unix seconds
    priority: int | None = None  # as asked for


class RcptParameters(Struct, frozen=True):
    """Of RCPT."""

    notify: tuple[str, ...] = ()
    orcpt: str = ""  # "addr-type;address", decoded


NO_MAIL_PARAMETERS: Final = MailParameters()
NO_RCPT_PARAMETERS: Final = RcptParameters()


def _bad(parameter: str, right: str) -> Answer:
    return Replies.BAD_PARAMETER(parameter=parameter, right=right)


def _split(text: str) -> dict[str, str | None] | Answer:
    """Keyword in capitals -> value as written, None without one."""
    out: dict[str, str | None] = {}
    for word in text.split(" "):
        if not word:
            continue
        keyword, equals, value = word.partition("=")
        name = keyword.upper()
        if not _KEYWORD.match(keyword):
            return Replies.UNKNOWN_PARAMETER(parameter=keyword)
        if name in out:
            return _bad(name, "give it once")
        if equals and not value:
            return _bad(name, "a value must follow =")
        out[name] = value if equals else None
    return out


def xtext(text: str) -> str | None:
    """Decodes RFC 3461 4 xtext; None when it is none, or hides what must never come into a header."""
    if not _XTEXT.match(text):
        return None
    decoded = _HEX.sub(lambda match: chr(int(match[1], 16)), text)
    return decoded if decoded.isascii() and decoded.isprintable() else None


def mail_parameters(text: str, now: float, *, submission: bool) -> MailParameters | Answer:
    """The parameters behind the reverse-path. FUTURERELEASE is for submission alone (RFC 4865 4)."""
    if not text:
        return NO_MAIL_PARAMETERS
    words = _split(text)
    if isinstance(words, Answer):
        return words
    size = 0
    eight_bit = smtputf8 = False
    ret: Literal["", "FULL", "HDRS"] = ""
    envid = ""
    not_before = 0.0
    priority: int | None = None
    for name, value in words.items():
        given = value or ""
        if name == "SIZE":
            if not (given.isascii() and given.isdigit() and len(given) <= 20):
                return _bad("SIZE", "octets in up to 20 digits, as SIZE=4096")
            size = int(given)
        elif name == "BODY":
            kind = given.upper()
            if kind not in ("7BIT", "8BITMIME"):
                return _bad("BODY", "7BIT or 8BITMIME; BINARYMIME is not offered here")
            eight_bit = kind == "8BITMIME"
        elif name == "SMTPUTF8":
            if value is not None:
                return _bad("SMTPUTF8", "it takes no value")
            smtputf8 = True
        elif name == "RET":
            if given.upper() == "FULL":
                ret = "FULL"
            elif given.upper() == "HDRS":
                ret = "HDRS"
            else:
                return _bad("RET", "FULL or HDRS")
        elif name == "ENVID":
            decoded = xtext(given)
            if not decoded or len(given) > MAX_ENVID:
                return _bad("ENVID", f"xtext of printable ASCII, at most {MAX_ENVID} characters")
            envid = decoded
        elif name == "AUTH":
            # RFC 4954 5: who submitted it before; a server may ignore it, and this one does.
            if given != "<>" and not xtext(given):
                return _bad("AUTH", "an address in xtext, or <>")
        elif name in ("HOLDFOR", "HOLDUNTIL") and submission:
            until = _hold(name, given, now)
            if isinstance(until, Answer):
                return until
            if not_before:
                return _bad(name, "give HOLDFOR or HOLDUNTIL, not both")
            not_before = until
        elif name == "MT-PRIORITY":
            if not _PRIORITY.match(given):
                return _bad("MT-PRIORITY", "a whole number from -9 to 9")
            priority = int(given)
        else:
            return Replies.UNKNOWN_PARAMETER(parameter=name)
    return MailParameters(size, eight_bit, smtputf8, ret, envid, not_before, priority)


def _hold(name: str, given: str, now: float) -> float | Answer:
    """The time of RFC 4865 4 in Unix seconds."""
    if name == "HOLDFOR":
        if not (given.isascii() and given.isdigit() and len(given) <= 9 and 0 < int(given) <= MAX_HOLD):
            return _bad("HOLDFOR", f"seconds, at most {MAX_HOLD}")
        return now + int(given)
    try:
        until = datetime.fromisoformat(given)
    except ValueError:
        until = None
    if until is None or until.tzinfo is None or until.timestamp() > now + MAX_HOLD:
        return _bad("HOLDUNTIL", "a time of RFC 3339 with its zone, at most 7 days ahead, as 2030-01-31T08:00:00Z")
    return until.timestamp()


def rcpt_parameters(text: str) -> RcptParameters | Answer:
    """The parameters behind the forward-path."""
    if not text:
        return NO_RCPT_PARAMETERS
    words = _split(text)
    if isinstance(words, Answer):
        return words
    notify: tuple[str, ...] = ()
    orcpt = ""
    for name, value in words.items():
        given = value or ""
        if name == "NOTIFY":
            wanted = given.upper().split(",")
            if wanted == ["NEVER"]:
                notify = ("NEVER",)
            elif all(word in _NOTIFY for word in wanted):
                notify = tuple(word for word in _NOTIFY if word in wanted)
            else:
                return _bad("NOTIFY", "NEVER, or a list of SUCCESS, FAILURE and DELAY (RFC 3461 4.1)")
        elif name == "ORCPT":
            decoded = _original(given) if len(given) <= MAX_ORCPT else None
            if decoded is None:
                return _bad("ORCPT", f"addr-type;address in xtext, at most {MAX_ORCPT} characters (RFC 3461 4.2)")
            orcpt = decoded
        else:
            return Replies.UNKNOWN_PARAMETER(parameter=name)
    return RcptParameters(notify, orcpt)


def _original(text: str) -> str | None:
    """ORCPT decoded; of type utf-8 in any of the three forms of RFC 6533 3."""
    kind, semicolon, rest = text.partition(";")
    if not semicolon or not rest or not _KEYWORD.match(kind):
        return None
    if kind.lower() != "utf-8":
        address = xtext(rest)
    else:
        try:
            address = _UNICODE.sub(lambda match: chr(int(match[1], 16)), rest)
            address = _HEX.sub(lambda match: chr(int(match[1], 16)), address)
        except ValueError:  # beyond Unicode
            return None
        if not address.isprintable():
            return None
    return f"{kind.lower()};{address}" if address else None
