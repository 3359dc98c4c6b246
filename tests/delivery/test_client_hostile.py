"""Next hops that answer anything at any step, by chance but by seed: what is said of each recipient is true."""

import asyncio
import random
import re

import pytest
from msgspec import structs

from tests.delivery.transport_lab import SHORT, Lab
from tests.support.nexthop import DROP, EXTENSIONS, HANG, NextHop
from waypost_delivery.transport import DeliveryPlan

STEPS = ("connect", "ehlo", "helo", "mail", "rcpt", "data", "dot", "rset")
CODES = [
    "220",
    "250",
    "251",
    "299",
    "334",
    "354",
    "399",
    "421",
    "450",
    "451",
    "452",
    "500",
    "502",
    "550",
    "552",
    "554",
    "599",
    "199",
    "600",
    "2500",
    "25",
]
TEXTS = (
    "",
    " ok",
    " 4.5.3 too many",
    " 5.1.1 no",
    " SIZE " + "9" * 4000,
    " LIMITS RCPTMAX=1 MAILMAX=1",
    " \xe9\u2028 \x00",
)
FAST = structs.replace(
    SHORT, greeting=0.1, hello=0.1, mail=0.1, rcpt=0.1, data=0.1, block=0.1, final=10.0, quit=0.05, attempt=15.0
)
ACCEPTED = re.compile(r"(2\d\d-[^\r\n]*\r\n)*2\d\d( [^\r\n]*)?(\r\n|\Z)")


def behaviour(chance):
    code, text = chance.choice(CODES), chance.choice(TEXTS)
    return chance.choice(
        [
            None,
            DROP,
            HANG,
            f"{code}{text}",
            f"{code}{text}",
            f"{code}-{text}\r\n{code} {text}",
            f"{code}-a\r\n{chance.choice(CODES)} b",
            f"{code}{text}\r\n{chance.choice(CODES)} one more\r\n".encode(),
            chance.randbytes(chance.randrange(1, 40)) + b"\r\n",
        ]
    )


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_a_next_hop_answers_nothing_is_lost_sent_twice_or_taken_for_what_it_is_not(seed):
    chance = random.Random(seed)
    offered = tuple(name for name in EXTENSIONS if chance.random() < 0.7)
    async with NextHop(extensions=offered) as hop, Lab(hop.port) as lab:
        for _ in range(2):  # the second may find the connection of the first
            for step in STEPS:
                if chance.random() < 0.25:
                    told = [behaviour(chance) for _ in range(chance.randrange(1, 4))]
                    # A silence after the dot would need a time-out that a busy machine never passes by itself.
                    hop.on[step] = [None if step == "dot" and one is HANG else one for one in told]
            addresses = [f"r{index}@remote.test" for index in range(chance.randrange(1, 5))]
            content = b"A: b\r\n\r\n" + b"x" * chance.choice([3, 200_000]) + b"\r\n"
            before = len(hop.received)
            async with asyncio.timeout(20):
                attempted = await lab.deliver(*addresses, content=content, plan=DeliveryPlan(timeouts=FAST))
            assert sorted(attempted.results) == list(range(len(addresses)))
            for index, outcome in attempted.results.items():
                taken = sum(
                    bool(ACCEPTED.match(mail.reply)) and mail.content == content
                    for mail in hop.received[before:]
                    if addresses[index] in mail.recipients
                )
                assert taken <= 1, "sent twice"
                assert (outcome.result in ("delivered", "relayed")) == (taken == 1), outcome
