"""`waypost get` and `waypost check`: resources as kubectl shows them, and what is wrong with manifests."""

import datetime as dt
import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from waypost_cli.exits import Exit, fail

from . import http
from .output import Format, OutputOption


class ResourceFormat(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


KINDS = {
    "md": "MailDomain",
    "maildomain": "MailDomain",
    "maildomains": "MailDomain",
    "dpol": "DestinationPolicy",
    "destinationpolicy": "DestinationPolicy",
    "destinationpolicies": "DestinationPolicy",
}


def get(
    kind: Annotated[str, typer.Argument(help="md (MailDomain) or dpol (DestinationPolicy)")],
    name: Annotated[str, typer.Argument(metavar="[NAME]")] = "",
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="only this namespace")] = "",
    output: Annotated[
        ResourceFormat, typer.Option("-o", "--output", help="table, wide, json or yaml")
    ] = ResourceFormat.TABLE,
    api: http.ApiOption = http.DEFAULT_API,
) -> None:
    """Show MailDomains or DestinationPolicies with their conditions, as kubectl would."""
    full = KINDS.get(kind.lower())
    if full is None:
        fail(Exit.USAGE, f"no kind {kind!r}; there are md (MailDomain) and dpol (DestinationPolicy)")
    objects = http.get(api, f"/v1/resources/{full.lower()}", namespace=namespace or None)
    if name:
        objects = [one for one in objects if one["metadata"]["name"] == name]
        if not objects:
            fail(Exit.NOT_FOUND, f"no {full} {name!r}" + (f" in namespace {namespace}" if namespace else ""))
    shown: Any = objects[0] if name and len(objects) == 1 else {"apiVersion": "v1", "kind": "List", "items": objects}
    match output:
        case ResourceFormat.JSON:
            typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        case ResourceFormat.YAML:
            from waypost_config.writer import dump

            typer.echo(dump(shown), nl=False)
        case _:
            _table(full, objects, wide=output is ResourceFormat.WIDE, with_namespace=not namespace)


def _table(kind: str, objects: list[dict[str, Any]], *, wide: bool, with_namespace: bool) -> None:
    from waypost_config.status import StoredObject
    from waypost_config.table import table

    stored = [
        StoredObject(
            kind=kind,
            name=one["metadata"]["name"],
            namespace=one["metadata"].get("namespace", ""),
            created=dt.datetime.fromisoformat(created).timestamp()
            if (created := one["metadata"].get("creationTimestamp"))
            else 0.0,
            generation=one["metadata"].get("generation", 0),
            spec=one["spec"],
            status=one.get("status", {}),
        )
        for one in objects
    ]
    text = table(kind, stored, now=time.time(), wide=wide, with_namespace=with_namespace and kind == "MailDomain")
    typer.echo(text or "No resources found.", nl=not text)


def check(
    manifests: Annotated[list[Path], typer.Argument(help="files or folders", metavar="MANIFESTS...")],
    pool: Annotated[list[str] | None, typer.Option(help="a delivery pool that exists (default: any)")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Read manifests as `waypost dev` and a cluster would, and say what is wrong, with file, line and field."""
    from waypost_config.check import check as check_manifests

    for path in manifests:
        if not path.exists():
            fail(Exit.USAGE, f"{path}: no such file or folder")
    problems = check_manifests(manifests, pools=tuple(pool or ()))
    if output is Format.JSON:
        import msgspec

        typer.echo(json.dumps([msgspec.to_builtins(problem) for problem in problems], indent=2))
    else:
        for problem in problems:
            typer.echo(str(problem))
        typer.echo(f"{len(problems)} problem(s)." if problems else "All is well.")
    if problems:
        raise typer.Exit(Exit.INVALID)
