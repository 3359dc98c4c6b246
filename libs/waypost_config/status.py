"""Status: conditions and records as they stand in a resource, and the one helper that writes conditions.

Conditions have positive polarity; `Ready` is all the others but `Healthy`, with the reason and message of the first
that fails. `lastTransitionTime` moves only when `status` does.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from waypost_queue.model import Wire
from waypost_queue.subjects import token

from .common import API_VERSION
from .resources import Key
from .schema import Items, Model, Number, Text

ConditionStatus = Literal["True", "False", "Unknown"]

ORDER: Final = (
    "Ready",
    "Accepted",
    "KeysReady",
    "SendersReady",
    "OutboundReady",
    "InboundReady",
    "Programmed",
    "DNSReady",
    "Healthy",
)
MAX_MESSAGE: Final = 4096  # characters

_Generation = Annotated[int, Number(min=0, max=2**63 - 1, format="int64")]
_Time = Annotated[str, Text(max=64, format="date-time")]


class Condition(Model, frozen=True):
    type: Annotated[str, Text(max=64)]
    status: ConditionStatus
    reason: Annotated[str, Text(max=64)]
    message: Annotated[str, Text(max=MAX_MESSAGE)]
    last_transition_time: _Time
    observed_generation: _Generation | None = None


class Record(Model, frozen=True):
    """A DNS record: what is expected beside what is seen."""

    name: Annotated[str, Text(max=253)]
    type: Literal["TXT", "MX", "CNAME", "A", "AAAA"]
    purpose: Literal["DKIM", "SPF", "DMARC", "MX", "ReturnPath", "MTASTS", "TLSRPT"]
    required: bool | None = None
    expected: Annotated[str, Text(max=2048)] | None = None
    observed: Annotated[tuple[Annotated[str, Text(max=2048)], ...], Items(max=8)] | None = None
    state: Literal["Match", "Missing", "Differs", "Conflict", "Unknown"] | None = None
    checked_at: _Time | None = None


class DkimKeyStatus(Model, frozen=True):
    selector: Annotated[str, Text(max=63)]
    algorithm: Literal["RSA2048", "Ed25519"] | None = None
    phase: Literal["Pending", "Published", "Active", "Retiring", "Retired"] | None = None
    secret_name: Annotated[str, Text(max=253)] | None = None
    since: _Time | None = None


class Egress(Model, frozen=True):
    """A source address as the world sees it."""

    address: Annotated[str, Text(max=45)]
    ptr: Annotated[str, Text(max=253)] | None = None
    helo: Annotated[str, Text(max=253)] | None = None
    spf: Annotated[str, Text(max=16)] | None = None
    pool: Annotated[str, Text(max=63)] | None = None


class MailDomainStatus(Model, frozen=True):
    observed_generation: _Generation | None = None
    conditions: Annotated[tuple[Condition, ...], Items(max=16, kind="map", keys=("type",))] | None = None
    records: Annotated[tuple[Record, ...], Items(max=32, kind="map", keys=("name", "type", "purpose"))] | None = None
    dkim_keys: Annotated[tuple[DkimKeyStatus, ...], Items(max=8, kind="map", keys=("selector",))] | None = None
    egress: Annotated[tuple[Egress, ...], Items(max=64, kind="map", keys=("address",))] | None = None


class DestinationPolicyStatus(Model, frozen=True):
    observed_generation: _Generation | None = None
    conditions: Annotated[tuple[Condition, ...], Items(max=8, kind="map", keys=("type",))] | None = None


class Fact(msgspec.Struct, frozen=True):
    """A condition before it has a time."""

    type: str
    status: ConditionStatus
    reason: str
    message: str


def rfc3339(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions(
    facts: Iterable[Fact], *, before: Iterable[Condition] = (), generation: int, now: float
) -> tuple[Condition, ...]:
    """The conditions that these facts make, `Ready` among them, in the order of the table in the documentation."""
    known = {fact.type: fact for fact in facts}
    known["Ready"] = _ready([known[name] for name in ORDER if name in known and name not in ("Ready", "Healthy")])
    old = {condition.type: condition for condition in before}
    out = []
    for name in ORDER:
        fact = known.get(name)
        if fact is None:
            continue
        last = old.get(name)
        moved = last is None or last.status != fact.status
        out.append(
            Condition(
                type=name,
                status=fact.status,
                reason=fact.reason,
                message=fact.message[:MAX_MESSAGE],
                last_transition_time=rfc3339(now) if last is None or moved else last.last_transition_time,
                observed_generation=generation,
            )
        )
    return tuple(out)


def _ready(facts: list[Fact]) -> Fact:
    for fact in facts:
        if fact.status != "True":
            return Fact("Ready", fact.status, fact.reason, fact.message)
    return Fact("Ready", "True", "Ready", "")


class StoredObject(Wire, frozen=True):
    """A MailDomain or DestinationPolicy with its status: KV `state`, key `status_key(...)`, in the wire format.

    It is what `kubectl get` would answer where there is no API server, and the last good version after a restart.
    """

    kind: str
    name: str
    namespace: str = ""
    created: float = 0.0
    generation: int = 0
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    spec: dict[str, Any] = msgspec.field(default_factory=dict)  # with defaults; {} if no version of it was ever good
    status: dict[str, Any] = msgspec.field(default_factory=dict)
    file: str = ""

    @property
    def key(self) -> Key:
        return Key(self.kind, self.namespace, self.name)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return msgspec.convert(self.status.get("conditions", ()), tuple[Condition, ...])

    def manifest(self) -> dict[str, Any]:
        """The object as `kubectl get -o yaml` prints it."""
        metadata: dict[str, Any] = {"name": self.name}
        if self.namespace:
            metadata["namespace"] = self.namespace
        metadata["generation"] = self.generation
        if self.created:
            metadata["creationTimestamp"] = rfc3339(self.created)
        if self.labels:
            metadata["labels"] = self.labels
        if self.annotations:
            metadata["annotations"] = self.annotations
        out = {"apiVersion": API_VERSION, "kind": self.kind, "metadata": metadata, "spec": self.spec}
        return {**out, "status": self.status} if self.status else out


STATUS_PREFIX: Final = "status."


def status_key(key: Key) -> str:
    """Where the object's StoredObject lies in the KV bucket `state`."""
    return f"{STATUS_PREFIX}{key.kind.lower()}.{token(key.namespace)}.{token(key.name)}"
