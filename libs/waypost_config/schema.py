"""One typed source for what a resource may hold: structs whose fields carry their bounds.

A model is a frozen `msgspec.Struct`. `Annotated` markers (`Text`, `Number`, `Duration`, `Quantity`, `Items`, `Entries`)
bound its fields, `RULES` holds what spans several, each rule as the CEL that the API server runs, its message, and its
mirror in Python. `node_of` turns a model into a tree of nodes; the validator walks that tree, and so does whoever
writes the CustomResourceDefinition: there is no second description.

Every list and string has a maximum, since the API server refuses a CRD whose rules might cost too much.
"""

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import msgspec

from .quantities import DURATION_LENGTH, DURATION_PATTERN, QUANTITY_LENGTH, quantity, seconds

Path = tuple[str | int, ...]
"""Where in an object: ("senders", 0, "name") is `senders[0].name`."""

Mirror = Callable[[Any], Path | None]
"""What a CEL rule says, in Python: None if the value keeps it, else where within the value it is broken (() = as a
whole). It sees the value with defaults filled in and of the right shape, as CEL does."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One entry of `x-kubernetes-validations`.

    `message_cel` is `messageExpression`; `text` its mirror. A rule without a mirror is about the object that is being
    replaced (`oldSelf`), which the API server alone sees.
    """

    cel: str
    message: str = ""
    mirror: Mirror | None = None
    message_cel: str = ""
    text: Callable[[Any], str] | None = None

    def message_for(self, value: Any) -> str:
        return self.text(value) if self.text is not None else self.message


def union(discriminator: str, value: str, member: str, *, required: bool = True) -> Rule:
    """The rule of one member of a union: there when the discriminator names it, and only then."""
    if not required:
        return Rule(
            cel=f"self.{discriminator} == '{value}' || !has(self.{member})",
            message=f"{member} is forbidden unless {discriminator} is {value}",
            mirror=lambda self: None if self[discriminator] == value or member not in self else (member,),
        )

    def mirror(self: Mapping[str, Any]) -> Path | None:
        if (self[discriminator] == value) == (member in self):
            return None
        return (member,) if member in self else ()

    return Rule(
        cel=f"self.{discriminator} == '{value}' ? has(self.{member}) : !has(self.{member})",
        message=f"{member} is required when {discriminator} is {value}, and forbidden otherwise",
        mirror=mirror,
    )


def one_of(first: str, second: str) -> Rule:
    """Exactly one of two fields."""
    return Rule(
        cel=f"has(self.{first}) != has(self.{second})",
        message=f"exactly one of {first} and {second}",
        mirror=lambda self: None if (first in self) != (second in self) else (),
    )


def ordered(lesser: str, greater: str) -> Rule:
    """Of two durations, where both are given, the one is not longer than the other."""

    def mirror(self: Mapping[str, Any]) -> Path | None:
        if lesser not in self or greater not in self or seconds(self[lesser]) <= seconds(self[greater]):
            return None
        return (lesser,)

    return Rule(
        cel=f"!has(self.{lesser}) || !has(self.{greater}) || duration(self.{lesser}) <= duration(self.{greater})",
        message=f"{lesser} must not exceed {greater}",
        mirror=mirror,
    )


# -- markers


@dataclass(frozen=True, kw_only=True)
class Text:
    """A string of at most `max` characters. `means` says in words what `pattern` asks for."""

    max: int
    min: int = 0
    pattern: str = ""
    means: str = ""
    format: str = ""
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Number:
    """An integer within bounds, both included."""

    min: int
    max: int
    format: Literal["int32", "int64"] = "int32"


@dataclass(frozen=True, kw_only=True)
class Duration:
    """A string such as `1h30m`, within bounds."""

    at_least: str = ""
    at_most: str = ""

    def text(self) -> Text:
        rules = []
        if self.at_least:
            rules.append(
                Rule(
                    cel=f"duration(self) >= duration('{self.at_least}')",
                    message=f"must be at least {self.at_least}",
                    mirror=lambda value: None if seconds(value) >= seconds(self.at_least) else (),
                )
            )
        if self.at_most:
            rules.append(
                Rule(
                    cel=f"duration(self) <= duration('{self.at_most}')",
                    message=f"must be at most {self.at_most}",
                    mirror=lambda value: None if seconds(value) <= seconds(self.at_most) else (),
                )
            )
        means = "hours, minutes and seconds, such as 5m or 1h30m"
        return Text(max=DURATION_LENGTH, pattern=DURATION_PATTERN, means=means, rules=tuple(rules))


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """An integer, or a string such as `25Mi`, within bounds."""

    at_least: str
    at_most: str

    def rule(self) -> Rule:
        def mirror(value: int | str) -> Path | None:
            try:
                inside = quantity(self.at_least) <= quantity(value) <= quantity(self.at_most)
            except ValueError:
                inside = False
            return None if inside else ()

        return Rule(
            cel=f"quantity(string(self)).compareTo(quantity('{self.at_least}')) >= 0 && "
            f"quantity(string(self)).compareTo(quantity('{self.at_most}')) <= 0",
            message=f"must be between {self.at_least} and {self.at_most}",
            mirror=mirror,
        )


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list. `kind` is its `x-kubernetes-list-type`: elements of a set, and keys of a map, are unique."""

    max: int
    min: int = 0
    kind: Literal["atomic", "set", "map"] = "atomic"
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entries:
    """A map from string to string of at most `max` entries."""

    max: int


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of what stands in a resource. A field without a default is required; None means absent."""

    RULES: ClassVar[tuple[Rule, ...]] = ()


