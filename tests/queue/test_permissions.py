"""Each service's user may do what it does and nothing that takes mail out; a misfit is found before the first 250."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from tests.support.nats import LAYOUT, NatsServer, prepared
from waypost_queue import codec, connect, eventlog, natsconf
from waypost_queue.config import Meta, Snapshot
from waypost_queue.configwatch import ConfigWatch, publish
from waypost_queue.connect import UnfitError, open_store
from waypost_queue.errors import ApiError, UnavailableError
from waypost_queue.eventlog import EventLog
from waypost_queue.events import Event, EventBatch, InboxMail
from waypost_queue.inbox import Inbox
from waypost_queue.intake import Intake, IntakeUnavailableError
from waypost_queue.kv import Bucket
from waypost_queue.model import Bundle, Mail
from waypost_queue.permissions import SERVICES, covers, inbox_prefix, overlaps, permissions
from waypost_queue.service import admin
from waypost_queue.spool import Spool
from waypost_queue.store import Store
from waypost_runtime.settings import ServiceSettings

MAIL = Mail(id="01hf2x6k5t0000000000000000" + "0", sender="", recipients=(), size=1, accepted=0.0, content=b"x")
USERS = tuple(natsconf.User(name=name, password=name, permissions=permissions(name, 1)) for name in SERVICES)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """One user a service, and a system user; streams made by the queue service's own user."""
    async with NatsServer(tmp_path / "nats", users=USERS, system_user="system", system_password="sys") as server:
        await admin.apply(await as_service(server, "queue"), LAYOUT)
        yield server


async def as_service(server: NatsServer, service: str) -> Store:
    return await server.connect(user=service, password=service, inbox_prefix=inbox_prefix(service))


async def test_ingress_commits_mails_bodies_and_events_and_reads_the_configuration(server: NatsServer) -> None:
    await publish(await as_service(server, "manifests"), None, Snapshot(meta=Meta(generation=7)))
    store = await as_service(server, "ingress")
    intake = Intake(store, 0, LAYOUT)
    await intake.start()
    await intake.put(MAIL, pool="default", lane="fast")
    await Spool(store).put(MAIL.id, b"body")
    events = EventLog(store, "ingress", "w")
    await events.start()
    events.emit(Event(id="e", kind="accepted", at=0.0))
    await events.drain(5)
    watch = ConfigWatch(store)
    await watch.start()
    assert watch.snapshot.meta.generation == 7
    await watch.close()
    await events.close()
    await intake.close()
    queue = await as_service(server, "queue")
    assert (await queue.api("STREAM.INFO.EVENTS"))["state"]["messages"] == 1
    assert not store.fatal


async def test_delivery_pulls_settles_reads_bodies_and_keeps_the_inbox(server: NatsServer) -> None:
    ingress = await as_service(server, "ingress")
    await ingress.publish("intake0.default.fast.x", codec.encode(Bundle(mails=(MAIL,))))
    await Spool(ingress).put(MAIL.id, b"b")
    store = await as_service(server, "delivery")
    pulled: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = store.nc.new_inbox()
    await store.subscribe(inbox, pulled.put)
    await store.send("$JS.API.CONSUMER.MSG.NEXT.INTAKE-0.default-fast", b'{"batch":1}', reply=inbox)
    message = await asyncio.wait_for(pulled.get(), 5)
    assert codec.decode(message.data, Bundle).mails == (MAIL,)
    await store.publish("settle0", b"x")
    ticket = await store.publish("q0.ready.default.fast.d.m.0", b"x")
    assert await store.last("QUEUE-0", "q0.*.*.*.d.m.0") is not None
    await store.request(message.reply, b"+ACK")
    await store.api("STREAM.MSG.DELETE.QUEUE-0", {"seq": ticket.seq, "no_erase": True})
    spool = Spool(store)
    assert await spool.read(MAIL.id, 1, 1) == b"b"
    await spool.purge(MAIL.id)
    await Inbox(store).put(InboxMail(mail="m", sender="", recipients=(), accepted=0.0, delivered=0.0, content=b"x"))
    state = Bucket(store, "state")
    watch = await state.watch(lambda _: None)
    await state.put("mark.m", b"x")
    await state.delete("mark.m")
    await watch.close()
    assert not store.fatal


async def test_api_reads_history_inbox_and_status(server: NatsServer) -> None:
    queue = await as_service(server, "queue")
    await queue.publish("events.queue", codec.encode(EventBatch(events=(Event(id="e", kind="state", at=0.0),))))
    store = await as_service(server, "api")
    told: asyncio.Queue[int] = asyncio.Queue()

    async def callback(seq: int, events: Sequence[Event]) -> None:
        told.put_nowait(len(events))

    reader = asyncio.create_task(eventlog.read(store, 1, callback))
    assert await told.get() == 1
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert await Inbox(store).list() == []
    assert await Bucket(store, "state").entries("status.") == {}
    assert not store.fatal


