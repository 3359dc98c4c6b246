"""The CustomResourceDefinitions follow from the models."""

from collections.abc import Iterator
from typing import Any

import pytest

from waypost_config.crd import definitions
from waypost_config.destinationpolicy import DestinationPolicySpec
from waypost_config.maildomain import MailDomainSpec
from waypost_config.schema import ListNode, Node, ObjectNode, node_of
from waypost_config.validate import validate

DEFINITIONS = {item["spec"]["names"]["kind"]: item for item in definitions()}


def schema(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = DEFINITIONS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def everything(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from everything(item)
    elif isinstance(value, list):
        for item in value:
            yield from everything(item)


def test_scope_and_names() -> None:
    domain, policy = DEFINITIONS["MailDomain"]["spec"], DEFINITIONS["DestinationPolicy"]["spec"]
    assert (domain["scope"], domain["names"]["shortNames"]) == ("Namespaced", ["md"])
    assert (policy["scope"], policy["names"]["shortNames"]) == ("Cluster", ["dpol"])
    columns = [column["name"] for column in domain["versions"][0]["additionalPrinterColumns"] if not column["priority"]]
    assert columns == ["Domain", "Ready", "Programmed", "DNS", "Age"]


def test_a_field_is_rendered_with_bounds_default_and_rules() -> None:
    retry = schema("MailDomain")["properties"]["spec"]["properties"]["outbound"]["properties"]["retry"]
    assert retry["default"] == {}
    assert retry["properties"]["initial"] == {
        "type": "string",
        "maxLength": 24,
        "pattern": "^([0-9]{1,5}(h|m|s)){1,3}$",
        "default": "5m",
        "x-kubernetes-validations": [
            {"rule": "duration(self) >= duration('30s')", "message": "must be at least 30s"},
            {"rule": "duration(self) <= duration('4h')", "message": "must be at most 4h"},
        ],
    }


def test_a_keyed_list_is_a_list_map_and_an_enum_stays_one() -> None:
    spec = schema("MailDomain")["properties"]["spec"]["properties"]
    assert spec["senders"]["x-kubernetes-list-type"] == "map"
    assert spec["senders"]["x-kubernetes-list-map-keys"] == ["name"]
    assert spec["suspend"] == {"type": "string", "enum": ["None", "Outbound", "Inbound", "All"], "default": "None"}


def test_a_quantity_takes_integers_and_strings() -> None:
    size = schema("MailDomain")["properties"]["spec"]["properties"]["limits"]["properties"]["messageSize"]
    assert size["x-kubernetes-int-or-string"] is True
    assert "quantity(string(self))" in size["x-kubernetes-validations"][0]["rule"]


@pytest.mark.parametrize("kind", list(DEFINITIONS))
def test_every_rule_has_words_and_the_name_is_part_of_the_root(kind: str) -> None:
    rules = [rule for part in everything(schema(kind)) for rule in part.get("x-kubernetes-validations", ())]
    assert all(rule["rule"] and (rule.get("message") or rule.get("messageExpression")) for rule in rules)
    assert "self.metadata.name" in schema(kind)["x-kubernetes-validations"][0]["rule"]


def objects(node: Node) -> Iterator[ObjectNode]:
    if isinstance(node, ObjectNode):
        yield node
        for field in node.fields.values():
            yield from objects(field.node)
    elif isinstance(node, ListNode):
        yield from objects(node.items)


@pytest.mark.parametrize("model", [MailDomainSpec, DestinationPolicySpec])
def test_rules_hold_for_the_bare_defaults_below_which_they_stand(model: type) -> None:
    """The API server runs them against the raw `default` when the definition is created, and refuses it otherwise."""
    for node in objects(node_of(model)):
        for field in node.fields.values():
            for rule in field.node.rules if field.default is not None else ():
                assert rule.mirror is None or rule.mirror(field.default) is None


def structural(schema: dict[str, Any], at: str) -> Iterator[str]:
    """What the API server's check of structural schemas, or the cost of CEL, would refuse."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if len(rule["rule"]) > 300 or "\n" in rule["rule"] + rule.get("message", ""):
            yield f"{at}: a rule is long or of several lines"
        if ("message" in rule) == ("messageExpression" in rule):
            yield f"{at}: a rule needs one of message and messageExpression"
    if schema.get("x-kubernetes-int-or-string"):
        if schema.get("anyOf") != [{"type": "integer"}, {"type": "string"}] or "maxLength" not in schema:
            yield f"{at}: int-or-string without its anyOf, or unbounded"
        return
    kind = schema.get("type")
    if kind == "array":
        items = schema["items"]
        if "maxItems" not in schema:
            yield f"{at}: a list without maxItems"
        if schema.get("x-kubernetes-list-type") not in ("atomic", "set", "map"):
            yield f"{at}: a list without its type"
        if schema.get("x-kubernetes-list-type") == "set" and items["type"] not in ("string", "integer"):
            yield f"{at}: a set of what is not scalar"
        keys = schema.get("x-kubernetes-list-map-keys", [])
        if bool(keys) != (schema.get("x-kubernetes-list-type") == "map"):
            yield f"{at}: keys are for list-maps"
        for key in keys:
            if key not in items.get("required", []) and "default" not in items["properties"][key]:
                yield f"{at}: key {key} is neither required nor has a default"
        yield from structural(items, f"{at}[]")
    elif kind == "object":
        if ("properties" in schema) == ("additionalProperties" in schema):
            yield f"{at}: an object has either properties or additionalProperties"
        if "additionalProperties" in schema and "maxProperties" not in schema:
            yield f"{at}: a map without maxProperties"
        if not set(schema.get("required", [])) <= schema.get("properties", {}).keys():
            yield f"{at}: requires what it has not"
        if "additionalProperties" in schema:
            yield from structural(schema["additionalProperties"], f"{at}{{}}")
        for name, part in schema.get("properties", {}).items():
            yield from structural(part, f"{at}.{name}")
            if name in ("on", "off", "yes", "no", "y", "n"):
                yield f"{at}.{name}: YAML 1.1 reads another key"
    elif kind == "string":
        if "maxLength" not in schema and "enum" not in schema:
            yield f"{at}: a string without maxLength"
        values = {value.lower() for value in schema.get("enum", [])} - (
            {"true", "false"} if ".status." in at else set()
        )
        if values & {"on", "off", "yes", "no", "y", "n", "true", "false"}:
            yield f"{at}: YAML 1.1 reads another value"
        if schema.get("default") not in (None, *schema.get("enum", [schema.get("default")])):
            yield f"{at}: the default is not among the values"
    elif kind == "integer":
        if schema.get("format") != "int64" and not schema["minimum"] <= schema["maximum"]:
            yield f"{at}: bounds"
    elif kind != "boolean":
        yield f"{at}: no type"


@pytest.mark.parametrize("kind", list(DEFINITIONS))
def test_the_schema_is_structural_and_bounded(kind: str) -> None:
    assert list(structural(schema(kind), kind)) == []


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1}}, "maxItems"),
        ({"type": "string"}, "maxLength"),
        ({"type": "object", "additionalProperties": {"type": "string", "maxLength": 1}}, "maxProperties"),
        ({}, "no type"),
    ],
)
def test_the_check_of_schemas_finds_what_is_unbounded(part: dict[str, Any], fault: str) -> None:
    assert any(fault in found for found in structural(part, "x"))


def test_defaults_are_valid_and_complete_by_themselves() -> None:
    for model in (MailDomainSpec, DestinationPolicySpec):
        for node in objects(node_of(model)):
            for name, field in node.fields.items():
                if field.default is not None:
                    assert validate(field.node, field.default, (name,))[1] == []
