"""Documents to resources: all of them together, with every problem and its place."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, Final

import msgspec

from .reader import MAX_FILE, Document, ReadError, documents
from .resources import (
    DestinationPolicy,
    Key,
    MailDomain,
    Namespace,
    Resource,
    Secret,
    ServiceAccount,
    is_ours,
    key_of,
    parse,
)
from .schema import Path as FieldPath
from .validate import path_text

SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
ParseText = Callable[[str, str], list[Document]]
"""(file, text) -> its documents."""

MAX_FILES: Final = 5_000
MAX_PROBLEMS: Final = 1_000


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, where, and what would be right."""

    message: str
    file: str = ""
    line: int = 0
    object: str = ""  # "MailDomain shop/example.com"
    field: str = ""  # "spec.senders[0].addresses[1]"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(part for part in (place, self.object, self.field, self.message) if part)


class Manifests(msgspec.Struct, frozen=True, kw_only=True):
    """Every valid resource by its key, and what is known of the others."""

    domains: dict[Key, MailDomain] = {}
    policies: dict[Key, DestinationPolicy] = {}
    secrets: dict[Key, Secret] = {}
    service_accounts: dict[Key, ServiceAccount] = {}
    namespaces: dict[Key, Namespace] = {}
    skipped: dict[str, int] = {}  # kind -> how many objects of other kinds
    broken: frozenset[Key] = frozenset()  # there, but wrong
    unreadable: frozenset[str] = frozenset()  # files of which some object could not even be named

    def resources(self) -> Iterator[Resource]:
        yield from self.namespaces.values()
        yield from self.service_accounts.values()
        yield from self.secrets.values()
        yield from self.domains.values()
        yield from self.policies.values()


def collect(
    resources: Iterable[Resource],
    *,
    skipped: dict[str, int] | None = None,
    broken: Iterable[Key] = (),
    unreadable: Iterable[str] = (),
) -> Manifests:
    """Manifests of these resources; a later one of the same key replaces the earlier."""
    out = Manifests(
        domains={},
        policies={},
        secrets={},
        service_accounts={},
        namespaces={},
        skipped=skipped or {},
        broken=frozenset(broken),
        unreadable=frozenset(unreadable),
    )
    for resource in resources:
        key = resource.meta.key
        if isinstance(resource, MailDomain):
            out.domains[key] = resource
        elif isinstance(resource, DestinationPolicy):
            out.policies[key] = resource
        elif isinstance(resource, Secret):
            out.secrets[key] = resource
        elif isinstance(resource, ServiceAccount):
            out.service_accounts[key] = resource
        else:
            out.namespaces[key] = resource
    return out


def read(found: Iterable[Document]) -> tuple[Manifests, list[Problem]]:
    """Resources of documents. An object with a problem is left out, and the others are not touched by it."""
    reading = _Reading()
    for document in found:
        reading.document(document)
    return reading.result()


def load(paths: Iterable[Path], *, parse_text: ParseText = documents) -> tuple[Manifests, list[Problem]]:
    """Resources of files and of folders (`*.yaml`, `*.yml`, `*.json`, at any depth)."""
    reading = _Reading()
    for root in paths:
        try:
            files = _files(root, reading)
        except OSError as error:
            reading.unreadable_file(str(root), f"{error.strerror or error}; give a file or folder that can be read")
            continue
        if len(files) > MAX_FILES:
            reading.unreadable_file(str(root), f"holds {len(files):,} files; at most {MAX_FILES:,} are read")
            files = files[:MAX_FILES]
        for file in files:
            try:
                with file.open("rb") as opened:
                    data = opened.read(MAX_FILE + 1)
            except OSError as error:
                reading.unreadable_file(str(file), f"{error.strerror or error}")
                continue
            if len(data) > MAX_FILE:
                reading.unreadable_file(str(file), f"larger than {MAX_FILE >> 20} MiB; split it")
                continue
            try:
                text = data.decode("utf-8-sig").replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                line = data.count(b"\n", 0, error.start) + 1
                reading.unreadable_file(str(file), "no UTF-8 text; save it as UTF-8", line)
                continue
            for document in parse_text(str(file), text):
                reading.document(document)
    return reading.result()


