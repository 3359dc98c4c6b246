"""Files to resources: each problem with its place, the others untouched, secrets in no message."""

import os
from pathlib import Path

import pytest

from tests.config.support import domain, good, manifests, secret
from waypost_config.check import check
from waypost_config.manifests import load
from waypost_config.resources import Key


def test_a_problem_names_file_line_object_field_and_what_would_be_right() -> None:
    text = domain() + domain("b.example", outbound="{retry: {expireAfter: 900h}}")
    found, problems = manifests(text, "domains.yaml")
    assert [str(problem) for problem in problems] == [
        "domains.yaml:10: MailDomain shop/b.example: spec.outbound.retry.expireAfter: must be at most 240h"
    ]
    assert [key.name for key in found.domains] == ["example.com"]
    assert found.broken == {Key("MailDomain", "shop", "b.example")}


def test_all_five_kinds_are_read_and_others_are_counted() -> None:
    found = good(
        domain()
        + secret("login", username="u", password="p")
        + "---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: web}}\n"
        + "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {mail: allowed}}}\n"
        + "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}\n" * 2
        + "---\n{apiVersion: waypost.dev/v1alpha1, kind: DestinationPolicy, metadata: {name: default}, spec: {}}\n"
    )
    assert list(found.service_accounts) == [Key("ServiceAccount", "default", "web")]
    assert list(found.policies) == [Key("DestinationPolicy", "", "default")]
    assert found.skipped == {"Deployment": 2}
    (namespace,) = found.namespaces.values()
    assert namespace.labels == {"mail": "allowed", "kubernetes.io/metadata.name": "shop"}


def test_data_of_a_secret_is_base64_and_string_data_goes_over_it() -> None:
    text = "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: YWJj, b: eHl6}, stringData: {b: text}}"
    (found,) = good(text).secrets.values()
    assert found.data == {"a": b"abc", "b": b"text"}
    assert "abc" not in repr(found)


@pytest.mark.parametrize(
    "data",
    [
        "data: {password: geheim!}",
        "stringData: {password: 471147114711}",
        "stringData: {password: [geheim!]}",
        "stringData: {password: 0471147114711}",
    ],
)
def test_messages_about_a_secret_quote_nothing_of_it(data: str) -> None:
    _, problems = manifests(f"{{apiVersion: v1, kind: Secret, metadata: {{name: s}}, {data}}}")
    assert problems
    for problem in problems:
        assert "geheim" not in str(problem)
        assert "4711" not in str(problem)


def test_a_list_as_kubectl_prints_it_is_read_item_by_item() -> None:
    items = ",".join(
        f'{{"apiVersion":"waypost.dev/v1alpha1","kind":"MailDomain","metadata":{{"name":"{name}"}},"spec":{{"domain":"{said}"}}}}'
        for name, said in (("a.example", "a.example"), ("b.example", "c.example"))
    )
    found, problems = manifests(f'{{"apiVersion":"v1","kind":"List","items":[{items}]}}')
    assert [key.name for key in found.domains] == ["a.example"]
    assert [problem.field for problem in problems] == ["metadata.name"]


def test_a_misspelt_kind_or_version_of_our_group_is_a_problem() -> None:
    _, problems = manifests("{apiVersion: waypost.dev/v1alpha1, kind: Maildomain, metadata: {name: a}}")
    assert problems[0].message == 'waypost.dev has no kind "Maildomain"; it has MailDomain and DestinationPolicy'
    _, problems = manifests("{apiVersion: waypost.dev/v1, kind: MailDomain, metadata: {name: a.example}, spec: {}}")
    assert problems[0].message == '"waypost.dev/v1" must be waypost.dev/v1alpha1'


def test_what_is_no_manifest_is_a_problem_of_its_file() -> None:
    for text in ("- a\n- b\n", "just text", "name: x\n", "a: [1"):
        found, problems = manifests(text)
        assert len(problems) == 1
        assert found.unreadable == {"m.yaml"}


def test_of_two_objects_of_one_name_the_first_counts_and_the_second_is_named() -> None:
    found, problems = manifests(domain(suspend="All") + domain())
    (only,) = found.domains.values()
    assert only.spec.suspend == "All"
    assert "is there twice; the one at m.yaml:2 counts" in problems[0].message


