"""`waypost queue`: what waits, and what can be done with it."""

import time
from typing import Annotated, Any

import typer

from . import http
from .output import Format, OutputOption, age, as_json, clock, table

app = typer.Typer(help="What waits, by destination, and what can be done with it.", no_args_is_help=True)

_Mail = Annotated[str, typer.Argument(metavar="ID", help="a mail id")]
_Domain = Annotated[str, typer.Option("--domain", help="only this destination domain of the mail")]
_Reason = Annotated[str, typer.Option("--reason", help="noted with the action")]


@app.command("ls")
def ls(
    domain: Annotated[str, typer.Argument(metavar="[DOMAIN]", help="what waits for this destination; - for all")] = "",
    state: Annotated[str | None, typer.Option(help="ready, deferred or held")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    output: OutputOption = Format.TABLE,
    api: http.ApiOption = http.DEFAULT_API,
) -> None:
    """List destinations with their counts, or the tickets of one."""
    if not domain and state is None:
        _destinations(http.get(api, "/v1/queue", limit=limit), output)
        return
    found = http.get(api, f"/v1/queue/{domain or '-'}", state=state, limit=limit)
    if output is Format.JSON:
        as_json(found)
    elif not found:
        typer.echo("Nothing waits there.")
    else:
        table(
            ("id", "state", "attempts", "next", "from", "to", "why"),
            (
                (
                    one["mail"],
                    one["state"],
                    one["attempts"],
                    clock(one["due"]) if one["state"] == "deferred" else "-",
                    one["sender"] or "<>",
                    ", ".join(one["recipients"]),
                    _why(one),
                )
                for one in found
            ),
        )


def _destinations(found: list[dict[str, Any]], output: Format) -> None:
    if output is Format.JSON:
        as_json(found)
    elif not found:
        typer.echo("Nothing waits.")
    else:
        now = time.time()
        table(
            ("destination", "ready", "deferred", "held", "oldest"),
            (
                (o["domain"], o["waiting"], o["deferred"], o["held"], age(now - o["oldest"]) if o["oldest"] else "-")
                for o in found
            ),
        )


def _why(ticket: dict[str, Any]) -> str:
    if ticket["hold"]:
        return str(ticket["hold"]["reason"])
    last = ticket["last"]
    return f"{last['code'] or ''} {last['enhanced']} {last['text']}".strip() if last else ""


def _act(action: str, mail: str, domain: str, reason: str, output: Format, api: str) -> None:
    body = {"action": action, "domain": domain, "reason": reason}
    done = http.request(api, "POST", f"/v1/messages/{mail}/actions", json=body).json()
    if output is Format.JSON:
        as_json(done)
        return
    told = [f"{done['acted']} acted upon"]
    if done["in_delivery"]:
        told.append(f"{done['in_delivery']} in delivery: its worker heeds it before the next attempt")
    typer.echo(f"{action} {mail}: {', '.join(told)}{'. ' + done['detail'] if done['detail'] else ''}")


@app.command()
def hold(
    mail: _Mail,
    domain: _Domain = "",
    reason: _Reason = "",
    output: OutputOption = Format.TABLE,
    api: http.ApiOption = http.DEFAULT_API,
) -> None:
    """Keep a mail without attempts until it is released; its age goes on."""
    _act("hold", mail, domain, reason, output, api)


@app.command()
def release(
    mail: _Mail,
    domain: _Domain = "",
    reason: _Reason = "",
    output: OutputOption = Format.TABLE,
    api: http.ApiOption = http.DEFAULT_API,
) -> None:
    """Let a held mail go on."""
    _act("release", mail, domain, reason, output, api)


@app.command()
def retry(
    mail: _Mail,
    domain: _Domain = "",
    reason: _Reason = "",
    output: OutputOption = Format.TABLE,
    api: http.ApiOption = http.DEFAULT_API,
) -> None:
    """Attempt a deferred mail now."""
    _act("retry", mail, domain, reason, output, api)


@app.command()
def bounce(
    mail: _Mail,
    domain: _Domain = "",
    reason: _Reason = "",
    output: OutputOption = Format.TABLE,
    api: http.ApiOption = http.DEFAULT_API,
) -> None:
    """Give a mail up now, and tell its sender with a DSN."""
    _act("bounce", mail, domain, reason, output, api)


@app.command()
def delete(
    mail: _Mail,
    domain: _Domain = "",
    reason: _Reason = "",
    output: OutputOption = Format.TABLE,
    api: http.ApiOption = http.DEFAULT_API,
) -> None:
    """Give a mail up now, and tell nobody."""
    _act("delete", mail, domain, reason, output, api)