REFUSED = [
    ("ingress", "q0.ready.default.fast.d.m.0"),
    ("ingress", "settle0"),
    ("ingress", "$JS.API.STREAM.PURGE.INTAKE-0"),
    ("ingress", "$JS.API.STREAM.MSG.GET.SPOOL-0"),
    ("ingress", "$JS.API.CONSUMER.MSG.NEXT.INTAKE-0.default-fast"),
    ("ingress", "$JS.API.STREAM.MSG.GET.KV_keys"),
    ("ingress", "intake1.default.fast.x"),
    ("delivery", "$JS.API.STREAM.PURGE.QUEUE-0"),
    ("delivery", "$JS.API.STREAM.DELETE.QUEUE-0"),
    ("delivery", "intake0.default.fast.x"),
    ("api", "q0.ready.default.fast.d.m.0"),
    ("api", "$JS.API.STREAM.MSG.GET.KV_keys"),
    ("manifests", "intake0.default.fast.x"),
]


async def test_what_a_service_has_no_business_with_is_refused_and_ends_its_process(server: NatsServer) -> None:
    for service, subject in REFUSED:
        store = await as_service(server, service)
        await store.send(subject, b"x")
        await asyncio.wait_for(store.died.wait(), 5)
        assert "permissions violation for publish" in store.fatal, (service, subject)


async def test_ingress_cannot_empty_a_stream_that_it_may_publish_to(server: NatsServer) -> None:
    store = await as_service(server, "ingress")
    for subject in ("intake0.default.fast.x", "spool0.m.0", "events.ingress"):
        with pytest.raises(ApiError, match="rollup"):
            await store.publish(subject, b"x", {"Nats-Rollup": "all"})


@pytest.mark.parametrize(
    ("pattern", "subject", "whether"),
    [
        ("a.>", "a.b", True),
        ("a.>", "a", False),
        ("a.>", "a.>", True),
        ("a.*", "a.>", False),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.*.c", True),
        ("a.b", "a.*", False),
        (">", "a.>", True),
        ("a.b", "a.b.c", False),
    ],
)
def test_a_pattern_covers_what_lies_in_it(pattern: str, subject: str, whether: bool) -> None:
    assert covers(pattern, subject) is whether


@pytest.mark.parametrize(
    ("one", "other", "whether"),
    [("a.*", "a.b", True), ("a.>", "*.b.c", True), ("a.b", "a.c", False), ("a.b", "a.b.c", False)],
)
def test_two_patterns_overlap_when_some_subject_is_of_both(one: str, other: str, whether: bool) -> None:
    assert overlaps(one, other) is whether
    assert overlaps(other, one) is whether


def test_a_service_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match="no service 'postman'; there are: ingress"):
        permissions("postman")


# -- checks at start


def settings(server: NatsServer, service: str = "ingress", **more: object) -> ServiceSettings:
    given: dict[str, object] = {
        "nats_url": server.url,
        "nats_user": service,
        "nats_password": service,
        "nats_system_user": "system",
        "nats_system_password": "sys",
        "instance": "test",
    }
    return ServiceSettings.model_validate(given | more)


async def test_each_service_with_its_own_user_passes_the_checks(server: NatsServer) -> None:
    for service in SERVICES:
        store = await open_store(settings(server, service), service)
        assert store.options.inbox_prefix == f"_INBOX_{service}"
        await store.close()


async def test_more_shards_than_the_user_may_use_are_refused_by_subject(server: NatsServer) -> None:
    with pytest.raises(UnfitError, match=r"the NATS user ingress may not publish intake1\.>, publish spool1\.>"):
        await open_store(settings(server, shards=2), "ingress")


async def test_the_user_of_another_service_is_refused(server: NatsServer) -> None:
    with pytest.raises(UnfitError, match="_INBOX_delivery"):
        await open_store(settings(server, "ingress"), "delivery")


async def test_an_inbox_that_does_not_fit_is_refused_and_named(server: NatsServer) -> None:
    with pytest.raises(UnfitError, match=r"no reply reaches the inbox _INBOX\.>.*WAYPOST_NATS_INBOX_PREFIX"):
        await open_store(settings(server, nats_inbox_prefix="_INBOX"), "ingress")


