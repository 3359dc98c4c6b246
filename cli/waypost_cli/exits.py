"""Exit statuses of the `waypost` command, documented in docs/cli.md."""

from enum import IntEnum
from typing import NoReturn

import typer


class Exit(IntEnum):
    OK = 0
    FAILED = 1  # it was tried and did not work
    USAGE = 2  # the command line is wrong (also click's own)
    NOT_FOUND = 3  # no such message, domain or ticket
    UNAVAILABLE = 4  # the API, NATS or a port can't be reached or had
    INVALID = 5  # a manifest is wrong


def fail(status: Exit, message: str) -> NoReturn:
    """One line on standard error, and the exit status."""
    typer.echo(f"waypost: {message}", err=True)
    raise typer.Exit(status)
