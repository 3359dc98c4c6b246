"""kill -9 of each process in turn under load: a ledger of 250s against what arrived."""

import collections
import random

import pytest

from tests.support.dns import DnsServer
from tests.support.lab import Lab, domain
from tests.support.nexthop import NextHop
from tests.support.wait import eventually
from waypost_queue.config import Retry

from .load import Load

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

RUNS = 10
VICTIMS = ("ingress", "delivery", "queue", "nats", "api")
ZONES = {"dst.example": {"MX": ["10 mx.dst.example."]}, "mx.dst.example": {"A": ["127.0.0.1"]}}


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
        kills = 0
        order = list(VICTIMS)
        chance.shuffle(order)
        for victim in order:
            await load.until(len(load.acknowledged) + chance.randrange(20, 200))
            kills += 1
            if victim == "nats":
                await lab.nats.restart()
            else:
                await lab.services[victim].kill()
                lab.services[victim].start()
        await load.until(len(load.acknowledged) + 100)
        await load.stop()

        def arrived() -> collections.Counter[str]:
            return collections.Counter(
                recipient.partition("@")[0] for mail in hop.accepted for recipient in mail.recipients
            )

        async def all_there() -> bool:
            return not load.acknowledged - set(arrived())

        try:
            await eventually(all_there, 120, "every acknowledged mail arrives")
        except AssertionError as error:
            lost = sorted(load.acknowledged - set(arrived()))
            raise AssertionError(f"lost {len(lost)} of {len(load.acknowledged)}: {lost[:10]}") from error
        counts = arrived()
        duplicates = sum(counts[one] - 1 for one in load.acknowledged)
        with capsys.disabled():
            print(
                f"\n  seed {seed}: {len(load.acknowledged)} recipients acknowledged, 0 lost, {duplicates} duplicates, "
                f"{kills} kills"
            )
        # in flight at a kill: 8 sessions at the ingress, and the transactions of one pod's connections at delivery
        assert duplicates <= kills * 60