def _files(root: Path, reading: "_Reading") -> list[Path]:
    if not root.is_dir():
        root.stat()
        return [root]
    out: list[Path] = []
    _walk(root, reading, set(), out)
    return out


def _walk(folder: Path, reading: "_Reading", seen: set[tuple[int, int]], out: list[Path]) -> None:
    """Follows links, since a mounted ConfigMap is made of them; what can't be looked into is said, not taken for
    gone."""
    stat = folder.stat()
    if (stat.st_dev, stat.st_ino) in seen:
        return
    seen.add((stat.st_dev, stat.st_ino))
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            mode = path.stat().st_mode
            if S_ISDIR(mode):
                _walk(path, reading, seen, out)
            elif path.suffix in SUFFIXES and S_ISREG(mode):
                out.append(path)
        except OSError as error:
            if path.suffix in SUFFIXES or not path.is_symlink():
                reading.unreadable_file(str(path), f"{error.strerror or error}; make it readable, or remove it")


class _Reading:
    def __init__(self) -> None:
        self._resources: dict[Key, Resource] = {}
        self._problems: list[Problem] = []
        self._skipped: dict[str, int] = {}
        self._broken: set[Key] = set()
        self._unreadable: set[str] = set()

    def result(self) -> tuple[Manifests, list[Problem]]:
        valid = [resource for key, resource in self._resources.items() if key not in self._broken]
        manifests = collect(valid, skipped=self._skipped, broken=self._broken, unreadable=self._unreadable)
        return manifests, sorted(self._problems, key=lambda problem: (problem.file, problem.line))[:MAX_PROBLEMS]

    def unreadable_file(self, file: str, message: str, line: int = 0) -> None:
        self._unreadable.add(file)
        self._problems.append(Problem(message=message, file=file, line=line))

    def document(self, document: Document) -> None:
        if not isinstance(document.data, dict):
            self._unreadable.add(document.file)
            if document.errors:
                self._read_errors(document, document.errors, "")
            else:
                text = "a manifest is a map with apiVersion, kind and metadata"
                self._problems.append(Problem(message=text, file=document.file, line=document.line))
            return
        kind = document.data.get("kind")
        if kind == "List" and isinstance(document.data.get("items"), list):
            own = [error for error in document.errors if error.path[:1] != ("items",)]
            if own:  # `items` twice, say: some objects may not even be seen
                self._unreadable.add(document.file)
                self._read_errors(document, own, "")
            for index, item in enumerate(document.data["items"]):
                self._object(document, item, ("items", index))
            return
        self._object(document, document.data, ())

    def _read_errors(self, document: Document, errors: Iterable[ReadError], name: str, prefix: FieldPath = ()) -> None:
        for error in errors:
            field = path_text(error.path[len(prefix) :])
            self._problems.append(
                Problem(message=error.message, file=document.file, line=error.line, object=name, field=field)
            )

    def _object(self, document: Document, data: Any, prefix: FieldPath) -> None:
        line = document.line_of(prefix)
        if not isinstance(data, dict) or not isinstance(data.get("kind"), str) or "apiVersion" not in data:
            self._unreadable.add(document.file)
            text = "a manifest needs apiVersion and kind, such as apiVersion: waypost.dev/v1alpha1, kind: MailDomain"
            self._problems.append(Problem(message=text, file=document.file, line=line))
            return
        if not is_ours(data):
            self._skipped[data["kind"]] = self._skipped.get(data["kind"], 0) + 1
            return
        key = key_of(data)
        name = str(key) if key is not None else data["kind"]
        errors = [error for error in document.errors if error.path[: len(prefix)] == prefix]
        self._read_errors(document, errors, name, prefix)
        resource, flaws = parse(data, file=document.file, line=line)
        for flaw in flaws:
            place = document.line_of(prefix + flaw.path)
            self._problems.append(
                Problem(
                    message=flaw.message,
                    file=document.file,
                    line=place,
                    object=name,
                    field=path_text(flaw.path),
                )
            )
        if key is None:
            self._unreadable.add(document.file)
        elif resource is None or errors:
            self._broken.add(key)
        elif key in self._resources:
            first = self._resources[key].meta
            text = f"is there twice; the one at {first.file}:{first.line} counts, remove one of them"
            self._problems.append(Problem(message=text, file=document.file, line=line, object=name))
        else:
            self._resources[key] = resource
