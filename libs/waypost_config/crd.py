"""The CustomResourceDefinitions, out of the models that validate here: structural schemas with defaults and CEL."""

from typing import Any

from . import destinationpolicy, maildomain
from .common import GROUP, VERSION
from .schema import (
    BooleanNode,
    IntegerNode,
    ListNode,
    MapNode,
    Model,
    Node,
    ObjectNode,
    QuantityNode,
    Rule,
    StringNode,
    node_of,
)
from .status import DestinationPolicyStatus, MailDomainStatus
from .table import COLUMNS


def definitions() -> list[dict[str, Any]]:
    """Both definitions, as objects of apiextensions.k8s.io/v1."""
    return [
        _definition(
            kind="MailDomain",
            plural="maildomains",
            short="md",
            scope="Namespaced",
            spec=maildomain.MailDomainSpec,
            status=MailDomainStatus,
            rules=maildomain.ROOT_RULES,
        ),
        _definition(
            kind="DestinationPolicy",
            plural="destinationpolicies",
            short="dpol",
            scope="Cluster",
            spec=destinationpolicy.DestinationPolicySpec,
            status=DestinationPolicyStatus,
            rules=destinationpolicy.ROOT_RULES,
        ),
    ]


def _definition(
    *, kind: str, plural: str, short: str, scope: str, spec: type[Model], status: type[Model], rules: tuple[Rule, ...]
) -> dict[str, Any]:
    columns = [
        {"name": column.name, "jsonPath": column.path, "type": column.type, "priority": column.priority}
        for column in COLUMNS[kind]
    ]
    root = {
        "type": "object",
        "properties": {"spec": openapi(node_of(spec)), "status": openapi(node_of(status))},
        "required": ["spec"],
        "x-kubernetes-validations": [_rule(rule) for rule in rules],
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": root},
    }
    names = {
        "kind": kind,
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["waypost"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": [version]},
    }


def openapi(node: Node) -> dict[str, Any]:
    """A node as a structural schema (OpenAPI v3 with Kubernetes' extensions)."""
    out = _shape(node)
    if node.rules:
        out["x-kubernetes-validations"] = [_rule(rule) for rule in node.rules]
    return out


def _shape(node: Node) -> dict[str, Any]:
    if isinstance(node, ObjectNode):
        return _object(node)
    if isinstance(node, ListNode):
        out: dict[str, Any] = {"type": "array", "items": openapi(node.items), "maxItems": node.max}
        if node.min:
            out["minItems"] = node.min
        out["x-kubernetes-list-type"] = node.kind
        if node.keys:
            out["x-kubernetes-list-map-keys"] = list(node.keys)
        return out
    if isinstance(node, MapNode):
        return {"type": "object", "maxProperties": node.max, "additionalProperties": openapi(node.values)}
    if isinstance(node, StringNode):
        return _string(node)
    if isinstance(node, IntegerNode):
        if node.format == "int64":  # bounds are floats to the API server, which can't hold those of 64 bits
            return {"type": "integer", "format": node.format}
        return {"type": "integer", "format": node.format, "minimum": node.min, "maximum": node.max}
    if isinstance(node, QuantityNode):
        either = [{"type": "integer"}, {"type": "string"}]
        return {"x-kubernetes-int-or-string": True, "anyOf": either, "maxLength": node.max}
    if isinstance(node, BooleanNode):
        return {"type": "boolean"}
    raise TypeError(f"no schema for {type(node).__name__}")


def _string(node: StringNode) -> dict[str, Any]:
    if node.enum:
        return {"type": "string", "enum": list(node.enum)}
    optional = {"minLength": node.min, "pattern": node.pattern, "format": node.format}
    return {"type": "string", "maxLength": node.max} | {name: value for name, value in optional.items() if value}


def _object(node: ObjectNode) -> dict[str, Any]:
    properties = {}
    for name, field in node.fields.items():
        properties[name] = openapi(field.node)
        if field.default is not None:
            properties[name]["default"] = _plain(field.default)
    required = [name for name, field in node.fields.items() if field.required]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _rule(rule: Rule) -> dict[str, str]:
    if rule.message_cel:
        return {"rule": rule.cel, "messageExpression": rule.message_cel}
    return {"rule": rule.cel, "message": rule.message}
