"""What each service's NATS user may do: pure, rendered for every shard, since a wildcard stands for a whole token only.

Ingress can put mail in and take none out, delivery alone works on the queue, the queue service alone creates. That is
no more than it says: permissions can't see headers, so whoever may publish to a stream that takes rollups can empty it
(INTAKE, SPOOL and EVENTS take none). No octet that a client chose ever becomes a NATS header.
"""

from typing import Final, Literal, TypedDict, get_args

from . import subjects
from .ids import MAX_SHARDS

Service = Literal["ingress", "delivery", "queue", "api", "manifests", "operator"]
SERVICES: Final[tuple[str, ...]] = get_args(Service)
USER_INFO: Final = "$SYS.REQ.USER.INFO"


class Permissions(TypedDict):
    """Subjects, with wildcards, as a nats-server configuration takes them."""

    publish: list[str]
    subscribe: list[str]


def inbox_prefix(service: str) -> str:
    """Under which the service's replies come; a client that uses another waits for ever for an acknowledgement."""
    return f"_INBOX_{service}"


def permissions(service: str, shards: int = MAX_SHARDS) -> Permissions:
    """What `service` may publish and subscribe, with `shards` shards. ValueError for a service that there is not."""
    if service not in SERVICES:
        raise ValueError(f"no service {service!r}; there are: {', '.join(SERVICES)}")
    publish = [f"events.{service}", "hb.>", USER_INFO]
    subscribe = [f"{inbox_prefix(service)}.>", "hb.>"]
    every = range(shards)
    intake = [f"intake{shard}.>" for shard in every]
    spool = [f"spool{shard}.>" for shard in every]
    match service:
        case "ingress":
            publish += [*intake, *spool, "usage.>", *_watch("config")]
            publish += [f"$JS.API.STREAM.INFO.{name}-{shard}" for shard in every for name in ("INTAKE", "SPOOL")]
            subscribe += ["usage.>"]
        case "delivery":
            publish += [*spool, "usage.>", f"{subjects.INBOX_SUBJECT}.>", "$KV.state.>"]
            publish += [*_watch("config"), *_watch("keys"), *_watch("state")]
            for shard in every:
                publish += [f"q{shard}.>", subjects.settle(shard), f"intake{shard}.*.prio.*"]
                publish += _consume(f"INTAKE-{shard}") + _consume(f"QUEUE-{shard}")
                for name in ("INTAKE", "QUEUE", "SETTLE", "SPOOL"):
                    publish += _read(f"{name}-{shard}")
                publish += [f"$JS.API.STREAM.MSG.DELETE.QUEUE-{shard}", f"$JS.API.STREAM.PURGE.SPOOL-{shard}"]
            subscribe += ["usage.>"]
        case "queue":
            publish += [*intake, *spool, "usage.>", "$KV.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>"]
            publish += [f"q{shard}.>" for shard in every] + [subjects.settle(shard) for shard in every]
            publish += [f"{inbox_prefix(each)}.>" for each in SERVICES]  # answers to requests on ctl and usage
            subscribe += ["ctl.>", "usage.>"]
        case "api":
            publish += [*intake, *spool, "usage.>", "ctl.>", "$KV.suppressions.>", "$KV.idempotency.>"]
            for shard in every:
                for name in ("INTAKE", "QUEUE", "SETTLE", "SPOOL"):
                    publish += _read(f"{name}-{shard}")
            publish += _read(subjects.EVENTS_STREAM) + _ordered(subjects.EVENTS_STREAM) + _read(subjects.INBOX_STREAM)
            for bucket in ("config", "state", "suppressions", "idempotency"):
                publish += _watch(bucket)
            subscribe += ["usage.>"]
        case _:  # manifests, operator
            publish += ["$KV.config.>", "$KV.keys.>", "$KV.state.>"]
            publish += [*_watch("config"), *_watch("keys"), *_watch("state")]
    return {"publish": publish, "subscribe": subscribe}


def covers(pattern: str, subject: str) -> bool:
    """Whether every subject that `subject` (which may have wildcards) stands for is one of `pattern`'s."""
    wide, narrow = pattern.split("."), subject.split(".")
    for index, part in enumerate(wide):
        if part == ">":
            return len(narrow) > index
        if index >= len(narrow) or narrow[index] == ">":
            return False
        if part not in ("*", narrow[index]):
            return False
    return len(wide) == len(narrow)


def overlaps(one: str, other: str) -> bool:
    """Whether some subject is one of both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


def _read(stream: str) -> list[str]:
    """State, single messages from the leader, and listings."""
    return [f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.STREAM.MSG.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}"]


def _consume(stream: str) -> list[str]:
    """Pulling from its durable consumers, which the queue service makes."""
    return [f"$JS.API.CONSUMER.INFO.{stream}.*", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", f"$JS.ACK.{stream}.>"]


def _ordered(stream: str) -> list[str]:
    """Ordered consumers of one's own (`ordered`)."""
    return [
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.API.CONSUMER.DELETE.{stream}.*",
        f"$JS.FC.{stream}.>",
    ]


def _watch(bucket: str) -> list[str]:
    """Reading and watching a KV bucket: all of it, so secrets have a bucket of their own."""
    stream = f"KV_{bucket}"
    return [f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.STREAM.MSG.GET.{stream}", *_ordered(stream)]
