"""`waypost messages`: where a message is, and each attempt with its dialogue."""

from typing import Annotated, Any

import typer

from . import http
from .output import Format, OutputOption, as_json, clock, printable, table

app = typer.Typer(help="Where a message is, and what happened to it.", no_args_is_help=True)

_SIGNS = {"c": ">>>", "s": "<<<", "-": "---"}


@app.command()
def show(
    mail: Annotated[str, typer.Argument(metavar="ID", help="as in '250 2.0.0 Ok: queued as ID'")],
    dialogue: Annotated[bool, typer.Option(help="show the SMTP dialogue of each attempt")] = True,
    output: OutputOption = Format.TABLE,
    api: http.ApiOption = http.DEFAULT_API,
) -> None:
    """Show one message: recipients, what waits, and everything that happened."""
    found = http.get(api, f"/v1/messages/{mail}")
    if output is Format.JSON:
        as_json(found)
        return
    typer.echo(printable(f"{found['id']}  {found['state']}  {found['subject'] or '(no subject)'}"))
    typer.echo(
        printable(
            f"from {found['sender'] or '<>'}, accepted {clock(found['accepted'])}, {found['size']} octets"
            + (f", by {found['credential']}" if found["credential"] else "")
        )
    )
    typer.echo()
    table(
        ("recipient", "state", "attempts", "next", "last reply"),
        (
            (r["address"], r["state"], r["attempts"], clock(r["next_attempt"]), _reply(r["reply"]))
            for r in found["recipients"]
        ),
    )
    for ticket in found["waiting"]:
        if ticket["hold"]:
            hold = ticket["hold"]
            typer.echo(printable(f"\nheld since {clock(hold['since'])} ({hold['cause']}): {hold['reason']}"))
    typer.echo()
    for event in found["events"]:
        typer.echo(printable(f"{clock(event['at'])}  {event['kind']:<10} {_told(event)}"))
        if dialogue:
            for line in event["dialogue"]:
                typer.echo(printable(f"    {line['at']:8.3f} {_SIGNS.get(line['who'], '   ')} {line['text']}"))


def _reply(reply: dict[str, Any] | None) -> str:
    if not reply:
        return "-"
    return " ".join(str(part) for part in (reply["code"] or "", reply["enhanced"], reply["text"]) if part)


def _told(event: dict[str, Any]) -> str:
    parts = [event["destination"]]
    if event["site"] and event["site"] != event["destination"]:
        parts.append(f"via {event['site']}")
    if event["attempt"]:
        parts.append(f"attempt {event['attempt']}")
    if event["duration"]:
        parts.append(f"{event['duration']:.3f} s")
    parts += [event["tls"], event["text"], event["related"]]
    if event["by"]:
        parts.append(f"by {event['by']}")
    if event["next_attempt"]:
        parts.append(f"next {clock(event['next_attempt'])}")
    return "  ".join(part for part in parts if part)
