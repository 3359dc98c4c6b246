"""Streams and consumers as raw JSON: one place for every setting, rendered per shard, pool and lane.

The queue service alone creates and changes streams (service/admin.py). The store's octets are split so that a full
INTAKE never takes the room that outcomes and tickets need.
"""

from typing import Any, Final

import msgspec

from . import subjects
from .subjects import LANES

SECOND: Final = 1_000_000_000  # ns
DAY: Final = 86_400


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `pull_expires` + `keep_alive` must be below 2/3 of `ack_wait`, checked at start."""

    ack_wait: float = 30.0
    pull_expires: float = 9.0
    keep_alive: float = 10.0
    guard_ttl: float = 3600.0
    attempt_limit: float = 1800.0  # one attempt in all; below guard_ttl
    retake_delay: float = 1.0
    settle_window: float = 600.0  # how far before a message's time SETTLE is scanned: leaders' clocks differ
    grace_after_reconnect: float = 1.0
    duplicate_window: float = 120.0

    def check(self) -> None:
        """Raises ValueError when a worker could still hold what the server has given to another."""
        if self.pull_expires + self.keep_alive >= self.ack_wait * 2 / 3:
            raise ValueError(
                f"pull_expires {self.pull_expires:g} s + keep_alive {self.keep_alive:g} s must be below two thirds of "
                f"ack_wait {self.ack_wait:g} s"
            )
        if self.attempt_limit >= self.guard_ttl:
            raise ValueError("attempt_limit must be below guard_ttl")


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What exists: shards (1 to 16), pools, replicas, and the octets of the whole store."""

    shards: int = 1
    pools: tuple[str, ...] = ("default",)
    replicas: int = 1
    store_bytes: int = 8 << 30
    timing: Timing = Timing()


INTAKE_SHARE: Final = 0.15
SPOOL_SHARE: Final = 0.35
SETTLE_SHARE: Final = 0.08
EVENTS_SHARE: Final = 0.06
INBOX_SHARE: Final = 0.01
FULL_AT: Final = 0.80  # of INTAKE or SPOOL: ingress refuses from here on
INTAKE_ACK_PENDING: Final = 200
QUEUE_ACK_PENDING: Final = 1000
MAX_CONSUMERS_PER_STREAM: Final = 1000


def _base(layout: Layout, name: str, subject: str) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": [subject],
        "storage": "file",
        "num_replicas": layout.replicas,
        "allow_direct": True,
        "discard": "old",
        "retention": "limits",
    }


def stream_configs(layout: Layout) -> list[dict[str, Any]]:
    """Every stream of the queue, in the order in which they are made."""
    timing, total = layout.timing, layout.store_bytes
    out: list[dict[str, Any]] = []
    for shard in range(layout.shards):
        out += [
            {
                **_base(layout, subjects.intake_stream(shard), f"intake{shard}.>"),
                "retention": "workqueue",
                "discard": "new",
                "max_bytes": int(total * INTAKE_SHARE / layout.shards),
                "duplicate_window": int(timing.duplicate_window * SECOND),
                "deny_purge": False,
                "allow_rollup_hdrs": False,
            },
            {
                **_base(layout, subjects.queue_stream(shard), f"q{shard}.>"),
                "retention": "workqueue",
                "allow_msg_schedules": True,
                "allow_rollup_hdrs": True,  # a schedule stream can't be without
                "allow_atomic": True,
                "allow_msg_ttl": True,
            },
            {
                **_base(layout, subjects.spool_stream(shard), f"spool{shard}.>"),
                "discard": "new",
                "max_bytes": int(total * SPOOL_SHARE / layout.shards),
                "allow_rollup_hdrs": False,
            },
            {
                **_base(layout, subjects.settle_stream(shard), subjects.settle(shard)),
                "max_age": 7 * DAY * SECOND,
                "max_bytes": int(total * SETTLE_SHARE / layout.shards),
                "allow_rollup_hdrs": False,
            },
        ]
    out += [
        {
            **_base(layout, subjects.EVENTS_STREAM, "events.>"),
            "max_age": 7 * DAY * SECOND,
            "max_bytes": int(total * EVENTS_SHARE),
            "allow_rollup_hdrs": False,
        },
        {
            **_base(layout, subjects.INBOX_STREAM, f"{subjects.INBOX_SUBJECT}.>"),
            "max_age": 7 * DAY * SECOND,
            "max_bytes": int(total * INBOX_SHARE),
            "max_msgs": 10_000,
            "allow_rollup_hdrs": False,
        },
        _bucket(layout, "config"),
        _bucket(layout, "keys"),
        {**_bucket(layout, "leases"), "storage": "memory", "max_age": 10 * SECOND},
        _bucket(layout, "state"),
        _bucket(layout, "suppressions"),
        {**_bucket(layout, "idempotency"), "max_age": DAY * SECOND},
    ]
    return out


def _bucket(layout: Layout, name: str) -> dict[str, Any]:
    """A KV bucket (ADR-8)."""
    return {
        **_base(layout, f"KV_{name}", f"$KV.{name}.>"),
        "max_msgs_per_subject": 1,
        "discard": "new",
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "allow_msg_ttl": True,  # of delete markers
        "duplicate_window": 10 * SECOND if name == "leases" else 120 * SECOND,
    }


def consumer_configs(layout: Layout) -> list[tuple[str, dict[str, Any]]]:
    """(stream, consumer configuration) of every lane of every pool: a lane without a consumer would be stuck."""
    out: list[tuple[str, dict[str, Any]]] = []
    for shard in range(layout.shards):
        for pool in layout.pools:
            for lane in LANES:
                name = subjects.intake_consumer(pool, lane)
                common = {
                    "durable_name": name,
                    "name": name,
                    "ack_policy": "explicit",
                    "ack_wait": int(layout.timing.ack_wait * SECOND),
                    "max_deliver": -1,
                    "deliver_policy": "all",
                    "replay_policy": "instant",
                    "num_replicas": 0,
                }
                out.append(
                    (
                        subjects.intake_stream(shard),
                        {
                            **common,
                            "filter_subject": subjects.intake_filter(shard, pool, lane),
                            "max_ack_pending": INTAKE_ACK_PENDING,
                        },
                    )
                )
                out.append(
                    (
                        subjects.queue_stream(shard),
                        {
                            **common,
                            "filter_subject": subjects.ready_filter(shard, pool, lane),
                            "max_ack_pending": QUEUE_ACK_PENDING,
                        },
                    )
                )
    return out
