"""Connections of a site: used again within limits, never too many, and no site waits for another."""

import asyncio

import pytest

from tests.delivery.transport_lab import SHORT, Lab
from tests.support.nexthop import DROP, EXTENSIONS, HANG, NextHop, Then
from waypost_delivery.transport import DeliveryPlan, SiteBusyError
from waypost_queue.config import DestinationLimits


@pytest.fixture
async def hop():
    async with NextHop() as hop:
        yield hop


@pytest.fixture
async def other(hop):
    """The next hop of another site."""
    async with NextHop(host="127.0.0.2", port=hop.port) as other:
        yield other


def lab_of(hop, **settings):
    lab = Lab(hop.port, **settings)
    lab.dns.update({"other.test": {"MX": ["10 mx.other.test."]}, "mx.other.test": {"A": ["127.0.0.2"]}})
    lab.dns.update({"dead.test": {"MX": ["10 mx.dead.test."]}, "mx.dead.test": {"A": ["127.0.0.3"]}})  # nobody listens
    return lab


def result(attempted):
    return attempted.results[0].result


def limited(**limits):
    return DeliveryPlan(limits=DestinationLimits(**limits))


# Used again


async def test_a_connection_ends_after_as_many_mails_as_it_may_carry(hop):
    async with lab_of(hop, messages_per_connection=2) as lab:
        for _ in range(5):
            assert result(await lab.deliver()) == "delivered"
    assert [mail.session for mail in hop.received] == [0, 0, 1, 1, 2]
    assert all(session.lines[-1] == "QUIT" for session in hop.sessions)


async def test_a_policy_or_the_next_hop_itself_may_ask_for_fewer(hop):
    async with lab_of(hop) as lab:
        for _ in range(2):
            await lab.deliver(plan=limited(messages_per_connection=1))
    assert len(hop.sessions) == 2
    hop.extensions = (*EXTENSIONS, "LIMITS MAILMAX=1")
    async with lab_of(hop) as lab:
        for _ in range(2):
            await lab.deliver()
    assert len(hop.sessions) == 4


async def test_a_connection_that_is_too_old_is_not_used_again(hop):
    async with lab_of(hop, connection_age=0.0) as lab:
        for _ in range(2):
            assert result(await lab.deliver()) == "delivered"
    assert len(hop.sessions) == 2


async def test_an_idle_connection_is_closed_with_quit(hop):
    async with lab_of(hop, connection_idle=0.0) as lab:
        await lab.deliver()
        await hop.until(lambda hop: hop.open == 0)
        assert hop.commands[-1] == "QUIT"


async def test_mails_of_different_plans_share_no_connection(hop):
    async with lab_of(hop) as lab:
        await lab.deliver()
        await lab.deliver(plan=DeliveryPlan(ehlo="other.shop.test"))
        await lab.deliver()
    assert [mail.session for mail in hop.received] == [0, 1, 0]


async def test_an_idle_connection_that_the_next_hop_closed_costs_nothing(hop):
    async with lab_of(hop) as lab:
        await lab.deliver()
        hop.sessions[0].writer.transport.abort()
        await hop.until(lambda hop: hop.open == 0)
        assert result(await lab.deliver()) == "delivered"
    assert len(hop.sessions) == 2


@pytest.mark.parametrize("fault", [DROP, "421 4.4.2 idle for too long"], ids=["drop", "421"])
async def test_a_connection_that_closes_as_it_is_used_again_is_replaced_in_the_same_attempt(hop, fault):
    async with lab_of(hop) as lab:
        await lab.deliver()
        hop.on["mail"] = [fault]
        assert result(await lab.deliver()) == "delivered"
    assert [mail.session for mail in hop.received] == [0, 1]


# Never too many


@pytest.mark.parametrize("by", ["settings", "policy"])
async def test_a_site_has_no_more_connections_than_it_may_and_all_of_its_mail_goes(hop, by):
    gate = asyncio.Event()
    hop.on["dot"] = Then(gate)
    plan = limited(connections=2) if by == "policy" else DeliveryPlan()
    async with lab_of(hop, **({"site_connections": 2} if by == "settings" else {})) as lab:
        tasks = [asyncio.create_task(lab.deliver(plan=plan)) for _ in range(8)]
        await hop.until(lambda hop: len(hop.received) == 2)
        gate.set()
        assert {result(await task) for task in tasks} == {"delivered"}
    assert hop.most_open == 2


