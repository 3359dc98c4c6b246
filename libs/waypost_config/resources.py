"""Resources as objects: MailDomain, DestinationPolicy, Secret, ServiceAccount, Namespace.

`parse` turns one object, as the API server or a file gives it, into its typed form, or says all that is wrong with it.
"""

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from .common import API_VERSION, GROUP
from .destinationpolicy import ROOT_RULES as POLICY_RULES
from .destinationpolicy import DestinationPolicySpec
from .later import not_yet
from .maildomain import ROOT_RULES as DOMAIN_RULES
from .maildomain import MailDomainSpec
from .schema import Path, Rule, node_of
from .validate import Flaw, shown, unknown, validate

NAME_LABEL: Final = "kubernetes.io/metadata.name"  # the API server puts it on every namespace
DOMAINS_ANNOTATION: Final = "waypost.dev/domains"
POOLS_ANNOTATION: Final = "waypost.dev/pools"
RECIPIENTS_ANNOTATION: Final = "waypost.dev/recipients-per-day"
ROTATE_ANNOTATION: Final = "waypost.dev/rotate-dkim"

# ObjectMeta; those that the API server alone fills in are read and left aside, so that its own output is taken.
_METADATA: Final = (
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "generation",
    "generateName",
    "resourceVersion",
    "uid",
    "selfLink",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}\Z")
_SECRET_BYTES = 1 << 20
_LAST_TIME = 253_370_764_800.0  # the year 9999, Unix seconds


