"""One attempt against next hops that misbehave at each step: an outcome for every recipient, and nothing lost."""

import asyncio
import contextlib

import pytest
from msgspec import structs

from tests.delivery.transport_lab import CONTENT, SHORT, Lab
from tests.support.nexthop import DROP, EXTENSIONS, HANG, Drip, NextHop, Then
from waypost_delivery.transport import DeliveryPlan, Timeouts
from waypost_queue.config import DestinationLimits
from waypost_queue.errors import OwnershipLostError
from waypost_queue.streams import Timing

LOCK_STEP = tuple(name for name in EXTENSIONS if name != "PIPELINING")
QUICK = DeliveryPlan(timeouts=SHORT)


@pytest.fixture(params=[EXTENSIONS, LOCK_STEP], ids=["pipelined", "lock-step"])
async def hop(request):
    async with NextHop(extensions=request.param) as hop:
        yield hop


@pytest.fixture
async def lab(hop):
    async with Lab(hop.port) as lab:
        yield lab


def results(attempted):
    return {index: outcome.result for index, outcome in attempted.results.items()}


async def test_a_mail_is_delivered_and_the_attempt_tells_all_of_it(hop, lab):
    attempted = await lab.deliver("to@remote.test", "cc@remote.test")
    assert results(attempted) == {0: "delivered", 1: "delivered"}
    assert hop.received[0].content == CONTENT
    assert hop.received[0].recipients == ("to@remote.test", "cc@remote.test")
    assert (attempted.mta, attempted.address, attempted.tls) == ("mx.remote.test", "127.0.0.1", "")
    assert attempted.site == "mx.remote.test"
    said = [(line.who, line.text) for line in attempted.dialogue]
    assert ("c", "RCPT TO:<cc@remote.test>") in said
    assert ("s", "250 2.0.0 Ok: queued as TEST") in said
    assert not any("Hello." in text for _, text in said)


async def test_a_next_hop_without_dsn_relays_and_does_not_take_over_the_duty_to_report(lab, hop):
    hop.extensions = ("PIPELINING",)
    assert results(await lab.deliver()) == {0: "relayed"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".\r\n",
        b"A: b\r\n\r\n.leading\r\n..two\r\n.\r\n",
        b"A: b\r\n\r\nbare\nlf\r\n\xff\x00\r\n",
        b"A: b\r\n\r\n" + b".\r\n" * 100_000,
        b"A: b\r\n\r\n" + b"x" * 3_000_000 + b"\r\n",
    ],
    ids=["empty", "a dot", "dots", "odd octets", "many dots", "large"],
)
async def test_content_arrives_octet_by_octet(hop, lab, content):
    assert results(await lab.deliver(content=content)) == {0: "delivered"}
    assert hop.received[0].content == content


async def test_content_without_a_last_line_end_gets_one(hop, lab):
    await lab.deliver(content=b"A: b\r\n\r\nend")
    assert hop.received[0].content == b"A: b\r\n\r\nend\r\n"


async def test_each_recipient_has_its_own_outcome(hop, lab):
    replies = {"bad": "550 5.1.1 no such user", "slow": "450 4.2.1 busy", "odd": "399 what"}
    hop.on["rcpt"] = lambda line: next((reply for name, reply in replies.items() if name in line), None)
    attempted = await lab.deliver("bad@remote.test", "good@remote.test", "slow@remote.test")
    assert results(attempted) == {0: "failed", 1: "delivered", 2: "deferred"}
    bad = attempted.results[0].reply
    assert (bad.code, bad.enhanced, bad.text, bad.mta) == (550, "5.1.1", "no such user", "mx.remote.test")
    assert hop.received[0].recipients == ("good@remote.test",)


async def test_refused_recipients_keep_their_reply_when_data_fails_too(hop, lab):
    hop.on["rcpt"] = lambda line: "550 5.1.1 no such user" if "bad" in line else None
    hop.on["dot"] = "451 4.3.0 disk full"
    attempted = await lab.deliver("bad@remote.test", "good@remote.test")
    assert results(attempted) == {0: "failed", 1: "deferred"}
    assert attempted.results[1].reply.text == "disk full"


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize(
    ("reply", "result"), [("451 4.3.0 later", "deferred"), ("554 5.7.1 never", "failed"), ("299 x", None)]
)
async def test_4xx_defers_and_5xx_fails_at_each_command(hop, lab, step, reply, result):
    hop.on[step] = reply
    attempted = await lab.deliver()
    if result is None:  # any 2xx is good (RFC 5321 4.2.1), but none begins the content
        result = "deferred" if step == "data" else "delivered"
    assert results(attempted) == {0: result}


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "dot"])
async def test_after_a_refusal_the_connection_is_used_on(hop, lab, step):
    hop.on[step] = ["550 5.7.1 not this one"]
    assert results(await lab.deliver()) == {0: "failed"}
    assert results(await lab.deliver()) == {0: "delivered"}
    assert len(hop.sessions) == 1


