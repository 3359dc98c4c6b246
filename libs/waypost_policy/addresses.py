"""Mailbox addresses of the envelope: parsing of RFC 5321 4.1.2 paths, with RFC 6531's UTF-8.

One regular expression decides what nearly every address is; what it does not match is parsed slowly and, if refused,
refused with the reason. Domains become lower-case A-labels, source routes are stripped (RFC 5321 appendix F.2), and
local parts that route (`a%b`, `a!b`) are refused.
"""

from msgspec import Struct

from .replies import Answer


class Address(Struct, frozen=True):
    """A mailbox. `text` is "" for the null reverse-path `<>`.

    `text` is as written without source route; `local` is unquoted; `domain` is a lower-case A-label, or an address
    literal as written (`[192.0.2.1]`, `[IPv6:...]`); `utf8` says that SMTPUTF8 is needed.
    """

    text: str
    local: str
    domain: str
    utf8: bool = False


NULL_PATH = Address("", "", "")


class AddressError(ValueError):
    """A path or address that is refused; `reason` says why, without a capital or full stop. `kind` chooses the reply."""

    def __init__(self, reason: str, kind: str = "syntax", address: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind  # "syntax" | "routed"
        self.address = address


def parse_reverse_path(argument: str) -> tuple[Address, str] | Answer:
    """`<path> parameters` after `MAIL FROM:` -> the address (NULL_PATH for `<>`) and the parameters as written."""
    raise NotImplementedError


def parse_forward_path(argument: str) -> tuple[Address, str] | Answer:
    """`<path> parameters` after `RCPT TO:` -> the address and the parameters as written."""
    raise NotImplementedError


def parse_address(text: str) -> Address:
    """A bare `local@domain` (as in JSON). Raises AddressError."""
    raise NotImplementedError
