"""Manifest text to plain data, with the line of each field.

YAML is composed into nodes by ruamel and resolved here, by rules that mean the same to `kubectl apply`: what YAML 1.1
(which kubectl reads) and YAML 1.2 take for different things is refused with a sentence. A bare `on`, `off`, `yes` or
`no` is a boolean to the one and text to the other, so that a field `on:` would arrive as `true:`.

The documents of a file are split first, as kubectl does, so that one broken document leaves the others readable.
"""

import io
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from .schema import Path

MAX_FILE: Final = 4 << 20  # octets
MAX_NODES: Final = 100_000  # a document, aliases counted each time: bounds an alias bomb
MAX_DEPTH: Final = 64
MAX_ERRORS: Final = 100  # a document; more say nothing new

_BOOLEAN = {"true": True, "false": False}
_YAML_1_1 = frozenset({"on", "off", "yes", "no", "y", "n"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_OTHER_INTEGER = re.compile(r"[-+]?(?:0[0-7_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+|[0-9][0-9_]*_[0-9_]*)\Z")
_MERGE = "tag:yaml.org,2002:merge"


class ReadError(msgspec.Struct, frozen=True):
    """Why a place can't be read. Messages quote no values: they may be secrets."""

    line: int
    message: str
    path: Path = ()


class Document(msgspec.Struct, frozen=True):
    """One YAML document: `lines` maps each field's path to its line in the file (from 1)."""

    file: str
    line: int
    data: Any
    lines: dict[Path, int]
    errors: tuple[ReadError, ...] = ()

    def line_of(self, path: Path) -> int:
        """The line of a field, or of the nearest one around it that is there."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return self.lines.get((), self.line)


def ambiguous(text: str) -> bool:
    """Whether text without quotes would be something else than text to YAML 1.1 or to YAML 1.2."""
    return bool(
        text in _NULL
        or text.lower() in _YAML_1_1
        or text.lower() in _BOOLEAN
        or _INTEGER.match(text)
        or _OTHER_INTEGER.match(text)
        or _FLOAT.match(text)
    )


def documents(file: str, text: str) -> list[Document]:
    """The documents of one file; empty ones are left out. What can't be read is in a document's `errors`."""
    out = []
    for start, part in _split(text):
        document = _document(file, start, part)
        if document.data is not None or document.errors:
            out.append(document)
    return out


def _split(text: str) -> Iterator[tuple[int, str]]:
    """(line number of its first line, text) of each document."""
    start = 1
    part: list[str] = []
    for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
        if line.startswith("---") and (len(line) == 3 or line[3] in " \t\r\n"):
            yield start, "".join(part)
            start, part = number, [line[3:] if line[3:].strip() else "\n"]
        else:
            part.append(line)
    yield start, "".join(part)


def _document(file: str, start: int, text: str) -> Document:
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False  # allowed; the warning would print what stands there, secrets too
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = start + (mark.line if mark is not None else 0)
        return Document(file, start, None, {}, (ReadError(line, f"no YAML: {_said(error)}"),))
    except ReaderError as error:
        line = start + text.count("\n", 0, error.position)
        message = "no YAML: a control character; remove it, or write it as an escape in quotes"
        return Document(file, start, None, {}, (ReadError(line, message),))
    except RecursionError:
        return Document(file, start, None, {}, (ReadError(start, f"nested more than {MAX_DEPTH} deep"),))
    except (YAMLError, ValueError, OverflowError):  # their text may quote what stands there
        text = "no YAML: an escape or a directive that means nothing; put plain text there"
        return Document(file, start, None, {}, (ReadError(start, text),))
    if node is None:
        return Document(file, start, None, {})
    build = _Build(start)
    try:
        data = build.value(node, (), 0)
    except _TooMuchError as error:
        build.errors.append(ReadError(start, str(error)))
        data = None
    return Document(file, start + node.start_mark.line, data, build.lines, tuple(build.errors))


_QUOTED = re.compile(r" ?'([^'<]{2,})'")
_TAB = "found character '\\t' that cannot start any token"


def _said(error: MarkedYAMLError) -> str:
    """What the parser says, without the words of the document that it quotes: they may be secrets."""
    text = " ".join(filter(None, (error.context, error.problem))) or "it ends too early"
    if _TAB in text:
        return "a tab; indent with spaces"
    return _QUOTED.sub("", text)


class _TooMuchError(Exception):
    """The document is larger than any manifest."""


class _Build:
    """Nodes to data, once: bounded in number and depth."""

    def __init__(self, start: int) -> None:
        self.lines: dict[Path, int] = {}
        self.errors: list[ReadError] = []
        self._start = start
        self._nodes = 0
        self._said: set[tuple[int, str]] = set()

    def _error(self, node: Node, message: str, path: Path) -> None:
        line = self._start + node.start_mark.line
        if (line, message) in self._said:  # an alias repeats its own
            return
        if len(self._said) == MAX_ERRORS:
            raise _TooMuchError(f"more than {MAX_ERRORS} errors in one document")
        self._said.add((line, message))
        self.errors.append(ReadError(line, message, path))

    def value(self, node: Node, path: Path, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooMuchError(f"more than {MAX_NODES:,} values in one document (aliases count each time)")
        if depth > MAX_DEPTH:
            raise _TooMuchError(f"nested more than {MAX_DEPTH} deep")
        self.lines.setdefault(path, self._start + node.start_mark.line)
        if isinstance(node, MappingNode):
            out: dict[str, Any] = {}
            self._mapping(node, path, depth, out)
            return out
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path, depth: int, out: dict[str, Any]) -> None:
        merged: list[Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE or (isinstance(key_node, ScalarNode) and _plain(key_node) == "<<"):
                merged += value_node.value if isinstance(value_node, SequenceNode) else [value_node]
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in out:
                self._error(key_node, f"key {key!r} is there twice; remove one", path)
                continue
            self.lines[(*path, key)] = self._start + key_node.start_mark.line
            out[key] = self.value(value_node, (*path, key), depth + 1)
        for source in merged:
            if not isinstance(source, MappingNode):
                self._error(source, "<< takes a mapping", path)
                continue
            for key, value in self.value(source, (*path, "<<"), depth + 1).items():
                out.setdefault(key, value)

    def _key(self, node: Node, path: Path) -> str | None:
        if not isinstance(node, ScalarNode):
            self._error(node, "a key must be text", path)
            return None
        value = self._scalar(node, path)
        if isinstance(value, str):
            return value
        if value is not None and not isinstance(value, bool):
            return str(node.value)  # kubectl turns numbers into text here
        self._error(node, f"key {node.value!r} is no text; put it in quotes", path)
        return None

    def _scalar(self, node: Node, path: Path) -> Any:
        text = _plain(node)
        if text is None:
            return self._text(node, path)
        if text in _NULL:
            return None
        lower = text.lower()
        if lower in _BOOLEAN and text in (lower, lower.capitalize(), lower.upper()):
            return _BOOLEAN[lower]
        if lower in _YAML_1_1:
            self._error(
                node, f'{text} without quotes is a boolean to kubectl (YAML 1.1); write "{text}" for the text', path
            )
            return text
        if _INTEGER.match(text):
            return int(text) if len(text) < 20 else float(text)
        if _OTHER_INTEGER.match(text):
            self._error(
                node,
                "a number that begins with 0, 0x, 0o or 0b or holds _ is not the same number to every reader of YAML; "
                "put it in quotes, or write it in decimal",
                path,
            )
            return text
        return float(text) if _FLOAT.match(text) else text

    def _text(self, node: Node, path: Path) -> str:
        """JSON writes characters beyond 16 bits as two escapes, which YAML reads as two characters."""
        text = str(node.value)
        if text.isascii():
            return text
        try:
            return text.encode("utf-16-be", "surrogatepass").decode("utf-16-be")
        except UnicodeDecodeError:
            self._error(node, "half of a surrogate pair (\\ud800 to \\udfff) is no character; write both", path)
            return ""


def _plain(node: Node) -> str | None:
    """The text of a scalar whose type its look decides; None if it is text by quotes or block."""
    if not isinstance(node, ScalarNode) or node.style:
        return None
    return str(node.value)
