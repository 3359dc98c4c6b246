"""The From field's mailbox list (RFC 5322 3.4), strictly: every address that a reader could see is found or refused.

Display names may hold anything that their quotes, comments and encoded words allow: they prove nothing and are not
looked at, save that an unquoted address in a display name is checked like any other. Groups (RFC 6854), routes, white
space or comments inside an address, and encoded words in a local part are refused: readers disagree about what they
mean.
"""

import re
from typing import Final

from .addresses import DOMAIN, DOT_ATOM, Address, AddressError, parse_address, plain_address

MAX_MAILBOXES: Final = 32

_ADDRESS = rf"({DOT_ATOM})@({DOMAIN})"
_SIMPLE = re.compile(
    rf'[ \t]*(?:(?:"[^"\\]*"|[^"\\(),:;<>@\[\]]*)[ \t]*<{_ADDRESS}>|{_ADDRESS})[ \t]*\Z'.encode("ascii"),
)
_TOKEN = re.compile(
    r'(?P<space>[ \t]+)|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<literal>\[[^\[\]\\]*\])'
    r"|(?P<special>[<>@,:;])|(?P<comment>\()|(?P<atom>[^ \t()<>\[\]:;@\\,\"]+)",
    re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"\\.|[()]", re.DOTALL)
_ENCODED_WORD = re.compile(r"=\?[^?]*\?[^?]*\?")

Token = tuple[str, str]
"""(kind, text)."""


class MailboxError(ValueError):
    """Why the field is refused, as a clause."""


def parse_mailboxes(value: bytes) -> tuple[Address, ...]:
    """Every address in the (unfolded) value of a From field, in order. Raises MailboxError."""
    simple = _SIMPLE.match(value)
    if simple is not None:
        local, domain = (part.decode("ascii") for part in simple.groups() if part is not None)
        address = None if "=?" in local else plain_address(local, domain)
        if address is not None:
            return (address,)
    text = value.decode("utf-8", "surrogateescape")
    mailboxes: list[Address] = []
    for element in _elements(_tokens(text)):
        mailboxes += _mailbox(element)
        if len(mailboxes) > MAX_MAILBOXES:
            raise MailboxError(f"it names more than {MAX_MAILBOXES} mailboxes")
    return tuple(mailboxes)


def _tokens(text: str) -> list[Token]:
    """The tokens of RFC 5322 3.2, a comment being one whatever it nests."""
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise MailboxError(f"{_UNEXPECTED.get(text[position], 'a character')} stands where none may")
        kind = match.lastgroup or ""
        end = match.end()
        if kind == "comment":
            end = _comment_end(text, end)
        tokens.append((kind, text[position:end]))
        position = end
    return tokens


_UNEXPECTED: Final = {
    '"': "an unclosed quote",
    ")": "an unopened comment",
    "[": "an unclosed bracket",
    "]": "an unopened bracket",
    "\\": "a backslash outside quotes",
}


def _comment_end(text: str, position: int) -> int:
    depth = 1
    while depth:
        match = _COMMENT_EDGE.search(text, position)
        if match is None:
            raise MailboxError("a comment is not closed")
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        position = match.end()
    return position


def _elements(tokens: list[Token]) -> list[list[Token]]:
    """The list's elements, parted by commas outside angle brackets."""
    elements: list[list[Token]] = [[]]
    for token in tokens:
        if token[1] == "," and token[0] == "special":
            elements.append([])
        else:
            elements[-1].append(token)
    return elements


def _mailbox(tokens: list[Token]) -> list[Address]:
    """The address of one element; two if its display name is, unquoted, an address itself."""
    meaning = [token for token in tokens if token[0] not in ("space", "comment")]
    if not meaning:
        raise MailboxError("it is empty, or has an empty place between commas")
    specials = [text for kind, text in meaning if kind == "special"]
    if ":" in specials or ";" in specials:
        raise MailboxError("a group (RFC 6854) or an unquoted colon names no sender; quote the display name")
    if "<" not in specials and ">" not in specials:
        return [_spec(tokens)]
    if specials.count("<") != 1 or specials.count(">") != 1 or meaning[-1] != ("special", ">"):
        raise MailboxError("it must have one address in angle brackets, at the end")
    opening = tokens.index(("special", "<"))
    closing = tokens.index(("special", ">"))
    inside = tokens[opening + 1 : closing]
    if any(kind == "comment" for kind, _ in inside):
        raise MailboxError("a comment stands inside the angle brackets")
    name = tokens[:opening]
    if any(kind == "literal" for kind, _ in name):
        raise MailboxError("a display name with brackets must be quoted")
    shown = [_spec(name)] if ("special", "@") in name else []
    return [*shown, _spec(inside)]


def _spec(tokens: list[Token]) -> Address:
    """local@domain, with white space and comments at its ends only."""
    edges = ("space", "comment")
    start, stop = 0, len(tokens)
    while start < stop and tokens[start][0] in edges:
        start += 1
    while stop > start and tokens[stop - 1][0] in edges:
        stop -= 1
    spec = tokens[start:stop]
    if len(spec) != 3 or spec[1] != ("special", "@") or spec[0][0] not in ("atom", "quoted") or spec[2][0] in edges:
        raise MailboxError("an address must be local@domain without spaces, comments or routes; quote the display name")
    if _ENCODED_WORD.search(spec[0][1]):
        raise MailboxError("an encoded word stands in an address")
    return _address("".join(text for _, text in spec))


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise MailboxError(error.reason) from error
