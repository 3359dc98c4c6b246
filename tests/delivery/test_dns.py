"""DNS look-ups: cached, flown once, failures told apart."""

import asyncio

import pytest

from tests.support.dns import DnsServer
from waypost_delivery.dns import DnsTemporaryError, NoNameError, Resolver


@pytest.fixture
async def server():
    async with DnsServer(
        {"shop.test": {"MX": ["20 MX2.Shop.test.", "10 mx1.shop.test."]}, "mx1.shop.test": {"A": ["192.0.2.1"]}}
    ) as server:
        yield server


@pytest.fixture
async def resolver(server):
    resolver = Resolver((server.address,), timeout=0.2, lifetime=0.5)
    yield resolver
    await resolver.close()


async def test_an_answer_is_asked_for_once_and_then_comes_from_the_cache(server, resolver):
    for _ in range(3):
        answer = await resolver.lookup("shop.test", "MX")
        assert sorted(answer.records) == [(10, "mx1.shop.test"), (20, "mx2.shop.test")]
    assert server.count("shop.test", "MX") == 1


async def test_fifty_concurrent_look_ups_send_one_query(server, resolver):
    server.gate = asyncio.Event()
    tasks = [asyncio.create_task(resolver.lookup("shop.test", "MX")) for _ in range(50)]
    await asyncio.sleep(0)
    server.gate.set()
    assert len({await task for task in tasks}) == 1
    assert server.count("shop.test", "MX") == 1


async def test_who_is_cancelled_does_not_take_the_others_look_up_along(server, resolver):
    server.gate = asyncio.Event()
    first = asyncio.create_task(resolver.lookup("shop.test", "MX"))
    second = asyncio.create_task(resolver.lookup("shop.test", "MX"))
    await asyncio.sleep(0)
    first.cancel()
    server.gate.set()
    assert (await second).records
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_missing_name_is_told_apart_from_a_missing_type_and_both_are_cached(server, resolver):
    for _ in range(2):
        with pytest.raises(NoNameError):
            await resolver.lookup("none.test", "MX")
        assert (await resolver.lookup("shop.test", "A")).records == ()
    assert server.count("none.test", "MX") == 1
    assert server.count("shop.test", "A") == 1


@pytest.mark.parametrize("fault", ["servfail", "refused", "timeout", "garbage"])
async def test_a_server_that_fails_leaves_it_open_for_a_few_seconds(server, resolver, fault):
    server.faults["shop.test"] = fault
    with pytest.raises(DnsTemporaryError, match="of shop"):
        await resolver.lookup("shop.test", "MX")
    asked = server.count("shop.test", "MX")
    with pytest.raises(DnsTemporaryError):
        await resolver.lookup("shop.test", "MX")
    assert server.count("shop.test", "MX") == asked


async def test_a_truncated_answer_is_asked_again_over_tcp(server, resolver):
    server.faults["shop.test"] = "truncate"
    assert len((await resolver.lookup("shop.test", "MX")).records) == 2


async def test_cnames_are_followed_to_a_depth_of_eight(server, resolver):
    for depth in range(9):
        server.update({f"c{depth}.test": {"CNAME": [f"c{depth - 1}.test." if depth else "mx1.shop.test."]}})
    assert (await resolver.lookup("c7.test", "A")).records == ((0, "192.0.2.1"),)
    with pytest.raises(DnsTemporaryError, match="CNAME"):
        await resolver.lookup("c8.test", "A")


async def test_a_cname_loop_is_a_failure_and_ends(server, resolver):
    server.update({"a.test": {"CNAME": ["b.test."]}, "b.test": {"CNAME": ["a.test."]}})
    with pytest.raises(DnsTemporaryError):
        await resolver.lookup("a.test", "A")


async def test_a_chain_that_the_server_leaves_to_us_is_followed(server, resolver):
    server.update({"alias.test": {"CNAME": ["mx1.shop.test."]}})
    server.faults["alias.test"] = "lame-cname"
    assert (await resolver.lookup("alias.test", "A")).records == ((0, "192.0.2.1"),)


async def test_what_is_no_domain_name_is_a_missing_name(resolver):
    with pytest.raises(NoNameError):
        await resolver.lookup("a" * 64 + ".test", "MX")


async def test_an_answer_goes_when_its_ttl_ends(server, resolver, monkeypatch):
    await resolver.lookup("shop.test", "MX")
    now = resolver._clock()
    monkeypatch.setattr(resolver, "_clock", lambda: now + 301)
    await resolver.lookup("shop.test", "MX")
    assert server.count("shop.test", "MX") == 2


async def test_a_resolver_must_be_an_address():
    with pytest.raises(ValueError, match="ADDRESS:PORT"):
        Resolver((("dns.shop.test", 53),))
