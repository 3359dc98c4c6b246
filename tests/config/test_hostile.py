"""No object makes the reader or the validator raise: whatever stands in a field, there is a flaw or an object."""

import copy
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from waypost_config.compiler import Settings, compile_manifests
from waypost_config.manifests import collect, read
from waypost_config.reader import documents
from waypost_config.resources import parse
from waypost_config.writer import dump

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
