"""The CustomResourceDefinitions follow from the models."""

from collections.abc import Iterator
from typing import Any

import pytest

from waypost_config.crd import definitions
from waypost_config.destinationpolicy import DestinationPolicySpec
from waypost_config.maildomain import MailDomainSpec
from waypost_config.schema import ListNode, Node, ObjectNode, node_of

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
