"""The first mail: sent as a user would, through the submission port, and followed to its end."""

import asyncio
import datetime as dt
import email.policy
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from .options import DevOptions, DevState, address, api_url, reach

_SUBMIT = 5.0  # s, each step of the submission
_FOLLOW = 10.0  # s until it has come to its end
_ENDS = ("delivered", "relayed", "failed", "expired", "deleted")


def credential(data: Path, domain: str = "") -> dict[str, str] | None:
    """The first login among the Secrets that were made for senders (of `domain`, if given), or None."""
    for path in sorted((data / "secrets").glob("*/*.yaml")):
        secret = YAML(typ="safe").load(path.read_text())
        fields: dict[str, str] = (secret or {}).get("stringData") or {}
        if fields.get("username", "").endswith(f"@{domain}" if domain else "") and fields.get("password"):
            return {key: str(value) for key, value in fields.items()}
    return None


async def send(options: DevOptions, state: DevState, say: Callable[[str], None]) -> None:
    """Sends and follows it; says what it did. Never leaves the machine: only where the inbox takes everything."""
    if not options.inbox:
        return
    login = credential(options.data)
    if login is None:
        say("\nNo first mail: no MailDomain here has a Secret sender with a login of its own.")
        return
    domain = login["username"].rpartition("@")[2]
    try:
        mail = await asyncio.to_thread(_submit, options, state, login, domain)
    except (smtplib.SMTPException, OSError) as error:
        say(f"\nThe first mail was refused: {error}")
        return
    say(f"\nFirst mail: app@{domain} -> you@{domain}, queued as {mail}")
    for line in await _follow(options, mail):
        say(f"  {line}")
    say(f"  {api_url(options)}/inbox/{mail}")
    say("\nSend your own:")
    server = address(reach(options.host), options.submission_port)
    say(
        f"  swaks --server {server} -tls --auth-user {login['username']} "
        f"--auth-password {login['password']} \\\n    --from app@{domain} --to you@{domain}"
    )


def _submit(options: DevOptions, state: DevState, login: dict[str, str], domain: str) -> str:
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"] = f"app@{domain}"
    message["To"] = f"you@{domain}"
    message["Subject"] = "Hello from Waypost"
    message.set_content("This mail came in by SMTP, was stored on disk, and went its way to the inbox.\n")
    context = ssl.create_default_context(cafile=str(state.ca))
    with smtplib.SMTP(reach(options.host), options.submission_port, timeout=_SUBMIT) as client:
        client.starttls(context=context)
        client.ehlo()
        client.login(login["username"], login["password"])
        client.mail(f"app@{domain}")
        client.rcpt(f"you@{domain}")
        code, reply = client.data(message.as_bytes())
        if code != 250:
            raise smtplib.SMTPDataError(code, reply)
        return reply.decode().rsplit(" ", 1)[-1]


async def _follow(options: DevOptions, mail: str) -> list[str]:
    """The mail's events as lines, once it has come to its end or the time is up."""
    message: dict[str, Any] = {}
    trouble = "the history does not show it yet"
    try:
        async with (
            asyncio.timeout(_FOLLOW),
            httpx.AsyncClient(base_url=api_url(options), timeout=5.0, trust_env=False, headers=_token(options)) as api,
        ):
            while not _told_whole(message):
                try:
                    answer = await api.get(f"/v1/messages/{mail}")
                except httpx.HTTPError as error:
                    trouble = f"the API does not answer: {error!r}"
                else:
                    if answer.status_code == 200:
                        message = answer.json()
                await asyncio.sleep(0.1)
    except TimeoutError:
        state = message.get("state", trouble)
        return [*_lines(message), f"not at its end after {_FOLLOW:g} s ({state}); `waypost messages show {mail}`"]
    return _lines(message)


def _told_whole(message: dict[str, Any]) -> bool:
    """Whether its end is told, and each service's part before: their events come in any order."""
    told = {event["kind"] for event in message.get("events", ())}
    return {"accepted", "attempt"} <= told and not told.isdisjoint(_ENDS)


def _lines(message: dict[str, Any]) -> list[str]:
    return [
        f"{dt.datetime.fromtimestamp(event['at'], dt.UTC):%H:%M:%S.%f}"[:-3] + f"  {event['kind']:<10} {_told(event)}"
        for event in message.get("events", ())
    ]


def _told(event: dict[str, Any]) -> str:
    replies = [one["reply"]["text"] for one in event["recipients"] if one.get("reply")]
    return "  ".join(part for part in (event["destination"], event["tls"], event["text"], *replies[:1]) if part)


def _token(options: DevOptions) -> dict[str, str]:
    path = options.data / "keys" / "api-token"
    return {"Authorization": f"Bearer {path.read_text().strip()}"} if path.exists() else {}
