"""Address patterns of a sender: `*@example.com`, `app-*@example.com`, `{namespace}+*@example.com`.

The domain is exact, the local part may hold `*` (any characters, also none), `{namespace}` and `{serviceaccount}`.
Local parts are compared without regard to case: RFC 5321 2.4 leaves case to the receiver, and nobody tells two people
apart by it. A placeholder that the identity has no value for makes its pattern match nothing.
"""

import re
from collections.abc import Iterable

from .identity import Identity


class Pattern:
    """The patterns of one sender entry, as one identity sees them. All have the MailDomain's domain."""

    __slots__ = ("_any", "_exact", "_globs", "texts")

    def __init__(self, texts: tuple[str, ...]) -> None:
        self.texts = texts
        local_parts = [text.rpartition("@")[0].lower() for text in texts]
        self._any = "*" in local_parts
        self._exact = frozenset(local for local in local_parts if "*" not in local)
        globs = [_glob(local) for local in local_parts if "*" in local]
        self._globs = re.compile("|".join(globs), re.DOTALL) if globs else None

    def matches(self, local: str) -> bool:
        """Whether an (unquoted) local part is allowed."""
        if self._any:
            return True
        local = local.lower()
        return local in self._exact or (self._globs is not None and self._globs.fullmatch(local) is not None)


def compile_patterns(addresses: Iterable[str], identity: Identity) -> Pattern:
    """A sender's patterns with the identity's names filled in; those it has no names for are left out."""
    texts = []
    for address in addresses:
        local, _, domain = address.rpartition("@")
        account = identity.account if identity.kind == "ServiceAccount" else ""
        for placeholder, value in (("{namespace}", identity.namespace), ("{serviceaccount}", account)):
            if placeholder in local:
                local = local.replace(placeholder, value) if value else ""
        if local:
            texts.append(f"{local}@{domain}")
    return Pattern(tuple(texts))


def _glob(local: str) -> str:
    return ".*".join(re.escape(part) for part in re.split(r"\*+", local))
