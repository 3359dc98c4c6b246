"""Whether a server may be trusted with mail, asked before the first 250 and after each reconnect.

A server without `sync_interval: always` loses in a power cut what it acknowledged, and only its system account tells
(`$SYS.REQ.SERVER.PING.JSZ`, one answer a server: `data.config.sync_always`). A user whose permissions or inbox do not
fit is worse than one that is refused: its message is stored, the acknowledgement never comes, the client sends again.
"""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from . import permissions as grants
from .errors import UnavailableError
from .store import Store, StoreOptions

DURABILITY_INBOX: Final = "_INBOX_durcheck"
_QUESTION: Final = "$SYS.REQ.SERVER.PING.JSZ"
_FIRST_ANSWER: Final = 5.0  # s
_OTHERS: Final = 0.5  # s after the last answer: how many servers there are is not known
_TIMEOUT: Final = 5.0  # s


async def durability(options: StoreOptions) -> str:
    """ "" when every server syncs each write to disk, else why mail would not be safe.

    `options` are those of a user of the system account. Raises UnavailableError when nobody answers.
    """
    store = Store(msgspec.structs.replace(options, inbox_prefix=DURABILITY_INBOX))
    await store.connect()
    try:
        answers = await _ask(store)
    finally:
        await store.close()
    if store.fatal:
        return (
            f"the system user may not ask for the durability setting: it needs publish {_QUESTION} and subscribe "
            f"{DURABILITY_INBOX}.>"
        )
    weak = sorted(name for name, sync_always in answers if not sync_always)
    if weak:
        return (
            f"nats-server {', '.join(weak)} acknowledges before it syncs to disk: set `sync_interval: always` in its "
            "jetstream block and restart it, or accept that a power cut loses mail (WAYPOST_ALLOW_WEAK_DURABILITY)"
        )
    return ""


async def _ask(store: Store) -> list[tuple[str, bool]]:
    """(server, whether it syncs always) of each server that has JetStream."""
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = store.nc.new_inbox()
    subscription = await store.subscribe(inbox, answers.put)
    await store.send(_QUESTION, reply=inbox)
    found: list[tuple[str, bool]] = []
    died = asyncio.ensure_future(store.died.wait())
    try:
        timeout = _FIRST_ANSWER
        while True:
            get = asyncio.ensure_future(answers.get())
            await asyncio.wait((get, died), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not get.done():
                get.cancel()
                break
            parsed = _parse(get.result().data)
            if parsed is not None:
                found.append(parsed)
            timeout = _OTHERS
    finally:
        died.cancel()
        await store.unsubscribe(subscription)
    if not found and not store.fatal:
        raise UnavailableError(f"no server answered {_QUESTION}; is the system user one of the system account?")
    return found


def _parse(data: bytes) -> tuple[str, bool] | None:
    if not data:
        return None  # no responders: not a user of the system account
    answer: dict[str, Any] = json.loads(data)
    state = answer.get("data") or {}
    if state.get("disabled"):
        return None  # a server of the cluster without JetStream holds no mail
    name = str(answer.get("server", {}).get("name", "?"))
    return name, bool((state.get("config") or {}).get("sync_always"))


async def permissions(store: Store, service: str, shards: int) -> str:
    """ "" when the user may do all that `service` does, and its replies reach it; else what is missing.

    Raises UnavailableError or UnknownFateError when the server does not answer.
    """
    inbox = f"{store.options.inbox_prefix}.>"
    answer = await _unless_died(store, store.request(grants.USER_INFO, timeout=_TIMEOUT))
    if answer is None:
        return (
            f"no reply reaches the inbox {inbox}: give the NATS user subscribe on it and publish {grants.USER_INFO}, "
            "or set WAYPOST_NATS_INBOX_PREFIX to the prefix that it has"
        )
    data = json.loads(answer.data).get("data") or {}
    allowed = data.get("permissions")
    if not allowed:
        return ""  # a user without limits
    wanted = grants.permissions(service, shards)
    subscribe = {inbox, *wanted["subscribe"]} - {f"{grants.inbox_prefix(service)}.>"}
    missing = [f"publish {each}" for each in wanted["publish"] if not _may(allowed.get("publish"), each)]
    missing += [f"subscribe {each}" for each in sorted(subscribe) if not _may(allowed.get("subscribe"), each)]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        return f"the NATS user {data.get('user', '?')} may not {', '.join(missing[:5])}{more}"
    return ""


async def _unless_died(store: Store, question: Coroutine[Any, Any, Msg]) -> Msg | None:
    """The answer, or None as soon as the server refuses the question or the inbox that its answer would come to."""
    asking = asyncio.ensure_future(question)
    died = asyncio.ensure_future(store.died.wait())
    try:
        await asyncio.wait((asking, died), return_when=asyncio.FIRST_COMPLETED)
        return asking.result() if asking.done() else None
    finally:
        died.cancel()
        asking.cancel()


def _may(rules: dict[str, Any] | None, subject: str) -> bool:
    if not rules:
        return True
    if any(grants.overlaps(pattern, subject) for pattern in rules.get("deny") or ()):
        return False
    allow = rules.get("allow")
    return allow is None or any(grants.covers(pattern, subject) for pattern in allow)
