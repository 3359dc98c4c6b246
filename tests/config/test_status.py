"""Conditions as they stand in a resource, and the tables that kubectl would print."""

import subprocess
import sys

import msgspec

from waypost_config.status import Fact, StoredObject, conditions, status_key
from waypost_config.table import age, table
from waypost_queue import codec

GOOD = [Fact("Accepted", "True", "Accepted", ""), Fact("SendersReady", "True", "Ready", "")]
BAD = [Fact("Accepted", "True", "Accepted", ""), Fact("SendersReady", "False", "SecretInvalid", "Secret a/b: ...")]


def test_ready_is_all_the_others_with_the_reason_of_the_first_that_fails() -> None:
    assert [(one.type, one.status) for one in conditions(GOOD, generation=1, now=0.0)] == [
        ("Ready", "True"),
        ("Accepted", "True"),
        ("SendersReady", "True"),
    ]
    ready = conditions(BAD, generation=1, now=0.0)[0]
    assert (ready.status, ready.reason, ready.message) == ("False", "SecretInvalid", "Secret a/b: ...")


def test_ready_does_not_depend_on_health() -> None:
    unhealthy = [*GOOD, Fact("Healthy", "False", "Throttled", "")]
    assert conditions(unhealthy, generation=1, now=0.0)[0].status == "True"


def test_the_transition_time_moves_only_when_the_status_does() -> None:
    first = conditions(GOOD, generation=1, now=1000.0)
    other_words = [*GOOD[:1], Fact("SendersReady", "True", "Other", "words")]
    second = conditions(other_words, before=first, generation=2, now=2000.0)
    assert [one.last_transition_time for one in second] == ["1970-01-01T00:16:40Z"] * 3
    assert {one.observed_generation for one in second} == {2}
    third = {one.type: one for one in conditions(BAD, before=second, generation=2, now=3000.0)}
    assert third["SendersReady"].last_transition_time == "1970-01-01T00:50:00Z"
    assert third["Accepted"].last_transition_time == "1970-01-01T00:16:40Z"


def stored(name: str, namespace: str = "shop", facts: list[Fact] = GOOD) -> StoredObject:
    found = conditions(facts, generation=4, now=1000.0)
    return StoredObject(
        kind="MailDomain",
        name=name,
        namespace=namespace,
        created=1000.0,
        generation=4,
        spec={"domain": name},
        status={"observedGeneration": 4, "conditions": msgspec.to_builtins(list(found))},
    )


def test_a_stored_object_survives_its_wire_format_and_prints_as_a_manifest() -> None:
    found = codec.decode(codec.encode(stored("a.example")), StoredObject)
    assert found == stored("a.example")
    assert found.conditions[0].type == "Ready"
    manifest = found.manifest()
    assert list(manifest) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert manifest["metadata"]["creationTimestamp"] == "1970-01-01T00:16:40Z"
    assert manifest["status"]["conditions"][0]["lastTransitionTime"] == "1970-01-01T00:16:40Z"
    assert status_key(found.key) == "status.maildomain.shop.a_example"


def test_the_table_is_that_of_kubectl() -> None:
    items = [stored("shop.example"), stored("a.example", "web", BAD)]
    assert table("MailDomain", items, now=1009.0) == (
        "NAME           DOMAIN         READY   PROGRAMMED   DNS   AGE\n"
        "shop.example   shop.example   True                       9s\n"
        "a.example      a.example      False                      9s\n"
    )


def test_the_wide_table_says_why_and_all_namespaces_are_named() -> None:
    text = table("MailDomain", [stored("a.example", "web", BAD)], now=1300.0, wide=True, with_namespace=True)
    assert text == (
        "NAMESPACE   NAME        DOMAIN      READY   PROGRAMMED   DNS   REASON          MESSAGE           AGE\n"
        "web         a.example   a.example   False                      SecretInvalid   Secret a/b: ...   5m\n"
    )


def test_a_table_of_nothing_is_nothing() -> None:
    assert table("MailDomain", [], now=0.0) == ""


def test_ages_are_written_as_kubectl_writes_them() -> None:
    spans = {
        0: "0s",
        119: "119s",
        130: "2m10s",
        600: "10m",
        10_800: "3h",
        11_000: "3h3m",
        30_000: "8h",
        200_000: "2d7h",
    }
    spans |= {86_400 * 9: "9d", 86_400 * 800: "2y70d"}
    assert {seconds: age(seconds) for seconds in spans} == spans


def test_a_status_is_read_without_the_yaml_reader() -> None:
    """The API shows statuses, and its image holds no ruamel.yaml."""
    code = "import sys, waypost_config.status, waypost_config.table; raise SystemExit('ruamel.yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