async def test_an_idle_connection_elsewhere_makes_room_when_the_process_has_no_more(hop, other):
    async with lab_of(hop, max_connections=1) as lab:
        assert result(await lab.deliver()) == "delivered"
        assert result(await lab.deliver("to@other.test")) == "delivered"
        await hop.until(lambda hop: hop.open == 0)
        assert result(await lab.deliver()) == "delivered"


async def test_who_stops_waiting_leaves_its_turn_to_the_next(hop):
    gate = asyncio.Event()
    hop.on["dot"] = Then(gate)
    async with lab_of(hop, site_connections=1) as lab:
        first, second, third = (asyncio.create_task(lab.deliver()) for _ in range(3))
        await hop.until(lambda hop: len(hop.received) == 1)
        second.cancel()
        gate.set()
        assert {result(await first), result(await third)} == {"delivered"}
        with pytest.raises(asyncio.CancelledError):
            await second
    assert len(hop.received) == 2


async def test_a_rate_is_kept_and_what_is_above_it_comes_back_when_there_is_room(hop):
    plan = limited(messages_per_minute=1)
    async with lab_of(hop) as lab:
        assert result(await lab.deliver(plan=plan)) == "delivered"
        waits = []
        for _ in range(3):
            with pytest.raises(SiteBusyError) as busy:
                await lab.deliver(plan=plan)
            assert busy.value.reason == "rate"
            waits.append(busy.value.resume_after)
    assert waits == pytest.approx([60, 120, 180], abs=5)  # one after the other, not all at once
    assert len(hop.received) == 1


# No site waits for another


async def test_a_site_that_hangs_holds_up_neither_its_own_backlog_nor_anybody_else(hop, other):
    hop.on["dot"] = HANG
    async with lab_of(hop, site_connections=2) as lab:
        tasks = [asyncio.create_task(lab.deliver()) for _ in range(200)]
        await hop.until(lambda hop: len(hop.received) == 2)
        assert result(await lab.deliver("to@other.test")) == "delivered"
        spilled = [task for task in tasks if task.done()]
        assert spilled, "nothing was put off: workers sit on what can't be sent"
        for task in spilled:
            assert isinstance(task.exception(), SiteBusyError)
            assert task.exception().reason == "full"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert hop.most_open == 2


async def test_a_site_that_can_t_be_reached_rests_and_says_what_it_failed_with(hop, other):
    async with lab_of(hop) as lab:
        for _ in range(5):
            attempted = await lab.deliver("to@dead.test")
            assert result(attempted) == "deferred"
            assert attempted.results[0].reply.enhanced == "4.4.1"
        with pytest.raises(SiteBusyError) as busy:
            await lab.deliver("to@dead.test")
        assert busy.value.reason == "resting"
        assert "no connection" in busy.value.last.text
        assert 10 < busy.value.resume_after < 20
        assert result(await lab.deliver("to@other.test")) == "delivered"


async def test_a_site_that_answers_does_not_rest_whatever_it_answers(hop):
    hop.on["mail"] = "451 4.3.0 later"
    async with lab_of(hop) as lab:
        for _ in range(12):
            assert result(await lab.deliver()) == "deferred"


async def test_who_waits_for_a_site_that_turns_out_dead_is_put_off(hop):
    hop.on["connect"] = HANG
    async with lab_of(hop, site_connections=5) as lab:
        plan = DeliveryPlan(timeouts=SHORT)
        outcomes = await asyncio.gather(*(lab.deliver(plan=plan) for _ in range(20)), return_exceptions=True)
    # Five that fail are a rest; a sixth may begin in the room that the fourth leaves.
    assert len(hop.sessions) in (5, 6)
    busy = [outcome for outcome in outcomes if isinstance(outcome, SiteBusyError)]
    assert len(busy) == 20 - len(hop.sessions)
    assert {outcome.reason for outcome in busy} == {"resting"}


async def test_a_dead_domain_is_forgotten_when_its_rest_is_long_over(hop):
    async with lab_of(hop) as lab:
        await lab.deliver("to@dead.test")
        pool = lab.transport._shared.pool
        site = pool.site("mx.dead.test")
        assert site.breaker.failures == 1
        pool._forget(site.used_at)
        assert pool.site("mx.dead.test") is site
        pool._forget(site.used_at + 1)
        assert pool.site("mx.dead.test") is not site
