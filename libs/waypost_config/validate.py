"""Raw data against a schema, as the API server does it: structure, defaults, then rules.

Every flaw is found, not the first alone; each names the place and what would be right. Unknown fields are flaws, as
they are to `kubectl apply`; null is absence.
"""

import difflib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from .schema import (
    BooleanNode,
    IntegerNode,
    ListNode,
    MapNode,
    Node,
    ObjectNode,
    Path,
    QuantityNode,
    StringNode,
)

_SHOWN = 100  # characters of a value that a message quotes


class Flaw(msgspec.Struct, frozen=True):
    """What is wrong at a place, and what would be right."""

    path: Path
    message: str


def path_text(path: Path) -> str:
    """`("spec", "senders", 0)` as people write it: `spec.senders[0]`."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]+", part):
            out += f".{part}" if out else part
        else:
            out += f"[{json.dumps(part)}]"
    return out


def validate(node: Node, raw: Any, path: Path = ()) -> tuple[Any, list[Flaw]]:
    """The value with defaults filled in (a new one; `raw` is left as it is), and its flaws in the schema's order."""
    walk = _Walk()
    value, _ = walk.value(node, raw, path)
    return value, walk.flaws


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    """RE2's `$` ends the text, Python's also stands before a last newline; RE2's `\\s` is ASCII."""
    return re.compile(pattern.removesuffix("$") + (r"\Z" if pattern.endswith("$") else ""), re.ASCII)


def shown(value: Any) -> str:
    """A value as a message quotes it, cut."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


class _Walk:
    def __init__(self) -> None:
        self.flaws: list[Flaw] = []

    def flaw(self, path: Path, message: str) -> None:
        self.flaws.append(Flaw(path, message))

    def value(self, node: Node, raw: Any, path: Path) -> tuple[Any, bool]:
        """The value, and whether rules above it may look at it. Like CEL's, they may in spite of a failed pattern."""
        sound = True
        value = raw
        if isinstance(node, ObjectNode):
            value, sound = self._object(node, raw, path)
        elif isinstance(node, ListNode):
            value, sound = self._list(node, raw, path)
        elif isinstance(node, MapNode):
            value, sound = self._map(node, raw, path)
        elif isinstance(node, StringNode):
            sound = self._string(node, raw, path)
        elif isinstance(node, IntegerNode):
            sound = self._integer(node, raw, path)
        elif isinstance(node, QuantityNode):
            sound = self._quantity(node, raw, path)
        elif isinstance(node, BooleanNode) and not isinstance(raw, bool):
            sound = self._wrong_type("boolean", raw, path)
        if not sound:
            return value, False
        for rule in node.rules:
            broken = rule.mirror(value) if rule.mirror is not None else None
            if broken is not None:
                self.flaw(path + broken, rule.message_for(value))
        return value, True

    def _wrong_type(self, wanted: str, raw: Any, path: Path) -> bool:
        hint = ""
        if wanted == "string" and isinstance(raw, bool | int | float):
            hint = "; put it in quotes"
        self.flaw(path, f"must be of type {wanted}, not {_type_name(raw)}: {shown(raw)}{hint}")
        return False

    def _object(self, node: ObjectNode, raw: Any, path: Path) -> tuple[Any, bool]:
        if not isinstance(raw, dict):
            return raw, self._wrong_type("object", raw, path)
        sound = True
        value: dict[str, Any] = {}
        for key in raw:
            if key not in node.fields:
                self.flaw((*path, str(key)), unknown(str(key), node.fields))
                sound = False
        for name, field in node.fields.items():
            given = raw.get(name)
            if given is None and field.default is not None:
                given = field.default
            if given is None:
                if field.required:
                    self.flaw((*path, name), "Required value")
                    sound = False
                continue
            value[name], fine = self.value(field.node, given, (*path, name))
            sound = sound and fine
        return value, sound

    def _list(self, node: ListNode, raw: Any, path: Path) -> tuple[Any, bool]:
        if not isinstance(raw, list | tuple):
            return raw, self._wrong_type("array", raw, path)
        if len(raw) > node.max:
            self.flaw(path, f"Too many: {len(raw)}: must have at most {node.max} items")
            return list(raw), False
        if len(raw) < node.min:
            self.flaw(path, f"should have at least {node.min} items")
            return list(raw), False
        sound = True
        value = []
        for index, item in enumerate(raw):
            checked, fine = self.value(node.items, item, (*path, index))
            value.append(checked)
            sound = sound and fine
        return value, self._unique(node, value, path) and sound

    def _unique(self, node: ListNode, value: list[Any], path: Path) -> bool:
        if node.kind == "atomic":
            return True
        seen = set()
        sound = True
        for index, item in enumerate(value):
            key = item
            if node.kind == "map":
                key = {name: item.get(name) for name in node.keys} if isinstance(item, dict) else item
            mark = json.dumps(key, sort_keys=True, default=str)
            if mark in seen:
                self.flaw((*path, index), f"Duplicate value: {shown(key)}")
                sound = False
            seen.add(mark)
        return sound

    def _map(self, node: MapNode, raw: Any, path: Path) -> tuple[Any, bool]:
        if not isinstance(raw, dict):
            return raw, self._wrong_type("object", raw, path)
        if len(raw) > node.max:
            self.flaw(path, f"Too many: {len(raw)}: must have at most {node.max} items")
            return raw, False
        sound = True
        value = {}
        for key, item in raw.items():
            text = "" if item is None else item
            value[str(key)], fine = self.value(node.values, text, (*path, str(key)))
            sound = sound and fine
        return value, sound

    def _string(self, node: StringNode, raw: Any, path: Path) -> bool:
        if not isinstance(raw, str):
            return self._wrong_type("string", raw, path)
        if node.enum and raw not in node.enum:
            supported = ", ".join(json.dumps(item) for item in node.enum)
            self.flaw(path, f"Unsupported value: {shown(raw)}: supported values: {supported}")
            return False
        if node.max and len(raw) > node.max:
            self.flaw(path, f"Too long: {len(raw)} characters: may not be more than {node.max}")
            return False
        if len(raw) < node.min:
            self.flaw(path, f"{shown(raw)} should be at least {node.min} chars long")
            return False
        if node.pattern and not _compiled(node.pattern).search(raw):
            means = f" ({node.means})" if node.means else ""
            self.flaw(path, f"{shown(raw)} should match '{node.pattern}'{means}")
            return all(rule.mirror is None for rule in node.rules)  # a rule on the text itself could not read it
        return True

    def _integer(self, node: IntegerNode, raw: Any, path: Path) -> bool:
        if isinstance(raw, bool) or not isinstance(raw, int):
            return self._wrong_type("integer", raw, path)
        if raw < node.min:
            self.flaw(path, f"{raw} should be greater than or equal to {node.min}")
            return False
        if raw > node.max:
            self.flaw(path, f"{raw} should be less than or equal to {node.max}")
            return False
        return True

    def _quantity(self, node: QuantityNode, raw: Any, path: Path) -> bool:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            return self._wrong_type("integer or string", raw, path)
        if isinstance(raw, str) and len(raw) > node.max:
            self.flaw(path, f"Too long: {len(raw)} characters: may not be more than {node.max}")
            return False
        return True


def unknown(key: str, known: Iterable[str]) -> str:
    """What is said of a field that does not exist."""
    names = list(known)
    near = difflib.get_close_matches(key[:_SHOWN], names, n=1)
    if near:
        return f"unknown field; did you mean {near[0]}?"
    return f"unknown field; known here: {', '.join(names)}"
