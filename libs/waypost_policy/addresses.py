"""Mailbox addresses of the envelope: parsing of RFC 5321 4.1.2 paths, with RFC 6531's UTF-8.

One regular expression decides what nearly every address is; what it does not match is parsed step by step and, if it is
refused, refused with the reason. Domains become lower-case A-labels, source routes are stripped (RFC 5321 appendix
F.2), and local parts that route (`a%b`, `a!b`, `"a@b"`) are refused: what they mean is decided by another server.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Final

import idna
from msgspec import Struct

from .replies import Answer, Replies

MAX_LOCAL: Final = 64  # octets, RFC 5321 4.5.3.1.1
MAX_DOMAIN: Final = 255  # octets, RFC 5321 4.5.3.1.2
MAX_PATH: Final = 256  # octets with angle brackets, RFC 5321 4.5.3.1.3

_ATEXT = r"A-Za-z0-9#$&'*+/=?^_`{|}~-"  # RFC 5322 3.2.3 without ! and %, which route
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # RFC 1035 2.3.4; underscores are seen in the wild
DOT_ATOM: Final = rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*"
DOMAIN: Final = rf"{_LABEL}(?:\.{_LABEL})*"
_FAST_PATH = re.compile(rf" ?<({DOT_ATOM})@({DOMAIN})>(?: +(.*))?\Z", re.ASCII | re.DOTALL)
_DOT_ATOM = re.compile(rf"{DOT_ATOM}\Z", re.ASCII)
_DOMAIN = re.compile(rf"{DOMAIN}\Z", re.ASCII)
_UTF8_DOT_ATOM = re.compile(rf"(?:[{_ATEXT}]|[^\x00-\x7f])+(?:\.(?:[{_ATEXT}]|[^\x00-\x7f])+)*\Z")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SOURCE_ROUTE = re.compile(rf"@{DOMAIN}(?:,@{DOMAIN})*:", re.ASCII)
_FAST_DOMAIN: Final = MAX_PATH - MAX_LOCAL - len("<@>")
_ROUTING = frozenset("%!@")


class Address(Struct, frozen=True):
    """A mailbox. `text` is "" for the null reverse-path `<>`.

    `text` is as written, without source route; `local` is unquoted; `domain` is a lower-case A-label, or an address
    literal as written (`[192.0.2.1]`, `[IPv6:...]`); `utf8` says that SMTPUTF8 is needed.
    """

    text: str
    local: str
    domain: str
    utf8: bool = False


NULL_PATH: Final = Address("", "", "")


class AddressError(ValueError):
    """An address that is refused. `reason` says why, as a clause; `routed` marks the percent hack and its kin."""

    def __init__(self, reason: str, *, routed: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.routed = routed


def parse_reverse_path(argument: str) -> tuple[Address, str] | Answer:
    """`<path> parameters` after `MAIL FROM:` -> the address (NULL_PATH for `<>`) and the parameters as written."""
    parsed = _parse_fast(argument)
    if parsed is not None:
        return parsed
    try:
        path, parameters = _split_path(argument)
        return (_parse_path(path) if path else NULL_PATH), parameters
    except AddressError as error:
        if error.routed:
            return Replies.ROUTED_ADDRESS(address=argument.strip())
        return Replies.BAD_SENDER_SYNTAX(reason=error.reason)


def parse_forward_path(argument: str) -> tuple[Address, str] | Answer:
    """`<path> parameters` after `RCPT TO:` -> the address and the parameters as written."""
    parsed = _parse_fast(argument)
    if parsed is not None:
        return parsed
    try:
        path, parameters = _split_path(argument)
        if path.lower() == "postmaster":  # RFC 5321 4.5.1 lets it come without a domain
            return Replies.NO_POSTMASTER()
        if not path:
            raise AddressError("<> is no recipient")
        return _parse_path(path), parameters
    except AddressError as error:
        if error.routed:
            return Replies.ROUTED_ADDRESS(address=argument.strip())
        return Replies.BAD_RECIPIENT_SYNTAX(reason=error.reason)


def _parse_fast(argument: str) -> tuple[Address, str] | None:
    """What nearly every path is: ASCII, unquoted, no route. None: parse it step by step."""
    match = _FAST_PATH.match(argument)
    if match is None:
        return None
    local, domain, parameters = match.groups()
    address = plain_address(local, domain)
    return None if address is None else (address, parameters or "")


def plain_address(local: str, domain: str) -> Address | None:
    """The address of a DOT_ATOM and a DOMAIN, if that settles it; None: ask `parse_address`."""
    if len(local) > MAX_LOCAL or len(domain) > _FAST_DOMAIN or domain[-1].isdigit():
        return None
    return Address(f"{local}@{domain}", local, domain.lower())


def parse_address(text: str) -> Address:
    """A bare `local@domain`, as in JSON. Raises AddressError."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PATH - 2:
        raise AddressError(f"the address is longer than {MAX_PATH - 2} octets")
    if text.startswith('"'):
        quoted = _QUOTED.match(text)
        if quoted is None:
            raise AddressError("a quoted local part is not closed")
        written, rest = quoted[0], text[quoted.end() :]
        if not rest.startswith("@"):
            raise AddressError("@ must follow the quoted local part")
        local, domain = _unquote(quoted[1]), rest[1:]
    else:
        written, at, domain = text.rpartition("@")
        if not at:
            raise AddressError("the address has no @ and domain")
        local = written
        if not _ROUTING.isdisjoint(local):
            raise AddressError("the local part routes by %, ! or @", routed=True)
        if not (_DOT_ATOM if local.isascii() else _UTF8_DOT_ATOM).match(local):
            raise AddressError("the local part must be words of letters, digits and #$&'*+/=?^_`{|}~- joined by dots")
        if not local.isprintable():
            raise AddressError("the local part holds a control or invisible character")
    if len(local.encode("utf-8", "surrogatepass")) > MAX_LOCAL:
        raise AddressError(f"the local part is longer than {MAX_LOCAL} octets")
    name = canonical_domain(domain)
    utf8 = not text.isascii()
    return Address(f"{written}@{domain}", local, name, utf8)


