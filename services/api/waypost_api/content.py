"""A mail's content for people: headers, text, attachments' names. Bodies are hostile: bounded, decoded, never run."""

import email
import email.policy
from typing import Any

MAX_PARSED = 2 << 20  # octets of content looked at
MAX_TEXT = 100_000  # characters shown
MAX_HEADERS = 200
MAX_PARTS = 100


def headers_of(content: bytes) -> list[tuple[str, str]]:
    """Header fields as written, unfolded; octets that are no UTF-8 are shown as replacement characters."""
    head = content[:131_072].partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    found: list[tuple[str, str]] = []
    for line in head.split("\r\n"):
        if line[:1] in (" ", "\t") and found:
            name, value = found[-1]
            found[-1] = (name, value + " " + line.strip())
        else:
            name, colon, value = line.partition(":")
            if colon:
                found.append((name, value.strip()))
    return found[:MAX_HEADERS]


def parts_of(content: bytes) -> tuple[str, list[dict[str, Any]]]:
    """(text, attachments as name, type and size). What can't be parsed is shown as it is."""
    try:
        message = email.message_from_bytes(content[:MAX_PARSED], policy=email.policy.default)
        body = message.get_body(("plain", "html"))
        text = str(body.get_content()) if body is not None else ""
        attachments = [
            {
                "name": (part.get_filename() or "")[:255],
                "type": part.get_content_type(),
                "size": len(part.get_payload(decode=True) or b""),
            }
            for _, part in zip(range(MAX_PARTS), message.iter_attachments(), strict=False)
        ]
    except (ValueError, LookupError, KeyError, AttributeError, TypeError, IndexError):
        # the email package raises these on malformed MIME, of which an inbox is full
        return content[:MAX_TEXT].decode("utf-8", "replace"), []
    return text[:MAX_TEXT], attachments
