"""The models keep what an API server asks of a CustomResourceDefinition, so that one can be generated from them."""

from collections.abc import Iterator

import pytest

from waypost_config.destinationpolicy import DestinationPolicySpec
from waypost_config.maildomain import MailDomainSpec
from waypost_config.quantities import octets, quantity, seconds
from waypost_config.schema import IntegerNode, ListNode, MapNode, Node, ObjectNode, QuantityNode, StringNode, node_of
from waypost_config.status import DestinationPolicyStatus, MailDomainStatus
from waypost_config.validate import validate

MODELS = [MailDomainSpec, DestinationPolicySpec, MailDomainStatus, DestinationPolicyStatus]


def nodes(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    yield path, node
    if isinstance(node, ObjectNode):
        for name, field in node.fields.items():
            yield from nodes(field.node, f"{path}.{name}")
    elif isinstance(node, ListNode):
        yield from nodes(node.items, f"{path}[]")
    elif isinstance(node, MapNode):
        yield from nodes(node.values, f"{path}{{}}")


@pytest.mark.parametrize("model", MODELS)
def test_every_list_map_and_string_has_a_maximum(model: type) -> None:
    for path, node in nodes(node_of(model)):
        if isinstance(node, StringNode):
            assert node.max or node.enum, path
        elif isinstance(node, ListNode | MapNode | QuantityNode):
            assert node.max, path
        elif isinstance(node, IntegerNode):
            assert node.min < node.max, path


@pytest.mark.parametrize("model", [MailDomainSpec, DestinationPolicySpec])
def test_no_field_or_enum_value_reads_as_a_boolean_in_yaml_1_1(model: type) -> None:
    for path, node in nodes(node_of(model)):
        names = [
            *(node.fields if isinstance(node, ObjectNode) else ()),
            *(node.enum if isinstance(node, StringNode) else ()),
        ]
        assert not {name.lower() for name in names} & {"on", "off", "yes", "no", "y", "n", "true", "false"}, path


@pytest.mark.parametrize("model", MODELS)
def test_keys_of_list_maps_are_required_fields_of_their_items(model: type) -> None:
    for path, node in nodes(node_of(model)):
        if isinstance(node, ListNode) and node.kind == "map":
            assert isinstance(node.items, ObjectNode), path
            assert all(node.items.fields[key].required for key in node.keys), path


@pytest.mark.parametrize("model", MODELS)
def test_every_default_is_valid(model: type) -> None:
    for path, node in nodes(node_of(model)):
        for name, field in node.fields.items() if isinstance(node, ObjectNode) else ():
            if field.default is not None:
                assert validate(field.node, field.default)[1] == [], f"{path}.{name}"


def test_no_override_of_a_policy_has_a_default() -> None:
    value, flaws = validate(node_of(DestinationPolicySpec), {"retry": {}})
    assert flaws == []
    assert value == {"state": "Active", "limits": {"adaptive": "Enabled"}, "retry": {}}


def test_defaults_are_filled_in_at_any_depth() -> None:
    value, _ = validate(node_of(MailDomainSpec), {"domain": "a.example", "outbound": {"retry": {"initial": "1m"}}})
    assert value["outbound"]["retry"] == {
        "initial": "1m",
        "max": "4h",
        "expireAfter": "120h",
        "notifyDelayAfter": "4h",
    }
    assert value["outbound"]["route"] == {"type": "MX"}
    assert value["dkim"]["algorithms"] == []


def test_null_is_absence() -> None:
    value, flaws = validate(node_of(MailDomainSpec), {"domain": "a.example", "inbound": None, "outbound": None})
    assert flaws == []
    assert "inbound" not in value
    assert value["outbound"]["pool"] == "default"


def test_the_given_object_is_left_as_it_is() -> None:
    given = {"domain": "a.example", "outbound": {}}
    validate(node_of(MailDomainSpec), given)
    assert given == {"domain": "a.example", "outbound": {}}


@pytest.mark.parametrize(("text", "value"), [("5m", 300.0), ("1h30m", 5400.0), ("90s", 90.0), ("0s", 0.0)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "5d", "1.5h", "-1h", "1h 1m", "5m\n"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError):
        seconds(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("64Ki", 65536), (65536, 65536), ("1.5k", 1500), ("1e6", 1_000_000), ("0.5Mi", 524288), ("1500m", 2)],
)
def test_quantities(value: int | str, expected: int) -> None:
    assert octets(value) == expected


@pytest.mark.parametrize("text", ["", "Mi", "1 Mi", "1mi", "0x10", "1Kib"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError):
        quantity(text)