def canonical_domain(domain: str) -> str:
    """The lower-case A-label form of a domain name, or an address literal as written. Raises AddressError."""
    if domain.startswith("["):
        return _literal(domain)
    if not domain.isascii():
        return _to_a_labels(domain)
    if not _DOMAIN.match(domain):
        raise AddressError("the domain must be labels of letters, digits and hyphens joined by dots")
    if len(domain) > MAX_DOMAIN:
        raise AddressError(f"the domain is longer than {MAX_DOMAIN} octets")
    if domain[domain.rfind(".") + 1 :].isdigit():
        raise AddressError("an IP address as domain needs brackets, as in user@[192.0.2.1]")
    return domain.lower()


def _split_path(argument: str) -> tuple[str, str]:
    """The text between the angle brackets, and what follows them."""
    text = argument.lstrip(" ")
    if not text.startswith("<"):
        raise AddressError("the address must stand in angle brackets")
    position = 1
    if text.startswith('<"'):  # a > inside the quotes closes nothing
        quoted = _QUOTED.match(text, 1)
        if quoted is None:
            raise AddressError("a quoted local part is not closed")
        position = quoted.end()
    end = text.find(">", position)
    if end < 0:
        raise AddressError("the closing angle bracket is missing")
    rest = text[end + 1 :]
    if rest and not rest.startswith(" "):
        raise AddressError("a space must separate the path from its parameters")
    return text[1:end], rest.strip(" ")


def _parse_path(path: str) -> Address:
    """A path without its angle brackets: the source route goes, the mailbox is parsed."""
    if path.startswith("@"):
        route = _SOURCE_ROUTE.match(path)
        if route is None:
            raise AddressError("the source route is malformed; leave it out")
        path = path[route.end() :]
    return parse_address(path)


def _unquote(content: str) -> str:
    """The local part inside quotes (RFC 5321 4.1.2: printable ASCII and spaces; RFC 6531 adds UTF-8)."""
    local = re.sub(r"\\(.)", r"\1", content, flags=re.DOTALL)
    if not local:
        raise AddressError("the local part is empty")
    if not local.isprintable():
        raise AddressError("the local part holds a control or invisible character")
    if not _ROUTING.isdisjoint(local):
        raise AddressError("the quoted local part routes by %, ! or @", routed=True)
    return local


def _literal(domain: str) -> str:
    """An address literal, checked (RFC 5321 4.1.3)."""
    inner = domain[1:-1]
    try:
        if not domain.endswith("]"):
            raise ValueError
        if inner[:5].lower() == "ipv6:":
            if "%" in inner:  # a zone is no part of an address literal
                raise ValueError
            ipaddress.IPv6Address(inner[5:])
        else:
            ipaddress.IPv4Address(inner)
    except ValueError as error:
        raise AddressError("an address literal must be [192.0.2.1] or [IPv6:2001:db8::1]") from error
    return domain


@lru_cache(maxsize=4096)
def _to_a_labels(domain: str) -> str:
    """IDNA 2008 after UTS 46 mapping (RFC 5891; RFC 6531 3.7.1)."""
    if not domain.isprintable():  # UTS 46 would drop what nobody sees, and other readers would not
        raise AddressError("the domain holds a control or invisible character")
    try:
        name = idna.encode(domain, uts46=True).decode("ascii").lower()
    except UnicodeError as error:  # idna.IDNAError is one; surrogates raise the base class
        raise AddressError("the domain is no valid internationalised name (IDNA 2008)") from error
    return canonical_domain(name)