# -- nodes


@dataclass(frozen=True, kw_only=True)
class Node:
    """One place in the schema. `rules` run once everything within has its shape."""

    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StringNode(Node):
    max: int = 0  # 0: bounded by its enum
    min: int = 0
    pattern: str = ""
    means: str = ""
    enum: tuple[str, ...] = ()
    format: str = ""


@dataclass(frozen=True, kw_only=True)
class IntegerNode(Node):
    min: int
    max: int
    format: Literal["int32", "int64"] = "int32"


@dataclass(frozen=True, kw_only=True)
class BooleanNode(Node):
    pass


@dataclass(frozen=True, kw_only=True)
class QuantityNode(Node):
    max: int = QUANTITY_LENGTH


@dataclass(frozen=True, kw_only=True)
class ListNode(Node):
    items: Node
    max: int
    min: int = 0
    kind: Literal["atomic", "set", "map"] = "atomic"
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MapNode(Node):
    values: Node
    max: int


@dataclass(frozen=True, kw_only=True)
class Field:
    """`default` is what the API server fills in; None: nothing."""

    node: Node
    required: bool
    default: Any = None


@dataclass(frozen=True, kw_only=True)
class ObjectNode(Node):
    fields: dict[str, Field] = field(default_factory=dict)


@lru_cache(maxsize=256)
def node_of(model: type[Model]) -> ObjectNode:
    """The schema of a model. Raises TypeError for an annotation without bounds: a mistake in the model."""
    hints = typing.get_type_hints(model, include_extras=True)
    fields: dict[str, Field] = {}
    for entry in msgspec.structs.fields(model):
        default = entry.default
        if entry.default_factory is not msgspec.NODEFAULT:
            default = entry.default_factory()
        where = f"{model.__name__}.{entry.name}"
        fields[entry.encode_name] = Field(
            node=_node(where, hints[entry.name]),
            required=entry.required,
            default=None if default is msgspec.NODEFAULT else msgspec.to_builtins(default),
        )
    return ObjectNode(fields=fields, rules=model.RULES)


def _node(where: str, hint: Any) -> Node:
    marker: Any = None
    if get_origin(hint) is Annotated:
        hint, *markers = get_args(hint)
        marker = markers[0]
    if get_origin(hint) in (typing.Union, types.UnionType) and type(None) in get_args(hint):
        rest = [member for member in get_args(hint) if member is not type(None)]
        if len(rest) == 1:
            return _node(where, Annotated[rest[0], marker] if marker is not None else rest[0])
        hint = typing.Union[tuple(rest)]  # noqa: UP007 - built from a tuple at run time
    if isinstance(hint, type) and issubclass(hint, Model):
        return node_of(hint)
    if get_origin(hint) is Literal:
        return StringNode(enum=get_args(hint))
    if get_origin(hint) is tuple and isinstance(marker, Items):
        items = _node(where + "[]", get_args(hint)[0])
        return ListNode(items=items, max=marker.max, min=marker.min, kind=marker.kind, keys=marker.keys)
    if get_origin(hint) is dict and isinstance(marker, Entries):
        return MapNode(values=_node(where + "{}", get_args(hint)[1]), max=marker.max)
    if isinstance(marker, Quantity):
        return QuantityNode(rules=(marker.rule(),))
    if isinstance(marker, Duration):
        marker = marker.text()
    if hint is str and isinstance(marker, Text):
        return StringNode(
            max=marker.max,
            min=marker.min,
            pattern=marker.pattern,
            means=marker.means,
            format=marker.format,
            rules=marker.rules,
        )
    if hint is int and isinstance(marker, Number):
        return IntegerNode(min=marker.min, max=marker.max, format=marker.format)
    if hint is bool:
        return BooleanNode()
    raise TypeError(f"{where}: {hint!r} needs a marker that bounds it")
