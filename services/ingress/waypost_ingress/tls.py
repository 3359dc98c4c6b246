"""TLS of the listeners: one context, made again when the certificate or key file changes.

A running connection keeps the context that it began with. Files that don't fit each other (a rotation half done, a
Secret half written) leave the last good pair in force.
"""

import ssl
from pathlib import Path
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)

ALPN: Final = "smtp"
_CLIENT_HELLO: Final = 1
_ALPN_EXTENSION: Final = 16


def make_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A server context: TLS 1.2 and up, no compression, no renegotiation. Raises OSError (ssl.SSLError is one)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols([ALPN])
    # OpenSSL goes on when no protocol matches, and Python has no public look at the client's offer.
    context._msg_callback = _on_message  # type: ignore[attr-defined]
    return context


def _on_message(tls: Any, direction: str, _version: Any, _content: Any, message: Any, data: bytes) -> None:
    # An exception would be lost here, so the finding is left with the connection's own object.
    if direction == "read" and message == _CLIENT_HELLO:
        offered = alpn_of(data)
        tls.waypost_foreign = bool(offered) and ALPN.encode() not in offered


def is_foreign(tls: ssl.SSLObject) -> bool:
    """The client offered other protocols than SMTP by ALPN: a browser that was led here (ALPACA)."""
    return getattr(tls, "waypost_foreign", False)


def alpn_of(hello: bytes) -> tuple[bytes, ...]:
    """The protocols that a ClientHello (RFC 8446 4.1.2, with its four-octet handshake header) offers by ALPN."""
    try:
        position = 4 + 2 + 32
        position += 1 + hello[position]  # session id
        position += 2 + int.from_bytes(hello[position : position + 2], "big")  # cipher suites
        position += 1 + hello[position]  # compression methods
        end = position + 2 + int.from_bytes(hello[position : position + 2], "big")
        position += 2
        while position + 4 <= end:
            kind = int.from_bytes(hello[position : position + 2], "big")
            length = int.from_bytes(hello[position + 2 : position + 4], "big")
            position += 4
            if kind == _ALPN_EXTENSION:
                names, at, last = [], position + 2, position + length
                while at < last:
                    names.append(hello[at + 1 : at + 1 + hello[at]])
                    at += 1 + hello[at]
                return tuple(names)
            position += length
    except IndexError:
        pass  # OpenSSL has its own opinion of what is malformed
    return ()


class Certificates:
    """The context now in force; `refresh` looks at the files."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises OSError when the files are missing or don't fit: a start with a bad certificate must not pass."""
        self._cert, self._key = cert, key
        self._seen = self._stamp()
        self._context = make_context(cert, key)

    @property
    def context(self) -> ssl.SSLContext:
        return self._context

    def refresh(self) -> bool:
        """Reads the files again if they changed. True when a new pair is in force."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            self._seen = stamp
            self._context = make_context(self._cert, self._key)
        except OSError as error:
            log.error("tls.reload_failed", cert=str(self._cert), key=str(self._key), error=str(error))
            return False
        log.info("tls.reloaded", cert=str(self._cert))
        return True

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes with the files, also when a symbolic link above them is turned (Kubernetes volumes)."""
        stats = [path.stat() for path in (self._cert, self._key)]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)
