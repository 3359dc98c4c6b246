"""Generations, ages and statuses, which an API server keeps where there is one. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from waypost_config.compiler import Compiled
from waypost_config.manifests import Manifests, Problem, collect
from waypost_config.resources import DestinationPolicy, Key, MailDomain, Resource
from waypost_config.status import Fact, StoredObject, conditions

Own = MailDomain | DestinationPolicy
Pods = Mapping[str, tuple[int, int]]
"""Service -> (processes that run at least the generation in question, processes in all)."""


def own(manifests: Manifests) -> dict[Key, Own]:
    """The resources that have a status."""
    return {**manifests.domains, **manifests.policies}


def numbered(manifests: Manifests, stored: Mapping[Key, StoredObject], now: float) -> Manifests:
    """The same with generations (one more than the stored one when the spec changed) and creation times."""
    resources: list[Resource] = []
    for resource in manifests.resources():
        if not isinstance(resource, MailDomain | DestinationPolicy):
            resources.append(resource)
            continue
        before = stored.get(resource.meta.key)
        generation, created = 1, now
        if before is not None:
            generation = before.generation if before.spec == resource.raw else before.generation + 1
            created = before.created or now
        if resource.meta.created is not None:
            created = resource.meta.created
        meta = msgspec.structs.replace(resource.meta, generation=generation, created=created)
        resources.append(msgspec.structs.replace(resource, meta=meta))
    return collect(resources, skipped=manifests.skipped, broken=manifests.broken, unreadable=manifests.unreadable)


def programmed(generation: int, pods: Pods) -> Fact:
    """Whether every process of ingress and delivery runs it."""
    if not pods:
        text = f"Generation {generation} is published; no process of ingress or delivery says yet that it runs it."
        return Fact("Programmed", "Unknown", "Pending", text)
    said = ", ".join(f"{service} {running}/{total}" for service, (running, total) in pods.items())
    text = f"Generation {generation} runs on {said} pods."
    if all(0 < total == running for running, total in pods.values()):
        return Fact("Programmed", "True", "Programmed", text)
    return Fact("Programmed", "False", "Pending", text)


def statuses(
    manifests: Manifests,
    compiled: Compiled,
    problems: Iterable[Problem],
    stored: Mapping[Key, StoredObject],
    pods: Mapping[Key, Pods],
    now: float,
) -> dict[Key, StoredObject]:
    """Every object that has a status, as it is to be stored; those that were never good among them."""
    said: dict[str, list[str]] = {}
    for problem in problems:
        said.setdefault(problem.object, []).append(_brief(problem))
    resources = own(manifests)
    out = {}
    for key, resource in resources.items():
        facts = {fact.type: fact for fact in compiled.facts.get(key, ())}
        generation = resource.meta.generation
        if "Programmed" not in facts and facts["Accepted"].status == "True":
            facts["Programmed"] = programmed(generation, pods.get(key, {}))
        if key in manifests.broken:
            text = f"{_all(said.get(str(key), []))} Generation {generation} stays in force."
            facts["Programmed"] = Fact("Programmed", "False", "Invalid", text)
        meta = resource.meta
        out[key] = _object(key, facts.values(), stored.get(key), generation, now, resource)
        out[key] = msgspec.structs.replace(
            out[key],
            created=meta.created or 0.0,
            labels=meta.labels,
            annotations=meta.annotations,
            spec=resource.raw,
            file=meta.file,
        )
    for key in manifests.broken:
        if key not in resources and key.kind in ("MailDomain", "DestinationPolicy"):
            fact = Fact("Programmed", "False", "Invalid", _all(said.get(str(key), [])))
            before = stored.get(key)
            created = before.created if before is not None and before.created else now
            out[key] = msgspec.structs.replace(_object(key, [fact], before, 0, now, None), created=created)
    return out


def _object(
    key: Key, facts: Iterable[Fact], before: StoredObject | None, generation: int, now: float, resource: Own | None
) -> StoredObject:
    old = before.conditions if before is not None else ()
    found = conditions(facts, before=old, generation=generation, now=now)
    if isinstance(resource, DestinationPolicy):
        found = tuple(condition for condition in found if condition.type != "Ready")
    status = {"observedGeneration": generation, "conditions": msgspec.to_builtins(list(found))}
    return StoredObject(kind=key.kind, namespace=key.namespace, name=key.name, generation=generation, status=status)


def _brief(problem: Problem) -> str:
    place = f"{problem.file}:{problem.line}" if problem.file else ""
    return ": ".join(part for part in (place, problem.field, problem.message) if part)


def _all(texts: list[str]) -> str:
    more = f" {len(texts) - 1} more: see `waypost check`." if len(texts) > 1 else ""
    return f"{texts[0]}.{more}" if texts else "Its manifest can't be read."