class Key(msgspec.Struct, frozen=True, order=True):
    """Which object; `namespace` is "" for those of the cluster."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class ObjectMeta(msgspec.Struct, frozen=True, kw_only=True):
    key: Key
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    created: float | None = None  # Unix seconds
    generation: int = 0  # 0: nobody has counted yet
    file: str = ""
    line: int = 0


class MailDomain(msgspec.Struct, frozen=True, kw_only=True):
    meta: ObjectMeta
    spec: MailDomainSpec
    raw: dict[str, Any]  # the spec with defaults, as `kubectl get -o yaml` shows it


class DestinationPolicy(msgspec.Struct, frozen=True, kw_only=True):
    meta: ObjectMeta
    spec: DestinationPolicySpec
    raw: dict[str, Any]


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    meta: ObjectMeta
    data: dict[str, bytes]

    def __repr__(self) -> str:
        return f"Secret({self.meta.key}, keys {sorted(self.data)})"  # never the values


class ServiceAccount(msgspec.Struct, frozen=True, kw_only=True):
    meta: ObjectMeta


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    meta: ObjectMeta

    @property
    def labels(self) -> dict[str, str]:
        """Its labels with the one that the API server adds."""
        return {**self.meta.labels, NAME_LABEL: self.meta.key.name}


Resource = MailDomain | DestinationPolicy | Secret | ServiceAccount | Namespace

_API: Final[dict[str, str]] = {
    "MailDomain": API_VERSION,
    "DestinationPolicy": API_VERSION,
    "Secret": "v1",
    "ServiceAccount": "v1",
    "Namespace": "v1",
}
_CLUSTER_SCOPED: Final = frozenset({"DestinationPolicy", "Namespace"})
_OWN_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status")


def is_ours(data: dict[str, Any]) -> bool:
    """Whether an object is of a kind that Waypost reads. One of its own group is, so that a typing error is found."""
    kind, group = data.get("kind"), str(data.get("apiVersion", "")).partition("/")[0]
    if kind in ("MailDomain", "DestinationPolicy") or group == GROUP:
        return True
    return kind in _API and data.get("apiVersion") == _API[kind]


def key_of(data: Any) -> Key | None:
    """Which object this is, if that much of it can be read."""
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        return None
    metadata = data.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return None
    kind = data["kind"]
    namespace = "" if kind in _CLUSTER_SCOPED else metadata.get("namespace") or "default"
    return Key(kind, str(namespace), metadata["name"])


def parse(data: dict[str, Any], *, file: str = "", line: int = 0) -> tuple[Resource | None, list[Flaw]]:
    """The typed object, or None and its flaws. Only a flawless object comes back."""
    flaws: list[Flaw] = []
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _API:
        known = "MailDomain and DestinationPolicy"
        return None, [Flaw(("kind",), f"{GROUP} has no kind {shown(kind)}; it has {known}")]
    if data.get("apiVersion") != _API[kind]:
        flaws.append(Flaw(("apiVersion",), f"{shown(data.get('apiVersion'))} must be {_API[kind]}"))
    meta = _metadata(data, kind, flaws, file, line)
    if kind == "Secret":
        content = _secret_data(data, flaws)
        return (Secret(meta=meta, data=content), []) if meta is not None and not flaws else (None, flaws)
    if kind in ("ServiceAccount", "Namespace"):
        if meta is None or flaws:
            return None, flaws
        return (ServiceAccount(meta=meta) if kind == "ServiceAccount" else Namespace(meta=meta)), []
    flaws += [Flaw((name,), unknown(name, _OWN_FIELDS)) for name in data if name not in _OWN_FIELDS]
    if kind == "MailDomain":
        spec, raw = _spec(MailDomainSpec, DOMAIN_RULES, data, flaws)
        return (None, flaws) if meta is None or spec is None else (MailDomain(meta=meta, spec=spec, raw=raw), [])
    policy, raw = _spec(DestinationPolicySpec, POLICY_RULES, data, flaws)
    return (None, flaws) if meta is None or policy is None else (DestinationPolicy(meta=meta, spec=policy, raw=raw), [])


_Spec = TypeVar("_Spec", MailDomainSpec, DestinationPolicySpec)


def _spec(
    model: type[_Spec], rules: tuple[Rule, ...], data: dict[str, Any], flaws: list[Flaw]
) -> tuple[_Spec | None, dict[str, Any]]:
    """The typed spec, and as data with its defaults; None when the object has any flaw."""
    if data.get("spec") is None:
        flaws.append(Flaw(("spec",), "Required value"))
        return None, {}
    raw, found = validate(node_of(model), data["spec"], ("spec",))
    flaws += found
    flaws += _root_flaws(rules, data, raw)
    if flaws:
        return None, {}
    spec = msgspec.convert(raw, model)
    flaws += not_yet(spec)
    return (None if flaws else spec), raw


def _root_flaws(rules: tuple[Rule, ...], data: dict[str, Any], spec: Any) -> list[Flaw]:
    """Rules on metadata and spec together: they look at names alone, so they run whenever those can be read."""
    metadata = data.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not isinstance(spec, dict):
        return []
    if data["kind"] == "MailDomain" and not isinstance(spec.get("domain"), str):
        return []
    value = {"metadata": metadata, "spec": spec}
    out = []
    for rule in rules:
        broken = rule.mirror(value) if rule.mirror is not None else None
        if broken is not None:
            out.append(Flaw(broken, rule.message_for(value)))
    return out


def _metadata(data: dict[str, Any], kind: str, flaws: list[Flaw], file: str, line: int) -> ObjectMeta | None:
    metadata = data.get("metadata")
    if not isinstance(metadata, dict):
        flaws.append(Flaw(("metadata",), "Required value: metadata with a name"))
        return None
    name = metadata.get("name")
    before = len(flaws)
    flaws += [Flaw(("metadata", key), unknown(key, _METADATA)) for key in metadata if key not in _METADATA]
    if not isinstance(name, str):
        flaws.append(Flaw(("metadata", "name"), "Required value: the name as text"))
    elif kind == "Namespace" and not (_LABEL.match(name) and len(name) <= 63):
        flaws.append(
            Flaw(("metadata", "name"), f"{shown(name)} must be lower-case letters, digits and '-', at most 63")
        )
    elif not (_SUBDOMAIN.match(name) and len(name) <= 253):
        means = "lower-case letters, digits, '-' and '.', at most 253"
        flaws.append(Flaw(("metadata", "name"), f"{shown(name)} must be {means}"))
    namespace = "" if kind in _CLUSTER_SCOPED else metadata.get("namespace") or "default"
    if namespace != "" and not (isinstance(namespace, str) and _LABEL.match(namespace) and len(namespace) <= 63):
        text = f"{shown(namespace)} must be lower-case letters, digits and '-', at most 63"
        flaws.append(Flaw(("metadata", "namespace"), text))
    labels = _strings(metadata, "labels", flaws)
    annotations = _strings(metadata, "annotations", flaws)
    if kind == "Namespace" and RECIPIENTS_ANNOTATION in annotations:
        text = "Waypost does not limit a namespace yet; set spec.limits of its MailDomains"
        flaws.append(Flaw(("metadata", "annotations", RECIPIENTS_ANNOTATION), text))
    if kind == "MailDomain" and ROTATE_ANNOTATION in annotations:
        text = "Waypost does not sign with DKIM yet; remove the annotation"
        flaws.append(Flaw(("metadata", "annotations", ROTATE_ANNOTATION), text))
    created = _time(metadata, flaws)
    if len(flaws) > before:
        return None
    generation = metadata.get("generation")
    return ObjectMeta(
        key=Key(kind, namespace, str(name)),
        labels=labels,
        annotations=annotations,
        created=created,
        generation=generation if isinstance(generation, int) and not isinstance(generation, bool) else 0,
        file=file,
        line=line,
    )


def _strings(metadata: dict[str, Any], name: str, flaws: list[Flaw]) -> dict[str, str]:
    value = metadata.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        flaws.append(Flaw(("metadata", name), "must be a map of text to text"))
        return {}
    out = {}
    for key, item in value.items():
        if isinstance(item, str):
            out[key] = item
        elif item is not None:
            flaws.append(Flaw(("metadata", name, key), f"{shown(item)} must be text; put it in quotes"))
    return out


def _time(metadata: dict[str, Any], flaws: list[Flaw]) -> float | None:
    value = metadata.get("creationTimestamp")
    if value is None:
        return None
    try:
        stamp = datetime.fromisoformat(str(value))
        seconds = (stamp if stamp.tzinfo is not None else stamp.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = -1.0
    if 0 <= seconds < _LAST_TIME:
        return seconds
    flaws.append(Flaw(("metadata", "creationTimestamp"), f"{shown(value)} must be a time such as 2026-03-02T10:00:00Z"))
    return None


def _secret_data(data: dict[str, Any], flaws: list[Flaw]) -> dict[str, bytes]:
    """`data` (base64) with `stringData` (text) over it, as the API server merges them. Messages quote no values."""
    known = ("apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable")
    flaws += [Flaw((name,), unknown(name, known)) for name in data if name not in known]
    out: dict[str, bytes] = {}
    for field in ("data", "stringData"):
        entries = data.get(field)
        if entries is None:
            continue
        if not isinstance(entries, dict):
            flaws.append(Flaw((field,), "must be a map of names to text"))
            continue
        for name, value in entries.items():
            path: Path = (field, name)
            if not _SECRET_KEY.match(name):
                flaws.append(Flaw(path, "a key of a Secret is made of letters, digits, '-', '_' and '.'"))
            elif value is None:
                out[name] = b""
            elif not isinstance(value, str):
                flaws.append(Flaw(path, "must be text; put the value in quotes"))
            elif field == "stringData":
                out[name] = value.encode()
            else:
                try:
                    out[name] = base64.b64decode("".join(value.split()), validate=True)
                except (binascii.Error, ValueError):
                    flaws.append(Flaw(path, "must be base64; put plain text under stringData"))
    if sum(map(len, out.values())) > _SECRET_BYTES:
        flaws.append(Flaw(("data",), "a Secret holds at most 1 MiB"))
    return out
