"""Who calls the API: a named bearer token, or anyone on loopback where that is allowed."""

import hmac

from fastapi import Request

from .problems import ProblemError
from .settings import ApiSettings


def _host(request: Request) -> str:
    host = request.headers.get("host", "")
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


async def caller(request: Request) -> str:
    """The caller's name, for the record of who did what. Raises 401 or 403.

    Without tokens two things keep a web page elsewhere from acting through a browser on this machine: the Host header
    must be one of ours (DNS rebinding), and what changes anything must come as JSON (a cross-origin request then needs
    a preflight, which is never answered).
    """
    settings: ApiSettings = request.app.state.settings
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        for name, secret in settings.api_tokens.items():
            if hmac.compare_digest(secret.get_secret_value().encode(), token.strip().encode()):
                return f"token:{name}"
        raise ProblemError(401, "Unknown token", "The bearer token is none of those in WAYPOST_API_TOKENS.")
    if not settings.allow_anonymous:
        raise ProblemError(401, "Token needed", "Send 'Authorization: Bearer TOKEN' with one of WAYPOST_API_TOKENS.")
    if _host(request) not in settings.allowed_hosts:
        raise ProblemError(
            403, "Unknown host", f"Without a token this API answers only to {', '.join(settings.allowed_hosts)}."
        )
    if request.method not in ("GET", "HEAD") and not request.headers.get("content-type", "").startswith(
        "application/json"
    ):
        raise ProblemError(415, "JSON needed", "Send the request with 'Content-Type: application/json'.")
    peer = request.client.host if request.client else "unknown"
    return f"anonymous:{peer}"
