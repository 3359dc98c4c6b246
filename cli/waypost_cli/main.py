"""The `waypost` command: services under `serve`, all of them at once under `dev`, and a client, noun then verb."""

from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated

import typer

from . import serve as serving
from .client import inbox, messages, queue, resources, send
from .exits import Exit, fail

app = typer.Typer(
    name="waypost",
    help="A Kubernetes-native SMTP relay. A 250 means the mail is on disk.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(messages.app, name="messages")
app.add_typer(queue.app, name="queue")
app.command("inbox")(inbox.inbox)
app.command("send")(send.send)
app.command("get")(resources.get)
app.command("check")(resources.check)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(package_version("waypost"))


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help=f"one of: {', '.join(sorted(serving.services()))}")],
) -> None:
    """Run one service in this process; its settings are WAYPOST_... environment variables."""
    raise typer.Exit(serving.serve(service))


@app.command()
def dev(
    manifests: Annotated[str, typer.Option(help="folder of MailDomain, Secret, ... manifests; - reads standard input")],
    data: Annotated[Path, typer.Option(help="folder that keeps queue, keys and history over restarts")] = Path("data"),
    host: Annotated[
        str, typer.Option(help="address to listen on; off loopback the API asks for a token")
    ] = "127.0.0.1",
    mx_port: Annotated[int, typer.Option(min=1, max=65535)] = 2525,
    submission_port: Annotated[int, typer.Option(min=1, max=65535)] = 2587,
    submissions_port: Annotated[int, typer.Option(min=1, max=65535)] = 2465,
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="API and dashboard")] = 8080,
    dns: Annotated[str, typer.Option(metavar="HOST:PORT", help="ask this DNS server alone")] = "",
    remote_port: Annotated[int, typer.Option(min=1, max=65535, help="port of every MX")] = 25,
    allow_private_mx: Annotated[bool, typer.Option(help="deliver to MX at loopback and private addresses")] = False,
    no_inbox: Annotated[bool, typer.Option(help="deliver for real, reserved names too")] = False,
    workers: Annotated[int, typer.Option(min=1, max=16, help="ingress processes")] = 1,
    secret: Annotated[list[str] | None, typer.Option(metavar="NS/NAME=KEY=@FILE", help="a Secret's value")] = None,
    service: Annotated[list[str] | None, typer.Option(metavar="NS/NAME=HOST:PORT", help="where a Service is")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "warning",
    no_first_mail: Annotated[bool, typer.Option(help="send no first mail")] = False,
) -> None:
    """Run NATS and every service on this machine, and send a first mail through."""
    from .dev.options import DevOptions
    from .dev.supervisor import run

    raise typer.Exit(
        run(
            DevOptions(
                data=data.absolute(),
                manifests=manifests,
                host=host,
                mx_port=mx_port,
                submission_port=submission_port,
                submissions_port=submissions_port,
                http_port=http_port,
                dns=dns,
                remote_port=remote_port,
                allow_private_mx=allow_private_mx,
                inbox=not no_inbox,
                workers=workers,
                secrets=tuple(secret or ()),
                services=tuple(service or ()),
                log_level=log_level,
                first_mail=not no_first_mail,
            )
        )
    )


@app.command("dev-token")
def dev_token(
    account: Annotated[str, typer.Argument(metavar="NS/NAME", help="the ServiceAccount")],
    ttl: Annotated[str, typer.Option(help="how long it is good, as 90s, 30m or 1h")] = "1h",
    data: Annotated[Path, typer.Option(help="the folder of `waypost dev`")] = Path("data"),
) -> None:
    """Mint a ServiceAccount token that this machine's `waypost dev` accepts as a cluster would accept its own."""
    from waypost_config import devtoken

    namespace, slash, name = account.partition("/")
    if not (slash and namespace and name):
        fail(Exit.USAGE, f"{account!r} is no NS/NAME, as in shop/web")
    try:
        seconds = devtoken.parse_ttl(ttl)
        typer.echo(devtoken.mint(devtoken.load_or_create(devtoken.key_path(data)), namespace, name, seconds))
    except (OSError, ValueError) as error:
        fail(Exit.FAILED, str(error))


def main() -> int:
    """Entry point."""
    app()
    return 0
