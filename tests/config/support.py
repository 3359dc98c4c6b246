"""Manifests from text, for tests."""

from typing import Any

from waypost_config.compiler import Compiled, Settings, compile_manifests
from waypost_config.manifests import Manifests, Problem, read
from waypost_config.reader import documents
from waypost_config.status import Fact
from waypost_queue import config


def manifests(text: str, file: str = "m.yaml") -> tuple[Manifests, list[Problem]]:
    return read(documents(file, text))


def good(text: str) -> Manifests:
    found, problems = manifests(text)
    assert problems == []
    return found


def compiled(text: str, *, previous: config.Snapshot | None = None, **settings: Any) -> Compiled:
    return compile_manifests(
        good(text),
        settings=Settings(**settings),
        hash_password=lambda user, password: f"{user}:{password}",
        previous=previous,
    )


def fact(result: Compiled, name: str, kind: str) -> Fact:
    """The fact of a type about the one object of that name."""
    facts = [facts for key, facts in result.facts.items() if key.name == name]
    assert len(facts) == 1
    return next(one for one in facts[0] if one.type == kind)


def domain(name: str = "example.com", namespace: str = "shop", created: str = "", **spec: Any) -> str:
    """A MailDomain manifest; `spec` as flow YAML."""
    stamp = f", creationTimestamp: {created}" if created else ""
    fields = "".join(f", {key}: {value}" for key, value in spec.items())
    return f"""---
apiVersion: waypost.dev/v1alpha1
kind: MailDomain
metadata: {{name: {name}, namespace: {namespace}{stamp}}}
spec: {{domain: {name}{fields}}}
"""


def secret(name: str, namespace: str = "shop", **values: str) -> str:
    data = ", ".join(f'{key}: "{value}"' for key, value in values.items())
    return f"""---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}}}
stringData: {{{data}}}
"""


def policy(name: str, created: str = "", **spec: Any) -> str:
    stamp = f", creationTimestamp: {created}" if created else ""
    fields = ", ".join(f"{key}: {value}" for key, value in spec.items())
    return f"""---
apiVersion: waypost.dev/v1alpha1
kind: DestinationPolicy
metadata: {{name: {name}{stamp}}}
spec: {{{fields}}}
"""


def namespace(name: str, annotations: str = "", labels: str = "") -> str:
    return f"""---
apiVersion: v1
kind: Namespace
metadata: {{name: {name}, annotations: {{{annotations}}}, labels: {{{labels}}}}}
"""
