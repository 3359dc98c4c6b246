"""TLS towards next hops: what a plan asks for, the contexts, and what was agreed.

Opportunistic TLS authenticates nobody (RFC 7435): any certificate and old ciphers will do, since the alternative is
plaintext. A smarthost that gets a password is verified, by name, against the trust store.
"""

import ssl
from typing import Literal

from msgspec import Struct

from waypost_queue.config import Smarthost

TlsMode = Literal["none", "opportunistic", "required", "implicit"]


class TlsPolicy(Struct, frozen=True):
    """`opportunistic` falls back to plaintext; `required` and `implicit` never do."""

    mode: TlsMode
    verify: bool = False


def policy(floor: Literal["Opportunistic", "Encrypted"], smarthost: Smarthost | None) -> TlsPolicy:
    """The policy of a route: a smarthost's own, else the floor of the plan."""
    if smarthost is None:
        return TlsPolicy("required" if floor == "Encrypted" else "opportunistic")
    verify = bool(smarthost.username)
    if smarthost.tls == "Implicit":
        return TlsPolicy("implicit", verify)
    if smarthost.tls == "StartTLS":
        return TlsPolicy("required", verify)
    return TlsPolicy("required" if floor == "Encrypted" else "none")


class Contexts:
    """The client contexts of the process. `ca_file` adds to the system's trust store."""

    def __init__(self, ca_file: str = "") -> None:
        self._verified = ssl.create_default_context()
        if ca_file:
            self._verified.load_verify_locations(cafile=ca_file)
        self._unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._unverified.check_hostname = False
        self._unverified.verify_mode = ssl.CERT_NONE
        # Mail servers with 1024-bit keys are still about: encrypted to them beats plaintext.
        self._unverified.set_ciphers("DEFAULT:@SECLEVEL=0")
        for context in (self._verified, self._unverified):
            context.minimum_version = ssl.TLSVersion.TLSv1_2

    def of(self, tls: TlsPolicy) -> ssl.SSLContext:
        return self._verified if tls.verify else self._unverified


def describe(tls_object: ssl.SSLObject | None, tls: TlsPolicy) -> str:
    """What was agreed, as it is shown: "TLSv1.3 TLS_AES_256_GCM_SHA384, verified"; "" for plaintext."""
    if tls_object is None:
        return ""
    cipher = tls_object.cipher()
    return f"{tls_object.version()} {cipher[0] if cipher else ''}{', verified' if tls.verify else ''}"


def failure(error: BaseException) -> str:
    """Why a handshake failed, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed: {error.reason or type(error).__name__}"
    return f"the TLS handshake failed: {str(error) or type(error).__name__}"
