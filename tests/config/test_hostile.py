"""No object makes the reader or the validator raise: whatever stands in a field, there is a flaw or an object."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost_config.compiler import Settings, compile_manifests
from waypost_config.manifests import collect, load, read
from waypost_config.reader import documents
from waypost_config.resources import parse
from waypost_config.writer import dump
from waypost_queue import codec

TABLE = Path(__file__).with_name("cases.yaml")
SPECS = [(case.get("kind", "MailDomain"), case["spec"]) for case in documents("", TABLE.read_text())[0].data]

words = st.sampled_from(
    [
        "",
        "None",
        "Smarthost",
        "VERP",
        "Network",
        "10.0.0.0/8",
        "1h",
        "64Ki",
        "a.example",
        "*@a.example",
        "default",
        "x" * 400,
    ]
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), words, st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    out = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        out += places(item, (*path, key))
    return out


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_value_at_any_place_is_judged(data: st.DataObject) -> None:
    kind, spec = data.draw(st.sampled_from(SPECS))
    name = spec.get("domain", "default")
    metadata: dict[str, Any] = {"name": name, "namespace": "shop", "labels": {"a": "b"}}
    whole = {"apiVersion": "waypost.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": copy.deepcopy(spec)}
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(whole)))
        inner: Any = whole
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = data.draw(values)
    resource, flaws = parse(whole)
    assert (resource is None) == bool(flaws)
    if resource is not None:
        compile_manifests(collect([resource]), settings=Settings(), hash_password=lambda _user, _password: "")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab:-[]{}#&*!|>'\"\n\t ,?%@`~0\x00\ufeff", max_size=60))
def test_any_text_is_read(text: str) -> None:
    manifests, problems = read(documents("f.yaml", text))
    assert not list(manifests.resources())
    assert bool(problems) == bool(manifests.unreadable)


MANIFEST = """apiVersion: v1
kind: List
items:
- apiVersion: waypost.dev/v1alpha1
  kind: MailDomain
  metadata: {name: a.example, namespace: shop, creationTimestamp: "2026-01-01T00:00:00Z", labels: {a: "b"}}
  spec: &spec {domain: a.example, senders: [{name: a, subjects: [{kind: Secret, name: s}]}]}
- {apiVersion: v1, kind: Secret, metadata: {name: s, namespace: shop}, stringData: {username: u, password: "\\u00e9"}}
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {mail: allowed}}}
"""
PIECES = ['"\\ud800"', '"\\UFFFFFFFF"', '"\\x"', "*a", "&a", "<<: *spec", "!!binary x", "!x", "%YAML 1.1\n---\n", "---"]
PIECES += [
    "\t",
    "? ",
    "|\n",
    ">-\n",
    "[",
    "}",
    "'",
    '"',
    ": ",
    "\x00",
    "\x85",
    "\u2028",
    "\r",
    "1e999",
    "0x_",
    "on",
    "~",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(MANIFEST)), st.integers(0, 12), st.one_of(st.text(max_size=3), st.sampled_from(PIECES))
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_manifest_that_is_broken_anywhere_is_read(edits: list[tuple[int, int, str]]) -> None:
    text = MANIFEST
    for place, length, piece in edits:
        text = text[:place] + piece + text[place + length :]
    manifests, _ = read(documents("f.yaml", text))
    compiled = compile_manifests(manifests, settings=Settings(), hash_password=lambda _user, _password: "")
    codec.encode(compiled.snapshot)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_file_is_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(data)
    assert not load([file])[0].domains


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**15), 10**15), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=8), plain, min_size=1, max_size=3))
def test_whatever_is_written_is_read_back(value: dict[str, Any]) -> None:
    (document,) = documents("f.yaml", dump(value))
    assert document.errors == ()
    assert document.data == value
