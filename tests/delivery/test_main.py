"""The delivery service whole: a real nats-server with real streams, DNS and next hops; only ingress is the test."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from tests.support.dns import DnsServer
from tests.support.nats import LAYOUT, NatsServer
from tests.support.nexthop import HANG, NextHop
from tests.support.wait import eventually
from waypost_delivery import main
from waypost_delivery.passwords import Passwords
from waypost_delivery.settings import DeliverySettings
from waypost_queue import configwatch, ids
from waypost_queue.config import DestinationConfig, DomainConfig, Meta, Retry, Snapshot
from waypost_queue.connect import UnfitError
from waypost_queue.inbox import Inbox
from waypost_queue.intake import Intake
from waypost_queue.kv import Bucket
from waypost_queue.model import Mail, Recipient
from waypost_queue.natsconf import User
from waypost_queue.permissions import SERVICES, inbox_prefix, permissions
from waypost_queue.seal import Sealer, load_key
from waypost_queue.service import admin
from waypost_queue.spool import Spool
from waypost_queue.store import Store

USERS = [User(name=name, password=name, permissions=permissions(name, 1)) for name in SERVICES]
QUICK = Retry(initial=0.2, max=0.4, expire_after=3.0, notify_delay_after=1.0)
CONTENT = b"Subject: Hello\r\n\r\nHello.\r\n"


class Delivering:
    """A running service, and the way of mail into its queue."""

    def __init__(
        self, server: NatsServer, stores: dict[str, Store], hop: NextHop, dns: DnsServer, folder: Path
    ) -> None:
        self.store = stores["queue"]  # may read all
        self._manifests = stores["manifests"]
        self.ingress = stores["ingress"]
        self.hop = hop
        self.dns = dns
        self._snapshot: Snapshot | None = None
        self._intake = Intake(self.ingress, 0, LAYOUT)
        self._stop = asyncio.Event()
        self._settings = DeliverySettings(
            nats_url=server.url,
            nats_user="delivery",
            nats_password=SecretStr("delivery"),
            nats_system_user="system",
            nats_system_password=SecretStr("sys"),
            instance="delivery-test",
            hostname="relay.example.net",
            data_dir=folder,
            dns=(dns.address,),
            remote_port=hop.port,
            allow_private_mx=True,
        )
        self._service: asyncio.Task[int] | None = None

    async def configure(self, *domains: DomainConfig, policies: tuple[DestinationConfig, ...] = ()) -> None:
        generation = self._snapshot.meta.generation + 1 if self._snapshot is not None else 1
        snapshot = Snapshot(
            domains={domain.domain: domain for domain in domains},
            policies={policy.name: policy for policy in policies},
            meta=Meta(generation=generation),
        )
        await configwatch.publish(self._manifests, self._snapshot, snapshot)
        self._snapshot = snapshot

    async def start(self) -> None:
        await self._intake.start()
        self._service = asyncio.create_task(main.run(self._settings, self._stop))

    async def stop(self) -> int:
        self._stop.set()
        await self._intake.close()
        assert self._service is not None
        return await self._service

    async def send(self, *addresses: str, content: bytes = CONTENT, **fields: Any) -> Mail:
        now = time.time()
        recipients = tuple(Recipient(one, one.rpartition("@")[2], fields.pop("notify", ())) for one in addresses)
        mail = Mail(
            id=ids.mail_id(now, 0),
            sender=fields.pop("sender", "app@shop.org"),
            recipients=recipients,
            size=len(content),
            accepted=now,
            content=content if "chunks" not in fields else None,
            domain="shop.org",
            tenant="shop",
            **fields,
        )
        await self._intake.put(mail, pool="default", lane="fast")
        return mail

    async def empty(self) -> None:
        """Nothing is queued any more, in whatever state; guards of recovery go by themselves."""

        async def gone() -> bool:
            places = [("QUEUE-0", f"q0.{state}.>") for state in ("ready", "sched", "hold")]
            places += [("INTAKE-0", ">"), ("SPOOL-0", ">")]
            return not any([await self.store.last(*place) for place in places])

        await eventually(gone, 15.0, "the queue is empty")


@pytest.fixture
async def delivering(tmp_path: Path) -> AsyncIterator[Delivering]:
    """With the users and permissions of production."""
    zones = {name: {"MX": [f"10 mx.{name}."]} for name in ("x.org", "y.org", "shop.org")}
    hosts = {f"mx.{name}": {"A": ["127.0.0.1"]} for name in zones}
    async with (
        NatsServer(tmp_path / "nats", users=USERS, system_user="system", system_password="sys") as server,
        NextHop() as hop,
        DnsServer({**zones, **hosts}) as dns,
    ):
        stores = {
            name: await server.connect(user=name, password=name, inbox_prefix=inbox_prefix(name))
            for name in ("queue", "manifests", "ingress")
        }
        await admin.apply(stores["queue"], LAYOUT)
        running = Delivering(server, stores, hop, dns, tmp_path)
        await running.configure(DomainConfig("shop.org", "shop", retry=QUICK))
        await running.start()
        yield running
        assert await running.stop() == 0


async def test_a_mail_reaches_the_mx_of_each_of_its_recipients(delivering: Delivering) -> None:
    await delivering.send("a@x.org", "b@y.org", "c@x.org")
    hop = delivering.hop
    await hop.until(lambda hop: len(hop.accepted) == 2)
    assert sorted(mail.recipients for mail in hop.accepted) == [("a@x.org", "c@x.org"), ("b@y.org",)]
    assert {mail.content for mail in hop.accepted} == {CONTENT}
    await delivering.empty()


async def test_a_refused_recipient_is_returned_to_the_sender_by_its_own_mx(delivering: Delivering) -> None:
    hop = delivering.hop
    hop.on["rcpt"] = lambda line: "550 5.1.1 no such user" if "nobody@" in line else None
    mail = await delivering.send("nobody@x.org", "a@x.org")
    await hop.until(lambda hop: len(hop.accepted) == 2)
    delivered, dsn = hop.accepted if hop.accepted[0].recipients == ("a@x.org",) else reversed(hop.accepted)
    assert delivered.recipients == ("a@x.org",)
    assert (dsn.sender, dsn.recipients) == ("", ("app@shop.org",))
    assert b"Final-Recipient: rfc822; nobody@x.org\r\n" in dsn.content
    assert b"Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n" in dsn.content
    assert f"Final-Log-ID: {mail.id}\r\n".encode() in dsn.content
    await delivering.empty()


async def test_a_deferred_mail_is_tried_again_until_it_is_taken(delivering: Delivering) -> None:
    hop = delivering.hop
    hop.on["rcpt"] = ["450 4.2.0 greylisted", "450 4.2.0 greylisted"]
    await delivering.send("a@x.org", content=CONTENT + b"x" * 70 + b"\r\n")
    await hop.until(lambda hop: len(hop.accepted) == 1)
    assert sum(line.startswith("RCPT") for line in hop.commands) == 3
    await delivering.empty()


async def test_a_mail_that_nobody_takes_is_announced_as_late_and_returned_at_its_end(delivering: Delivering) -> None:
    hop = delivering.hop
    hop.on["rcpt"] = lambda line: "451 4.7.1 not now" if "x.org" in line else None
    began = time.time()
    await delivering.send("a@x.org")
    await hop.until(lambda hop: len(hop.accepted) == 2, timeout=20)
    late, returned = hop.accepted
    assert b"Action: delayed\r\nStatus: 4.7.1\r\n" in late.content
    assert b"Will-Retry-Until: " in late.content
    assert b"Action: failed\r\nStatus: 4.7.1\r\n" in returned.content
    assert b"It was tried until its time was up" in returned.content
    assert time.time() - began >= QUICK.expire_after
    await delivering.empty()


async def test_sites_that_hang_or_are_dead_hold_up_nobody_else(delivering: Delivering) -> None:
    for name, address in (("hangs.org", "127.0.0.2"), ("dead.org", "127.0.0.3")):  # nobody listens at the latter
        delivering.dns.update({name: {"MX": [f"10 mx.{name}."]}, f"mx.{name}": {"A": [address]}})
    hop = delivering.hop

    def taken() -> list[str]:
        return [address for mail in hop.accepted if mail.sender for address in mail.recipients]

    async with NextHop(host="127.0.0.2", port=hop.port) as hanging:
        hanging.on["mail"] = HANG
        # In one bundle with each other, as they come.
        sent = [delivering.send("a@hangs.org", "b@dead.org", f"r{number}@x.org") for number in range(150)]
        await asyncio.gather(*sent)
        await hop.until(lambda _: len(taken()) == 150, timeout=20)
        assert hanging.most_open == 10  # what a site begins with
        await delivering.send("late@x.org")
        await hop.until(lambda _: "late@x.org" in taken())
    assert len(taken()) == len(set(taken())) == 151


async def test_a_body_in_the_spool_is_delivered_and_taken_away(delivering: Delivering) -> None:
    content = CONTENT + b"0123456789abcdef" * 4 + b"\r\n"
    large = content * 20_000
    now = time.time()
    mail_id = ids.mail_id(now, 0)
    chunks = await Spool(delivering.ingress).put(mail_id, large)
    mail = Mail(
        mail_id, "app@shop.org", (Recipient("a@x.org", "x.org"),), len(large), now, chunks=chunks, domain="shop.org"
    )
    await delivering._intake.put(mail, pool="default", lane="fast")
    await delivering.hop.until(lambda hop: len(hop.accepted) == 1)
    assert delivering.hop.accepted[0].content == large
    await delivering.empty()


async def test_mail_for_reserved_names_lands_in_the_inbox(delivering: Delivering) -> None:
    mail = await delivering.send("you@example.test")
    inbox = Inbox(delivering.store)
    await eventually(lambda: inbox.get(mail.id), 10.0, "the mail is in the inbox")
    kept = await inbox.get(mail.id)
    assert kept is not None
    assert (kept.sender, kept.recipients, kept.content) == ("app@shop.org", ("you@example.test",), CONTENT)
    assert delivering.hop.sessions == []
    await delivering.empty()


async def test_a_suspended_domains_mail_is_held_and_a_change_needs_no_restart(delivering: Delivering) -> None:
    await delivering.send("a@x.org")
    await delivering.hop.until(lambda hop: len(hop.accepted) == 1)
    await delivering.configure(DomainConfig("shop.org", "shop", suspend="Outbound"))

    async def held() -> bool:
        await delivering.send("b@x.org")
        return await delivering.store.last("QUEUE-0", "q0.hold.>") is not None

    await eventually(held, 10.0, "a mail is held")


async def test_a_store_that_will_not_do_ends_the_process_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def unfit(_settings: DeliverySettings, _service: str) -> Store:
        raise UnfitError("NATS does not sync")

    monkeypatch.setattr(main, "open_store", unfit)
    assert await main.run(DeliverySettings(data_dir=tmp_path), asyncio.Event()) == 1
    assert "NATS does not sync" in capsys.readouterr().out


async def test_it_can_be_stopped_while_it_still_waits_for_its_streams(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = DeliverySettings(
        nats_url=nats_server.url, allow_weak_durability=True, data_dir=tmp_path, hostname="r.org"
    )
    stop = asyncio.Event()
    running = asyncio.create_task(main.run(settings, stop))
    waiting = await nats_server.connect("watcher")

    async def connected() -> bool:
        return bool((await waiting.api("INFO"))["api"]["total"] > 1)

    await eventually(connected, 10.0, "it asks for its buckets")
    stop.set()
    assert await asyncio.wait_for(running, 10.0) == 0


async def test_a_password_is_opened_when_its_key_file_is_there_and_follows_changes(
    store: Store, tmp_path: Path
) -> None:
    key_file = tmp_path / "keys" / "seal.key"
    bucket, passwords = Bucket(store, "keys"), Passwords(store, key_file)
    await passwords.start()
    try:
        await bucket.put("smarthost.a", b"sealed by nobody")
        await eventually(lambda: passwords._sealed, 5.0, "the watch tells")
        assert passwords.get("smarthost.a") is None
        sealer = Sealer(load_key(key_file, create=True))
        await bucket.put("smarthost.a", sealer.seal("smarthost.a", b"s3cret"))
        await eventually(lambda: passwords.get("smarthost.a"), 5.0, "the password can be opened")
        assert passwords.get("smarthost.a") == SecretStr("s3cret")
        await bucket.delete("smarthost.a")
        await eventually(lambda: passwords.get("smarthost.a") is None, 5.0, "the password has gone")
    finally:
        await passwords.close()


# -- settings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYPOST_DNS", "127.0.0.1:5353, [::1]:54,192.0.2.53")
    monkeypatch.setenv("WAYPOST_OWN_NAMES", "MX1.example.net, mx2.example.net")
    monkeypatch.setenv("WAYPOST_HOSTNAME", "relay.example.net")
    settings = DeliverySettings()
    assert settings.dns == (("127.0.0.1", 5353), ("::1", 54), ("192.0.2.53", 53))
    assert settings.transport.own_names == {"mx1.example.net", "mx2.example.net"}
    assert settings.transport.hostname == "relay.example.net"
    monkeypatch.setenv("WAYPOST_DNS", "")
    assert DeliverySettings().dns == ()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("WAYPOST_DNS", "127.0.0.1:dns", "it should be HOST:PORT"),
        ("WAYPOST_POOL", "warm", "not one of pools"),
        ("WAYPOST_REMOTE_PORT", "0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=problem):
        DeliverySettings()