async def test_without_a_system_user_durability_is_unknown_and_refused_unless_allowed(server: NatsServer) -> None:
    with pytest.raises(UnfitError, match="WAYPOST_NATS_SYSTEM_USER"):
        await open_store(settings(server, nats_system_user=""), "ingress")
    store = await open_store(settings(server, nats_system_user="", allow_weak_durability=True), "ingress")
    await store.close()


async def test_a_server_that_does_not_sync_always_is_refused_unless_allowed(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, system_user="system", system_password="sys", sync_always=False) as server:
        mine = settings(server, nats_user="", nats_password=None)
        with pytest.raises(
            UnfitError, match="waypost acknowledges before it syncs to disk: set `sync_interval: always`"
        ):
            await open_store(mine, "ingress")
        store = await open_store(mine.model_copy(update={"allow_weak_durability": True}), "ingress")
        await store.close()


async def test_a_system_user_of_another_account_is_no_system_user(server: NatsServer) -> None:
    wrong = settings(server, nats_system_user="queue", nats_system_password="queue")
    with pytest.raises(UnfitError, match="the system user may not ask"):
        await open_store(wrong, "ingress", wait=0.1)


async def test_a_server_that_comes_back_weaker_ends_the_process(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, system_user="system", system_password="sys") as server:
        store = await open_store(settings(server, nats_user="", nats_password=None), "ingress")
        server.conf["sync_always"] = False
        await server.restart()
        await asyncio.wait_for(store.died.wait(), 20)
        assert "sync_interval: always" in store.fatal
        await store.close()


async def test_no_mail_is_taken_by_a_server_that_came_back_weaker(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, system_user="system", system_password="sys") as server:
        await prepared(server)
        store = await open_store(settings(server, nats_user="", nats_password=None), "ingress")
        intake = Intake(store, 0, LAYOUT, retry_for=3.0)
        await intake.put(MAIL, pool="default", lane="fast")
        server.conf["sync_always"] = False
        await server.restart()
        with pytest.raises(IntakeUnavailableError):
            await intake.put(MAIL, pool="default", lane="fast")
        await asyncio.wait_for(store.died.wait(), 20)
        await intake.close()
        assert (await store.api("STREAM.INFO.INTAKE-0"))["state"]["messages"] == 1
        await store.close()


async def test_mail_is_taken_again_once_the_server_that_came_back_is_checked(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, system_user="system", system_password="sys") as server:
        await prepared(server)
        store = await open_store(settings(server, nats_user="", nats_password=None), "ingress")
        intake = Intake(store, 0, LAYOUT)
        await server.restart()
        await intake.put(MAIL, pool="default", lane="fast")
        assert store.fit
        await intake.close()
        await store.close()


async def test_a_server_that_takes_no_large_messages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(natsconf, "MAX_PAYLOAD", 1 << 20)
        server = NatsServer(tmp_path, system_user="system", system_password="sys")
        await server.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(server)
        with pytest.raises(UnfitError, match="max_payload: 8MB"):
            await open_store(settings(server, nats_user="", nats_password=None), "ingress")


async def test_a_nats_that_is_not_there_is_waited_for_and_then_said(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "n", system_user="system", system_password="sys") as server:
        await server.kill()
        mine = settings(server, nats_user="", nats_password=None)
        with pytest.raises(UnavailableError, match=r"NATS was not there for 0\.3 s"):
            await open_store(mine, "ingress", wait=0.3)
        opening = asyncio.create_task(open_store(mine, "ingress"))
        await server.start()
        store = await opening
        await store.close()


async def test_rotating_a_password_under_a_connection_ends_the_process(server: NatsServer) -> None:
    store = await as_service(server, "ingress")
    server.conf["users"] = tuple(
        natsconf.User(name=name, password="changed", permissions=permissions(name, 1)) for name in SERVICES
    )
    await server.restart()
    await asyncio.wait_for(store.died.wait(), 20)
    assert store.fatal


def test_the_layout_follows_the_settings() -> None:
    mine = ServiceSettings.model_validate({"shards": 4, "pools": ("a", "b"), "replicas": 3, "store_bytes": 1 << 30})
    layout = connect.layout_of(mine)
    assert (layout.shards, layout.pools, layout.replicas, layout.store_bytes) == (4, ("a", "b"), 3, 1 << 30)


async def test_an_open_server_needs_no_user(nats_server: NatsServer) -> None:
    store = await prepared(nats_server)
    mine = settings(nats_server, nats_user="", nats_system_user="", allow_weak_durability=True)
    opened = await open_store(mine, "queue")
    assert opened.options.inbox_prefix == "_INBOX"
    await opened.close()
    assert store.connected
