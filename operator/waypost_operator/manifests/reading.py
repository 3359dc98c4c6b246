"""All that lies in files, read together: manifests, made Secrets, values of `--secret`."""

import sys
from pathlib import Path

from waypost_config.manifests import Manifests, Problem, collect, load, read
from waypost_config.reader import MAX_FILE, Document, documents
from waypost_config.resources import Resource

from .overrides import overridden
from .settings import ManifestsSettings

STDIN = "-"


class _Parsed:
    """Parses a text once: files are read again each half minute, and most of them say what they said."""

    def __init__(self, before: dict[tuple[str, str], list[Document]]) -> None:
        self.used: dict[tuple[str, str], list[Document]] = {}
        self._before = before

    def __call__(self, file: str, text: str) -> list[Document]:
        key = (file, text)
        found = self._before.get(key)
        self.used[key] = documents(file, text) if found is None else found
        return self.used[key]


class Reading:
    """Blocking: called in a thread. Standard input is read once, files each time.

    Raises FileNotFoundError for a folder that is not there at the start: it is a typing error or a mount that is late,
    and must not be taken for an empty one, which would end every domain.
    """

    def __init__(self, settings: ManifestsSettings) -> None:
        self._settings = settings
        self._stdin: tuple[Manifests, list[Problem]] | None = None
        self._parsed: dict[tuple[str, str], list[Document]] = {}
        if settings.manifests == STDIN:
            self._stdin = read(documents("<stdin>", sys.stdin.read(MAX_FILE)))
        elif not Path(settings.manifests).exists():
            raise FileNotFoundError(f"WAYPOST_MANIFESTS: {settings.manifests}: no such file or folder")

    @property
    def watched(self) -> list[Path]:
        """The folders whose changes matter; an editor replaces a file, so a file's folder is watched."""
        folders = [self._settings.secrets_dir]
        if self._stdin is None:
            path = Path(self._settings.manifests)
            folders.append(path if path.is_dir() else path.parent)
        return folders

    def read(self) -> tuple[Manifests, list[Problem]]:
        """Manifests count before Secrets that were made, values of `--secret` before both."""
        parse = _Parsed(self._parsed)
        folder = Path(self._settings.manifests)
        main, problems = self._stdin if self._stdin is not None else load([folder], parse_text=parse)
        made, more = load([self._settings.secrets_dir], parse_text=parse)
        self._parsed = parse.used
        resources: list[Resource] = list(main.resources())
        absent = made.secrets.keys() - main.secrets.keys() - main.broken
        secrets = {**main.secrets, **{key: made.secrets[key] for key in absent}}
        secrets, unread = overridden(secrets, self._settings.secret_overrides)
        broken = (main.broken | made.broken) - secrets.keys()
        everything = collect(
            [*(one for one in resources if one.meta.key.kind != "Secret"), *secrets.values()],
            skipped=main.skipped,
            broken=broken,
            unreadable=main.unreadable | made.unreadable,
        )
        return everything, [*problems, *more, *unread]
