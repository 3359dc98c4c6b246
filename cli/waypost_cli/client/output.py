"""How answers are shown: a table, or JSON as the API gave it."""

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED = 10_000  # columns


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Format, typer.Option("-o", "--output", help="table or json")]


def as_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns without rules, as kubectl prints them. Control characters of mail are shown, never run."""
    out = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for column in columns:
        out.add_column(column.upper(), overflow="fold", no_wrap=column == "id")
    for row in rows:
        out.add_row(*(Text(printable(str(cell))) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED  # a program or a file gets one line a row
    console.print(out)


def printable(text: str) -> str:
    """Text in which a control character of a hostile mail can't drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def clock(seconds: float | None) -> str:
    """Local time of day, with the date when it is not today's."""
    if not seconds:
        return "-"
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC).astimezone()
    today = dt.datetime.now(dt.UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M:%S")


def age(seconds: float) -> str:
    """A duration as kubectl writes ages."""
    whole = max(int(seconds), 0)
    for size, unit, below in ((86_400, "d", 10**9), (3600, "h", 86_400 * 2), (60, "m", 7200)):
        if whole >= size * 2 or (whole >= size and below == 10**9):
            return f"{whole // size}{unit}"
    return f"{whole}s"