@pytest.mark.parametrize("step", ["connect", "ehlo", "mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize(
    "fault", [DROP, HANG, b"garbage\r\n", "421 4.3.2 going down"], ids=["drop", "hang", "garbage", "421"]
)
async def test_a_next_hop_that_breaks_off_at_any_step_defers(hop, lab, step, fault):
    hop.on[step] = fault
    attempted = await lab.deliver(plan=QUICK)
    assert results(attempted) == {0: "deferred"}
    assert not hop.accepted


async def test_a_connection_lost_after_the_final_dot_is_deferred_and_tried_nowhere_else(hop, lab):
    lab.dns.update({"remote.test": {"MX": ["10 mx.remote.test.", "20 mx2.remote.test."]}})
    lab.dns.update({"mx2.remote.test": {"A": ["127.0.0.1"]}})
    hop.on["dot"] = DROP
    attempted = await lab.deliver()
    assert results(attempted) == {0: "deferred"}
    assert "may have arrived" in attempted.results[0].reply.text
    assert len(hop.received) == 1
    assert len(hop.sessions) == 1


async def test_a_connection_lost_before_the_dot_goes_to_the_next_host(hop, lab):
    lab.dns.update({"remote.test": {"MX": ["10 mx.remote.test.", "20 mx2.remote.test."]}})
    lab.dns.update({"mx2.remote.test": {"A": ["127.0.0.1"]}})
    hop.on["rcpt"] = [DROP]
    attempted = await lab.deliver()
    assert results(attempted) == {0: "delivered"}
    assert attempted.mta == "mx2.remote.test"


async def test_a_recipient_decided_before_the_loss_stays_decided(hop, lab):
    hop.on["rcpt"] = lambda line: "550 5.1.1 no" if "bad" in line else None
    hop.on["data"] = DROP
    attempted = await lab.deliver("bad@remote.test", "good@remote.test")
    assert results(attempted) == {0: "failed", 1: "deferred"}


async def test_a_host_that_refuses_the_connection_is_followed_by_the_next(hop, lab):
    lab.dns.update({"remote.test": {"MX": ["10 dead.remote.test.", "20 mx.remote.test."]}})
    lab.dns.update({"dead.remote.test": {"A": ["127.0.0.2"]}})  # nobody listens there
    attempted = await lab.deliver()
    assert results(attempted) == {0: "delivered"}
    assert any("dead.remote.test [127.0.0.2]: no connection" in line.text for line in attempted.dialogue)


async def test_a_greeting_that_refuses_for_good_fails_only_if_every_host_says_so(hop, lab):
    hop.on["connect"] = "554 5.7.1 blocked, see https://x"
    attempted = await lab.deliver()
    assert results(attempted) == {0: "failed"}
    assert attempted.results[0].reply.text == "blocked, see https://x"
    lab.dns.update({"two.test": {"MX": ["10 mx.remote.test.", "20 dead.test."]}, "dead.test": {"A": ["127.0.0.2"]}})
    assert results(await lab.deliver("to@two.test")) == {0: "deferred"}


async def test_a_host_that_knows_no_ehlo_is_greeted_with_helo(hop, lab):
    hop.on["ehlo"] = "502 5.5.2 what?"
    assert results(await lab.deliver()) == {0: "relayed"}
    assert hop.received[0].mail_line == "MAIL FROM:<a@shop.test>"


async def test_a_host_that_says_our_own_name_is_a_loop(lab, hop):
    hop.name = "relay.shop.test"
    attempted = await lab.deliver()
    assert results(attempted) == {0: "failed"}
    assert attempted.results[0].reply.enhanced == "5.4.6"


async def test_a_mail_with_a_hundred_received_lines_is_a_loop(hop, lab):
    content = b"Received: x\r\n" * 101 + b"\r\nbody\r\n"
    attempted = await lab.deliver(content=content)
    assert attempted.results[0].reply.enhanced == "5.4.6"
    assert not hop.sessions
    assert results(await lab.deliver(content=b"Received: x\r\n" * 100 + b"\r\nbody\r\n")) == {0: "delivered"}
    attempted = await lab.deliver(content=b"Received: x\r\n" * 101)  # a header alone is a mail, too
    assert attempted.results[0].reply.enhanced == "5.4.6"


@pytest.mark.parametrize("code", ["552", "552 5.5.3", "452 4.5.3", "452"])
async def test_recipients_beyond_what_the_next_hop_takes_at_once_follow_in_the_same_session(hop, lab, code):
    def two_at_most(line):
        return f"{code} too many" if len(hop.sessions[0].rcpt_lines) >= 2 else None

    hop.on["rcpt"] = two_at_most
    attempted = await lab.deliver(*(f"r{i}@remote.test" for i in range(5)))
    assert set(results(attempted).values()) == {"delivered"}
    assert [len(mail.recipients) for mail in hop.received] == [2, 2, 1]
    assert len(hop.sessions) == 1


async def test_552_after_rcpt_defers_where_nobody_is_accepted(hop, lab):
    hop.on["rcpt"] = "552 5.2.2 over quota"
    assert results(await lab.deliver()) == {0: "deferred"}
    hop.on["rcpt"] = "552 too many"
    assert results(await lab.deliver()) == {0: "deferred"}


async def test_552_after_the_content_is_for_good(hop, lab):
    hop.on["dot"] = "552 5.3.4 too large"
    assert results(await lab.deliver()) == {0: "failed"}


@pytest.mark.parametrize("announced", ["LIMITS RCPTMAX=2", ""])
async def test_recipients_are_split_by_the_lesser_of_both_limits(lab, hop, announced):
    hop.extensions = ("PIPELINING", announced) if announced else ("PIPELINING",)
    plan = DeliveryPlan(limits=DestinationLimits(recipients_per_message=2 if not announced else 100))
    attempted = await lab.deliver(*(f"r{i}@remote.test" for i in range(5)), plan=plan)
    assert set(results(attempted).values()) == {"relayed"}
    assert [len(mail.recipients) for mail in hop.received] == [2, 2, 1]


async def test_who_owns_the_mail_is_asked_right_before_the_dot(hop, lab):
    owner = True
    gate = asyncio.Event()
    hop.on["data"] = Then(gate)
    task = asyncio.create_task(lab.deliver(owned=lambda: owner))
    await hop.until(lambda hop: "DATA" in hop.commands or any(s.rcpt_lines for s in hop.sessions))
    owner = False
    gate.set()
    with pytest.raises(OwnershipLostError):
        await task
    assert not hop.received
    hop.on.clear()
    assert results(await lab.deliver()) == {0: "delivered"}


async def test_a_large_mail_whose_owner_changes_while_it_is_sent_gets_no_dot(hop, lab):
    asked = 0

    def owned() -> bool:
        nonlocal asked
        asked += 1
        return asked < 2

    with pytest.raises(OwnershipLostError):
        await lab.deliver(content=b"A: b\r\n\r\n" + b"x" * 1_000_000 + b"\r\n", owned=owned)
    assert asked == 2
    await hop.until(lambda hop: hop.open == 0)
    assert not hop.received


async def test_a_cancelled_attempt_gives_its_connection_up(hop, lab):
    gate = asyncio.Event()
    hop.on["dot"] = Then(gate)
    task = asyncio.create_task(lab.deliver())
    await hop.until(lambda hop: len(hop.received) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    await hop.until(lambda hop: hop.open == 0)
    hop.on.clear()
    assert results(await lab.deliver()) == {0: "delivered"}


async def test_a_reply_that_drips_in_is_one_reply_and_progress_resets_nothing_it_must_not(hop, lab):
    hop.on["mail"] = Drip("250 2.1.0 Ok", 0.001)
    assert results(await lab.deliver()) == {0: "delivered"}
    hop.on["mail"] = Drip("250 2.1.0 " + "x" * 400, 0.002)
    assert results(await lab.deliver(plan=QUICK)) == {0: "deferred"}  # dripping is no way around the time-out


async def test_a_next_hop_that_answers_each_command_but_never_comes_to_an_end_is_left(hop, lab):
    hop.on["rcpt"] = [None, None, HANG]  # nothing is wrong but the time that it takes
    plan = DeliveryPlan(timeouts=structs.replace(Timeouts(), attempt=0.3))
    attempted = await lab.deliver(*(f"r{i}@remote.test" for i in range(3)), plan=plan)
    assert results(attempted) == {0: "deferred", 1: "deferred", 2: "deferred"}
    assert "not done within 0.3 s" in attempted.results[0].reply.text
    await hop.until(lambda hop: hop.open == 0)
    hop.on.clear()
    assert results(await lab.deliver()) == {0: "delivered"}


async def test_what_was_delivered_before_the_time_ran_out_stays_delivered(hop, lab):
    hop.on["data"] = [None, HANG]
    plan = DeliveryPlan(
        timeouts=structs.replace(Timeouts(), attempt=0.3), limits=DestinationLimits(recipients_per_message=1)
    )
    attempted = await lab.deliver("r0@remote.test", "r1@remote.test", plan=plan)
    assert results(attempted) == {0: "delivered", 1: "deferred"}
    assert [mail.recipients for mail in hop.received] == [("r0@remote.test",)]


async def test_the_reply_to_the_dot_is_waited_for_beyond_the_end_of_the_attempt(hop, lab):
    hop.on["dot"] = Drip("250 2.0.0 Ok", 0.05)
    plan = DeliveryPlan(timeouts=structs.replace(Timeouts(), attempt=0.3))
    assert results(await lab.deliver(plan=plan)) == {0: "delivered"}
    # Nothing is begun after it: who is left waits.
    limits = DestinationLimits(recipients_per_message=1)
    attempted = await lab.deliver("r0@remote.test", "r1@remote.test", plan=structs.replace(plan, limits=limits))
    assert results(attempted) == {0: "delivered", 1: "deferred"}
    assert len(hop.received) == 2


async def test_ipv6_is_tried_first_and_ipv4_after_it(hop, lab):
    lab.dns.update({"mx.remote.test": {"A": ["127.0.0.1"], "AAAA": ["::1"]}})  # nobody listens at the latter
    attempted = await lab.deliver()
    assert results(attempted) == {0: "delivered"}
    told = [line.text for line in attempted.dialogue]
    assert told[0].startswith("mx.remote.test [::1]: no connection")
    assert told[1].startswith("connected to mx.remote.test [127.0.0.1]")


async def test_354_for_nobody_is_ended_with_an_empty_content_that_counts_for_nothing():
    async with NextHop() as hop, Lab(hop.port) as lab:
        hop.on["rcpt"] = ["550 5.1.1 no"]
        hop.on["data"] = ["354 go on"]
        assert results(await lab.deliver()) == {0: "failed"}
        assert hop.received[0].content == b""
        assert results(await lab.deliver()) == {0: "delivered"}
        assert len(hop.sessions) == 1


async def test_an_answer_that_comes_before_the_dot_is_no_acceptance():
    async with NextHop() as hop, Lab(hop.port) as lab:
        hop.on["data"] = [b"354 go on\r\n250 2.0.0 have it already\r\n", b"354 go on\r\n250 2.0.0 have it\r\n"]
        assert results(await lab.deliver()) == {0: "deferred"}
        assert not hop.accepted


async def test_an_early_refusal_of_the_content_is_heeded():
    async with NextHop() as hop, Lab(hop.port) as lab:
        hop.on["data"] = b"354 go on\r\n554 5.7.1 not after all\r\n"
        attempted = await lab.deliver()
        assert results(attempted) == {0: "failed"}
        assert attempted.results[0].reply.text == "not after all"


async def test_a_next_hop_that_takes_in_nothing_times_out_by_block():
    silent = asyncio.Event()

    async def serve(reader, writer):
        writer.write(b"220 x\r\n")
        for reply in (b"250 x\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            await reader.readline()
            writer.write(reply)
        reader._transport.pause_reading()
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        async with Lab(server.sockets[0].getsockname()[1]) as lab:
            attempted = await lab.deliver(content=b"A: b\r\n\r\n" + b"x" * 20_000_000, plan=QUICK)
            assert results(attempted) == {0: "deferred"}
            assert "takes in no more" in attempted.results[0].reply.text
    finally:
        silent.set()
        server.close()
        with contextlib.suppress(ConnectionError):
            await server.wait_closed()


async def test_a_domain_that_takes_no_mail_and_one_that_does_not_exist_fail_without_a_connection():
    async with NextHop() as hop, Lab(hop.port) as lab:
        lab.dns.update({"null.test": {"MX": ["0 ."]}})
        assert (await lab.deliver("to@null.test")).results[0].reply.enhanced == "5.1.10"
        assert (await lab.deliver("to@none.test")).results[0].reply.enhanced == "5.1.2"
        lab.dns.faults["out.test"] = "servfail"
        attempted = await lab.deliver("to@out.test")
        assert results(attempted) == {0: "deferred"}
        assert not hop.sessions


async def test_an_mx_at_loopback_is_refused_unless_allowed():
    async with NextHop() as hop, Lab(hop.port, allow_private_mx=False) as lab:
        attempted = await lab.deliver()
        assert results(attempted) == {0: "failed"}
        assert "127.0.0.1" in attempted.results[0].reply.text
        assert not hop.sessions


def test_an_attempt_ends_by_itself_before_the_engine_takes_it_for_a_worker_s_death():
    assert Timeouts().attempt + Timeouts().final < Timing().attempt_limit
