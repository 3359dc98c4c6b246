"""The table of good and bad objects against the Python mirror. The same table runs against a real API server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from waypost_config import later
from waypost_config.destinationpolicy import ROOT_RULES as POLICY_RULES
from waypost_config.destinationpolicy import DestinationPolicySpec
from waypost_config.maildomain import ROOT_RULES as DOMAIN_RULES
from waypost_config.maildomain import MailDomainSpec
from waypost_config.reader import documents
from waypost_config.resources import parse
from waypost_config.schema import ListNode, Node, ObjectNode, Rule, node_of
from waypost_config.validate import path_text

TABLE = Path(__file__).with_name("cases.yaml")


def cases() -> list[dict[str, Any]]:
    (document,) = documents(str(TABLE), TABLE.read_text())
    assert document.errors == ()
    return document.data


def an_object(case: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": case.get("name", case["spec"].get("domain")), "namespace": "shop"}
    kind = case.get("kind", "MailDomain")
    return {"apiVersion": "waypost.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": case["spec"]}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["case"])
def test_each_object_is_judged_as_the_table_says(case: dict[str, Any]) -> None:
    resource, flaws = parse(an_object(case))
    said = {path_text(flaw.path): flaw.message for flaw in flaws}
    wanted = case.get("refused") or case.get("later")
    if wanted is None:
        assert said == {}
        assert resource is not None
    else:
        assert resource is None
        assert wanted in said.get(case["field"], f"nothing at {case['field']}: {said}")


def test_one_flaw_is_reported_once_and_not_drowned_by_its_consequences() -> None:
    for case in cases():
        if "refused" in case or "later" in case:
            _, flaws = parse(an_object(case))
            assert len(flaws) <= 2, (case["case"], flaws)


def test_case_names_are_unique() -> None:
    names = [case["case"] for case in cases()]
    assert len(names) == len(set(names))


def rules(node: Node) -> Iterator[Rule]:
    yield from node.rules
    if isinstance(node, ObjectNode):
        for field in node.fields.values():
            yield from rules(field.node)
    elif isinstance(node, ListNode):
        yield from rules(node.items)


@pytest.mark.parametrize("model", [MailDomainSpec, DestinationPolicySpec])
def test_each_rule_has_an_object_that_breaks_it(model: type) -> None:
    refused = [case["refused"] for case in cases() if "refused" in case]
    texts = {rule.message for rule in rules(node_of(model)) if rule.mirror is not None}
    assert {text for text in texts if not any(text in each for each in refused)} == set()
    for root in (*DOMAIN_RULES, *POLICY_RULES):
        assert any(root.message in each or "metadata.name must be" in each for each in refused)


def test_each_part_that_is_not_alive_has_an_object_that_asks_for_it() -> None:
    asked = {(case.get("kind", "MailDomain"), case["field"]) for case in cases() if "later" in case}
    parts = {("MailDomain", path_text(("spec", *path))) for path, _, _ in later._MAIL_DOMAIN}
    parts |= {("DestinationPolicy", path_text(("spec", *path))) for path, _, _ in later._DESTINATION_POLICY}
    # MTA-STS without inbound mail breaks a rule, and inbound is refused first: it is alive after both.
    assert parts - asked == {("MailDomain", "spec.dns.mtaSTS")}
