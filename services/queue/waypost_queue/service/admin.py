"""Creates and upgrades streams and consumers; the queue service alone does this, whenever it takes the lead.

Raw JSON throughout: an upgrade takes what the server has, changes the fields that Waypost decides and sends the rest
back as it came, so that a setting of a newer server or of an administrator survives. A stream is created only when the
server says that there is none (10059). A look-up that fails or times out says nothing: after a full restart it can take
a dozen seconds, and a stream created then would be an empty one in the place of mail.
"""

import asyncio
from typing import Any

import structlog

from waypost_queue.errors import ApiError
from waypost_queue.store import Store
from waypost_queue.streams import Layout, consumer_configs, stream_configs

log = structlog.get_logger(__name__)

ADMIN_TIMEOUT = 15.0  # s: creating a replicated stream waits for a quorum
_STREAM_NOT_FOUND = 10059
_CONSUMER_NOT_FOUND = 10014
_AT_ONCE = 16  # consumers created in parallel


class LayoutError(Exception):
    """The server does not hold what the layout asks for; says what would be right."""


async def apply(store: Store, layout: Layout) -> None:
    """Makes streams and consumers as `layout` says; what exists is upgraded in place, nothing is ever removed.

    Raises LayoutError for a server that is too old, and the errors of the store: then call again, it is idempotent.
    """
    layout.timing.check()
    new = set()
    for config in stream_configs(layout):
        if await _stream(store, config):
            new.add(config["name"])
    wanted: dict[str, list[dict[str, Any]]] = {}
    for stream, config in consumer_configs(layout):
        wanted.setdefault(stream, []).append(config)
    for stream, configs in wanted.items():
        found = {} if stream in new else await consumers(store, stream)
        for some in (configs[i : i + _AT_ONCE] for i in range(0, len(configs), _AT_ONCE)):
            results = await asyncio.gather(
                *(_consumer(store, stream, config, found.get(config["name"])) for config in some),
                return_exceptions=True,
            )
            for result in results:
                if result is not None:
                    raise result


async def prepare_leases(store: Store, layout: Layout) -> None:
    """Makes the bucket of leases alone, before any lease can be taken. Raises the errors of the store."""
    for config in stream_configs(layout):
        if config["name"] == "KV_leases":
            await _stream(store, config)


async def consumers(store: Store, stream: str) -> dict[str, dict[str, Any]]:
    """Every consumer's CONSUMER.INFO, by name."""
    out: dict[str, dict[str, Any]] = {}
    offset = 0
    while True:
        page = await store.api(f"CONSUMER.LIST.{stream}", {"offset": offset}, ADMIN_TIMEOUT)
        found = page.get("consumers") or []
        out.update((info["name"], info) for info in found)
        offset += len(found)
        if not found or offset >= page["total"]:
            return out


async def ensure_consumer(store: Store, stream: str, config: dict[str, Any]) -> bool:
    """Makes one consumer unless it exists; whether it was made."""
    try:
        await store.api(f"CONSUMER.INFO.{stream}.{config['name']}", timeout=ADMIN_TIMEOUT)
    except ApiError as error:
        if error.err_code != _CONSUMER_NOT_FOUND:
            raise
        await _send_consumer(store, stream, config, "create")
        return True
    return False


async def _stream(store: Store, wanted: dict[str, Any]) -> bool:
    """Whether it had to be created."""
    name = wanted["name"]
    try:
        info = await store.api(f"STREAM.INFO.{name}", timeout=ADMIN_TIMEOUT)
    except ApiError as error:
        if error.err_code != _STREAM_NOT_FOUND:
            raise
        answer = await store.api(f"STREAM.CREATE.{name}", wanted, ADMIN_TIMEOUT)
        _verify(f"stream {name}", wanted, answer["config"])
        log.info("admin.stream_created", stream=name)
        return True
    current = info["config"]
    wanted = _without_harm(wanted, current, info["state"])
    changes = _differences(wanted, current)
    if changes:
        answer = await store.api(f"STREAM.UPDATE.{name}", {**current, **changes}, ADMIN_TIMEOUT)
        _verify(f"stream {name}", wanted, answer["config"])
        log.info("admin.stream_changed", stream=name, changes=changes)
    return False


async def _consumer(store: Store, stream: str, wanted: dict[str, Any], info: dict[str, Any] | None) -> None:
    if info is None:
        await ensure_consumer(store, stream, wanted)
        return
    changes = _differences(wanted, info["config"])
    if changes:
        await _send_consumer(store, stream, {**info["config"], **changes}, "update")
        log.info("admin.consumer_changed", stream=stream, consumer=wanted["name"], changes=changes)


async def _send_consumer(store: Store, stream: str, config: dict[str, Any], action: str) -> None:
    subject = f"CONSUMER.CREATE.{stream}.{config['name']}.{config['filter_subject']}"
    await store.api(subject, {"stream_name": stream, "config": config, "action": action}, ADMIN_TIMEOUT)


def _differences(wanted: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """The wanted fields that are not so now; the server leaves out what is false, zero or empty."""
    return {key: value for key, value in wanted.items() if (current.get(key) or None) != (value or None)}


def _without_harm(wanted: dict[str, Any], current: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """`wanted` without what would weaken or lose: fewer replicas, or a cap below what a stream that discards old holds.

    SETTLE's outcomes are what keeps a mail from being sent twice: a smaller store waits until they have aged.
    """
    safe = dict(wanted)
    if current.get("num_replicas", 1) > wanted["num_replicas"]:
        log.warning("admin.replicas_kept", stream=wanted["name"], has=current["num_replicas"])
        safe["num_replicas"] = current["num_replicas"]
    cap = wanted.get("max_bytes", 0)
    if cap and wanted["discard"] == "old" and state.get("bytes", 0) > cap:
        log.warning("admin.cap_kept", stream=wanted["name"], holds=state["bytes"], wanted=cap)
        safe["max_bytes"] = current.get("max_bytes", -1)
    return safe


def _verify(what: str, wanted: dict[str, Any], got: dict[str, Any]) -> None:
    """An older server ignores the settings that it does not know."""
    ignored = sorted(_differences(wanted, got))
    if ignored:
        raise LayoutError(f"{what}: the server ignores {', '.join(ignored)}; nats-server 2.15 or newer is needed")
