"""TLS towards next hops: what a plan asks for, the contexts, and what was agreed.

Opportunistic TLS authenticates nobody (RFC 7435): any certificate and old ciphers will do, since the alternative is
plaintext. A smarthost that gets a password is verified, by name, against the trust store.
"""

import ssl
from functools import cached_property
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
    """The client contexts of the process, made when first needed. `ca_file` adds to the system's trust store."""

    def __init__(self, ca_file: str = "") -> None:
        self._ca_file = ca_file

    @cached_property
    def _verified(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._ca_file:
            context.load_verify_locations(cafile=self._ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @cached_property
    def _unverified(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Mail servers with 1024-bit keys are still about: encrypted to them beats plaintext.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        return context

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
