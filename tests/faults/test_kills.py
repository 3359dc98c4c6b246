"""kill -9 of each process in turn under load: a ledger of 250s against what arrived."""

import collections
import random
import re
import time

import pytest

from tests.support.dns import DnsServer
from tests.support.lab import Lab, domain
from tests.support.nexthop import NextHop, Received
from tests.support.wait import eventually
from waypost_queue import codec, subjects
from waypost_queue.config import Retry
from waypost_queue.model import SettleBatch
from waypost_queue.store import Store

from .load import Load

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

RUNS = 10
VICTIMS = ("ingress", "delivery", "queue", "nats", "api")
ZONES = {"dst.example": {"MX": ["10 mx.dst.example."]}, "mx.dst.example": {"A": ["127.0.0.1"]}}

Span = tuple[float, float]  # from the signal until what was killed is surely gone


@pytest.mark.parametrize("seed", range(RUNS))
async def test_nothing_that_got_its_250_is_lost_when_every_process_is_killed_in_turn(tmp_path, seed: int, capsys):
    chance = random.Random(seed)
    retry = Retry(initial=0.5, max=1.0, expire_after=3600, notify_delay_after=1800)
    async with (
        NextHop() as hop,
        DnsServer(ZONES) as dns,
        Lab(tmp_path, dns=dns.address, remote_port=hop.port, domains=[domain("src.example", retry=retry)]) as lab,
    ):
        deferred = random.Random(seed)
        hop.on["rcpt"] = lambda _line: "450 4.2.0 later" if deferred.random() < 0.05 else None
        load = Load(lab.mx, seed=seed)
        load.start()
        kills: list[Span] = []
        order = list(VICTIMS)
        chance.shuffle(order)
        for victim in order:
            await load.until(len(load.acknowledged) + chance.randrange(20, 200))
            begun = time.time()
            if victim == "nats":
                await lab.nats.restart()
            else:
                await lab.services[victim].kill()
            if victim in ("nats", "delivery"):
                kills.append((begun, time.time()))
            if victim != "nats":
                lab.services[victim].start()
        await load.until(len(load.acknowledged) + 100)
        await load.stop()

        def arrived() -> set[str]:
            return {recipient.partition("@")[0] for mail in hop.accepted for recipient in mail.recipients}

        async def all_there() -> bool:
            return load.acknowledged <= arrived()

        try:
            await eventually(all_there, 120, "every acknowledged mail arrives")
        except AssertionError as error:
            lost = sorted(load.acknowledged - arrived())
            raise AssertionError(f"lost {len(lost)} of {len(load.acknowledged)}: {lost[:10]}") from error
        duplicates, unexcused = judge(hop.accepted, load.unsure, kills, await settled(lab.store))
        with capsys.disabled():
            print(
                f"\n  seed {seed}: {len(load.acknowledged)} recipients acknowledged, 0 lost, {duplicates} duplicates, "
                f"{len(unexcused)} of them not in flight at a kill, {len(order)} kills"
            )
        assert not unexcused


async def settled(store: Store) -> dict[str, float]:
    """Mail -> when its first outcome was on disk."""
    times: dict[str, float] = {}
    async for stored in store.direct(subjects.settle_stream(0), subjects.settle(0)):
        for each in codec.decode(stored.data, SettleBatch).settlements:
            times.setdefault(each.mail, stored.time)
    return times


def judge(
    accepted: list[Received], unsure: set[str], kills: list[Span], on_disk: dict[str, float]
) -> tuple[int, list[str]]:
    """How many recipients got a mail once more than once, and which of these were not in flight at a kill.

    In flight: the next hop had it and its outcome was not yet on disk; or its client never got an answer and sent it
    again (RFC 5321 6.1), which makes it another mail.
    """
    seen: dict[str, list[Received]] = collections.defaultdict(list)
    for mail in accepted:
        for recipient in mail.recipients:
            seen[recipient.partition("@")[0]].append(mail)
    duplicates, unexcused = 0, []
    for token, mails in seen.items():
        for place, again in enumerate(mails[1:], 1):
            duplicates += 1
            same = [mail for mail in mails[:place] if mail_id(mail) == mail_id(again)]
            if not same:
                excused = token.partition("-")[0] in unsure
            else:
                end = min(on_disk.get(mail_id(again), again.at), again.at)
                excused = any(begun <= end and same[-1].at <= gone for begun, gone in kills)
            if not excused:
                unexcused.append(f"{token}: {[(mail_id(mail), mail.at) for mail in mails]}, on disk {on_disk}")
    return duplicates, unexcused


def mail_id(mail: Received) -> str:
    """The id in the Received header that Waypost prepended."""
    found = re.search(rb"\bid ([0-9a-z]{27})\b", mail.content)
    assert found is not None, mail.content[:300]
    return found[1].decode()
