"""The table of good and bad objects against the Python mirror. The same table runs against a real API server."""

from pathlib import Path
from typing import Any

import pytest

from waypost_config.reader import documents
from waypost_config.resources import parse
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
