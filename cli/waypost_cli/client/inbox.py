"""`waypost inbox`: mail that was kept inside instead of leaving."""

from typing import Annotated

import typer

from . import http
from .output import Format, OutputOption, as_json, clock, printable, table


def inbox(
    mail: Annotated[str, typer.Argument(metavar="[ID]", help="show this mail")] = "",
    source: Annotated[bool, typer.Option("--source", help="the very bytes of the mail")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    output: OutputOption = Format.TABLE,
    api: http.ApiOption = http.DEFAULT_API,
) -> None:
    """List the mail that was kept inside instead of leaving, or show one."""
    if mail and source:
        typer.echo(http.request(api, "GET", f"/v1/inbox/{mail}/source").content, nl=False)
        return
    found = http.get(api, f"/v1/inbox/{mail}") if mail else http.get(api, "/v1/inbox", limit=limit)
    if output is Format.JSON:
        as_json(found)
    elif mail:
        for name, value in found["headers"]:
            typer.echo(printable(f"{name}: {value}"))
        typer.echo("\n" + printable(found["text"]))
        for part in found["attachments"]:
            typer.echo(printable(f"[attachment {part['name'] or '(no name)'}, {part['type']}, {part['size']} octets]"))
    elif not found:
        typer.echo("The inbox is empty.")
    else:
        table(
            ("id", "delivered", "from", "to", "subject"),
            (
                (
                    one["id"],
                    clock(one["delivered"]),
                    one["sender"] or "<>",
                    ", ".join(one["recipients"]),
                    one["subject"],
                )
                for one in found
            ),
        )