def test_folders_are_read_at_any_depth_and_hidden_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "team" / ".git").mkdir(parents=True)
    (tmp_path / "a.yaml").write_text(domain("a.example"))
    (tmp_path / "team" / "b.yml").write_text(domain("b.example"))
    (tmp_path / "team" / ".git" / "c.yaml").write_text(domain("c.example"))
    (tmp_path / "README.md").write_text("no manifest")
    found, problems = load([tmp_path])
    assert sorted(key.name for key in found.domains) == ["a.example", "b.example"]
    assert problems == []


def test_a_file_that_cannot_be_read_is_a_problem_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(domain("a.example"))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "c.yaml").write_text("a" * (4 << 20) + "b")
    found, problems = load([tmp_path, tmp_path / "absent"])
    assert len(found.domains) == 1
    assert [problem.message for problem in problems] == [
        "No such file or directory; give a file or folder that can be read",
        "no UTF-8 text; save it as UTF-8",
        "larger than 4 MiB; split it",
    ]
    assert str(tmp_path / "absent") in found.unreadable


def test_check_reports_problems_within_and_between_objects(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(domain(namespace="web") + domain(namespace="shop") + domain("b.example", x="1"))
    texts = [str(problem) for problem in check([tmp_path])]
    assert len(texts) == 2
    assert "spec.x: unknown field" in texts[0]
    assert "DomainConflict: example.com is held by MailDomain shop/example.com" in texts[1]


def test_check_is_content_with_a_secret_that_will_be_made(tmp_path: Path) -> None:
    senders = "[{name: a, subjects: [{kind: Secret, name: s}]}]"
    (tmp_path / "a.yaml").write_text(domain(senders=senders))
    assert check([tmp_path]) == []


def test_the_examples_are_good() -> None:
    assert check([Path(__file__).parents[2] / "examples"]) == []


def test_linked_folders_are_read_as_those_of_a_mounted_configmap(tmp_path: Path) -> None:
    version = tmp_path / "..2026_01"
    (version / "team").mkdir(parents=True)
    (version / "a.yaml").write_text(domain("a.example"))
    (version / "team" / "b.yaml").write_text(domain("b.example"))
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (tmp_path / "team").symlink_to("..data/team")
    (version / "team" / "again").symlink_to("..")
    found, problems = load([tmp_path])
    assert sorted(key.name for key in found.domains) == ["a.example", "b.example"]
    assert [problem.message for problem in problems if "is there twice" not in problem.message] == []


def test_a_link_to_nowhere_is_no_absence(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("gone.yaml")
    found, problems = load([tmp_path])
    assert found.unreadable == {str(tmp_path / "a.yaml")}
    assert "No such file or directory" in problems[0].message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_may_not_be_looked_into_is_no_absence(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir(mode=0)
    found, problems = load([tmp_path])
    (tmp_path / "team").chmod(0o700)
    assert found.unreadable == {str(tmp_path / "team")}
    assert "Permission denied" in problems[0].message


def test_a_byte_order_mark_and_lines_of_windows_are_read(tmp_path: Path) -> None:
    text = (domain("a.example") + domain("b.example", suspend="Sometimes")).replace("\n", "\r\n")
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found, problems = load([tmp_path])
    assert [key.name for key in found.domains] == ["a.example"]
    assert [problem.line for problem in problems] == [10]


def test_other_bytes_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
    _, (problem,) = load([tmp_path])
    assert (problem.line, problem.message) == (2, "no UTF-8 text; save it as UTF-8")


def test_a_list_with_its_items_twice_hides_nothing() -> None:
    found, (problem,) = manifests("apiVersion: v1\nkind: List\nitems: []\nitems: []\n")
    assert found.unreadable == {"m.yaml"}
    assert (problem.line, problem.message) == (4, "key 'items' is there twice; remove one")


def test_an_unknown_field_of_the_metadata_is_named_with_the_one_that_was_meant() -> None:
    _, (problem,) = manifests(domain().replace("namespace: shop", "namespcae: shop"))
    assert (problem.field, problem.message) == ("metadata.namespcae", "unknown field; did you mean namespace?")


@pytest.mark.parametrize("stamp", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "yesterday", "12"])
def test_a_time_that_is_none_is_named(stamp: str) -> None:
    _, (problem,) = manifests(domain(created=f"'{stamp}'"))
    assert problem.field == "metadata.creationTimestamp"
    assert "must be a time such as 2026-03-02T10:00:00Z" in problem.message


def test_a_rotation_by_annotation_is_not_alive() -> None:
    text = domain().replace("namespace: shop", "namespace: shop, annotations: {waypost.dev/rotate-dkim: now}")
    _, (problem,) = manifests(text)
    assert "Waypost does not sign with DKIM yet" in problem.message
