"""Tables as kubectl prints them: the same columns that the CustomResourceDefinitions declare."""

import re
import typing
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from .status import StoredObject


class Column(msgspec.Struct, frozen=True):
    """One of `additionalPrinterColumns`; `priority` 1 is shown by `-o wide` alone."""

    name: str
    path: str  # JSONPath
    type: typing.Literal["string", "date"] = "string"
    priority: int = 0


def _condition(name: str, field: str) -> str:
    return f".status.conditions[?(@.type=='{name}')].{field}"


_AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")
COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "MailDomain": (
        Column("Domain", ".spec.domain"),
        Column("Ready", _condition("Ready", "status")),
        Column("Programmed", _condition("Programmed", "status")),
        Column("DNS", _condition("DNSReady", "status")),
        Column("Reason", _condition("Ready", "reason"), priority=1),
        Column("Message", _condition("Ready", "message"), priority=1),
        _AGE,
    ),
    "DestinationPolicy": (
        Column("Accepted", _condition("Accepted", "status")),
        Column("State", ".spec.state"),
        Column("Reason", _condition("Accepted", "reason"), priority=1),
        Column("Message", _condition("Accepted", "message"), priority=1),
        _AGE,
    ),
}
_STEP: Final = re.compile(r"\.([A-Za-z]+)|\[\?\(@\.([A-Za-z]+)=='([^']*)'\)\]")
_GAP: Final = 3  # spaces between columns, as kubectl has


def table(
    kind: str, objects: Iterable[StoredObject], *, now: float, wide: bool = False, with_namespace: bool = False
) -> str:
    """Objects of one kind as lines of text, sorted by namespace and name; "" when there are none."""
    columns = [column for column in COLUMNS[kind] if wide or not column.priority]
    lead = ["NAMESPACE", "NAME"] if with_namespace else ["NAME"]
    rows = [[*lead, *(column.name.upper() for column in columns)]]
    for item in sorted(objects, key=lambda item: (item.namespace, item.name)):
        manifest = item.manifest()
        names = [item.namespace, item.name] if with_namespace else [item.name]
        rows.append([*names, *(_cell(column, manifest, now) for column in columns)])
    return _aligned(rows) if len(rows) > 1 else ""


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width + _GAP) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        lines.append(("".join(cells) + row[-1]).rstrip() + "\n")
    return "".join(lines)


def _cell(column: Column, manifest: dict[str, Any], now: float) -> str:
    value = lookup(manifest, column.path)
    if column.type == "date":
        return "<unknown>" if value is None else age(now - datetime.fromisoformat(value).timestamp())
    return "" if value is None else str(value).replace("\n", " ")


def lookup(value: Any, path: str) -> Any:
    """The value at a JSONPath of fields and `[?(@.name=='value')]`; None when it is not there."""
    for field, name, wanted in _STEP.findall(path):
        if field:
            value = value.get(field) if isinstance(value, dict) else None
        else:
            value = next((item for item in value or () if item.get(name) == wanted), None)
    return value


def age(seconds: float) -> str:
    """A time span as kubectl writes it: `9s`, `5m12s`, `3h`, `2d4h`, `40d`."""
    total = max(0, int(seconds))
    minutes, hours, days = total // 60, total // 3600, total // 86_400
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 2 * 365:
        return f"{days}d"
    years = days // 365
    return _two(years, "y", days % 365, "d") if years < 8 else f"{years}y"


def _two(first: int, first_unit: str, second: int, second_unit: str) -> str:
    return f"{first}{first_unit}{second}{second_unit}" if second else f"{first}{first_unit}"
