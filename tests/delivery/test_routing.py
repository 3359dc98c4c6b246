"""Routes: MX order, fallback, null MX, loops, and addresses to which nothing is sent."""

import pytest

from tests.support.dns import DnsServer
from waypost_delivery.dns import Resolver
from waypost_delivery.routing import Host, Router, UnroutableError, address_allowed, site_name
from waypost_delivery.transport import TransportSettings
from waypost_queue import config

MX = config.Route()
BOTH = ("IPv6", "IPv4")


@pytest.fixture
async def dns():
    async with DnsServer() as server:
        yield server


@pytest.fixture
async def resolver(dns):
    resolver = Resolver((dns.address,), timeout=0.2, lifetime=0.4)
    yield resolver
    await resolver.close()


@pytest.fixture
def router(resolver):
    return Router(resolver, TransportSettings(hostname="relay.shop.test", own_addresses=frozenset({"192.0.2.99"})))


async def tried(router, route, families=BOTH, penalised=frozenset()):
    return [
        item if isinstance(item, UnroutableError) else (item[0].name, item[1])
        async for item in router.candidates(route, families, penalised)
    ]


async def refusal(router, domain):
    with pytest.raises(UnroutableError) as caught:
        await router.route(domain, MX)
    return caught.value


async def test_mx_hosts_are_tried_by_preference_and_equal_ones_in_any_order(dns, router):
    dns.update({"shop.test": {"MX": ["20 c.test.", "10 a.test.", "10 b.test."]}})
    for name in "abc":
        dns.update({f"{name}.test": {"A": [f"198.41.0.{ord(name)}"]}})
    route = await router.route("shop.test", MX)
    orders = {tuple(name for name, _ in await tried(router, route)) for _ in range(60)}
    assert orders == {("a.test", "b.test", "c.test"), ("b.test", "a.test", "c.test")}


async def test_without_mx_the_domain_is_its_own(dns, router):
    dns.update({"shop.test": {"A": ["198.41.0.1"]}})
    route = await router.route("shop.test", MX)
    assert route.site == "shop.test"
    assert await tried(router, route) == [("shop.test", "198.41.0.1")]


async def test_the_null_mx_is_a_refusal_for_good(dns, router):
    dns.update({"shop.test": {"MX": ["0 ."]}})
    error = await refusal(router, "shop.test")
    assert (error.result, error.reply.code, error.reply.enhanced) == ("failed", 556, "5.1.10")


async def test_a_domain_that_does_not_exist_is_a_refusal_for_good(router):
    error = await refusal(router, "none.test")
    assert (error.result, error.reply.enhanced) == ("failed", "5.1.2")
    assert "check the part after the @" in error.reply.text


@pytest.mark.parametrize("fault", ["servfail", "timeout"])
async def test_dns_that_is_out_defers(dns, router, fault):
    dns.update({"shop.test": {"MX": ["10 mx.shop.test."]}})
    dns.faults["shop.test"] = fault
    error = await refusal(router, "shop.test")
    assert (error.result, error.reply.enhanced) == ("deferred", "4.4.3")


async def test_mx_at_and_behind_ourselves_are_left_out(dns, router):
    dns.update({"shop.test": {"MX": ["5 a.test.", "10 Relay.shop.test.", "10 b.test.", "20 c.test."]}})
    assert [host.name for host in (await router.route("shop.test", MX)).hosts] == ["a.test"]


async def test_a_domain_whose_best_mx_we_are_is_a_loop(dns, router):
    dns.update({"shop.test": {"MX": ["10 relay.shop.test.", "20 b.test."]}})
    error = await refusal(router, "shop.test")
    assert (error.result, error.reply.enhanced) == ("failed", "5.4.6")


async def test_an_mx_at_our_own_address_is_a_loop_and_ends_the_list(dns, router):
    dns.update({"shop.test": {"MX": ["10 a.test.", "20 b.test."]}})
    dns.update({"a.test": {"A": ["192.0.2.99"]}, "b.test": {"A": ["198.41.0.1"]}})
    (only,) = await tried(router, await router.route("shop.test", MX))
    assert only.reply.enhanced == "5.4.6"


async def test_an_equal_of_a_host_at_our_own_address_is_not_tried_either(dns, router):
    dns.update({"shop.test": {"MX": ["5 better.test.", "10 us.test.", "10 equal.test."]}})
    dns.update({"better.test": {"A": ["198.41.0.1"]}, "us.test": {"A": ["192.0.2.99"]}})
    dns.update({"equal.test": {"A": ["198.41.0.2"]}})
    route = await router.route("shop.test", MX)
    for _ in range(20):
        first, second = await tried(router, route)
        assert first == ("better.test", "198.41.0.1")
        assert second.reply.enhanced == "5.4.6"


async def test_an_mx_that_is_no_host_name_is_passed_over(dns, router):
    odd = r"a\000\032b.shop.test."
    dns.update({"shop.test": {"MX": [f"10 {odd}", "20 mx.shop.test."]}, "mx.shop.test": {"A": ["198.41.0.1"]}})
    assert [host.name for host in (await router.route("shop.test", MX)).hosts] == ["mx.shop.test"]
    dns.update({"odd.test": {"MX": [f"10 {odd}"]}})
    error = await refusal(router, "odd.test")
    assert (error.result, error.reply.enhanced) == ("failed", "5.4.4")


async def test_ipv6_comes_first_and_families_can_be_chosen(dns, router):
    dns.update({"shop.test": {"A": ["198.41.0.1"], "AAAA": ["2a00::1"]}})
    route = await router.route("shop.test", MX)
    assert [address for _, address in await tried(router, route)] == ["2a00::1", "198.41.0.1"]
    assert [address for _, address in await tried(router, route, ("IPv4",))] == ["198.41.0.1"]


async def test_one_family_that_fails_does_not_hide_the_other(dns, router, resolver):
    dns.update({"shop.test": {"A": ["198.41.0.1"]}})
    route = await router.route("shop.test", MX)
    assert await tried(router, route) == [("shop.test", "198.41.0.1")]
    dns.faults["mx.out.test"] = "servfail"
    dns.update({"out.test": {"MX": ["10 mx.out.test."]}})
    (error,) = await tried(router, await router.route("out.test", MX))
    assert error.result == "deferred"


async def test_an_address_that_failed_a_moment_ago_comes_last(dns, router):
    dns.update({"shop.test": {"MX": ["10 a.test.", "20 b.test."]}})
    dns.update({"a.test": {"A": ["198.41.0.1"]}, "b.test": {"A": ["198.41.0.2"]}})
    route = await router.route("shop.test", MX)
    addresses = [address for _, address in await tried(router, route, penalised=frozenset({"198.41.0.1"}))]
    assert addresses == ["198.41.0.2", "198.41.0.1"]


@pytest.mark.parametrize("record", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"])
async def test_an_mx_inside_is_refused(dns, router, record):
    dns.update({"evil.test": {"MX": ["10 mx.evil.test."]}, "mx.evil.test": {"A": [record]}})
    (error,) = await tried(router, await router.route("evil.test", MX))
    assert error.result == "failed"
    assert record in error.reply.text


@pytest.mark.parametrize(
    "address",
    ["::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::", "ff02::1", "224.0.0.1"],
)
def test_no_wrapping_makes_an_inner_address_an_outer_one(address):
    assert not address_allowed(address, private=False)


def test_a_laboratory_may_allow_private_addresses_but_never_multicast():
    assert address_allowed("127.0.0.1", private=True)
    assert not address_allowed("224.0.0.1", private=True)
    assert not address_allowed("255.255.255.255", private=True)
    assert address_allowed("2a00::1", private=False)


@pytest.mark.parametrize(("literal", "address"), [("[198.41.0.1]", "198.41.0.1"), ("[IPv6:2A00::1]", "2a00::1")])
async def test_an_address_literal_needs_no_dns(dns, router, literal, address):
    assert await tried(router, await router.route(literal, MX)) == [(address, address)]
    assert dns.queries == []


async def test_a_literal_of_an_inner_address_is_refused_too(router):
    (error,) = await tried(router, await router.route("[127.0.0.1]", MX))
    assert error.result == "failed"


async def test_what_is_in_brackets_must_be_an_address(router):
    assert (await refusal(router, "[shop.test]")).reply.enhanced == "5.1.2"


async def test_a_smarthost_is_the_route_and_may_be_private(dns, router):
    dns.update({"gw.corp.test": {"A": ["10.1.2.3"]}})
    wanted = config.Route(type="Smarthost", smarthost=config.Smarthost(host="gw.corp.test", port=2525))
    route = await router.route("shop.test", wanted)
    assert (route.site, route.port) == ("gw.corp.test:2525", 2525)
    assert await tried(router, route) == [("gw.corp.test", "10.1.2.3")]


async def test_domains_with_the_same_mx_are_one_site_and_a_different_order_is_another(dns, router):
    dns.update({"a.test": {"MX": ["10 x.test.", "20 y.test."]}, "b.test": {"MX": ["20 y.test.", "10 x.test."]}})
    dns.update({"c.test": {"MX": ["10 x.test.", "10 y.test."]}})
    a, b, c = [(await router.site_of(name)).name for name in ("a.test", "b.test", "c.test")]
    assert a == b != c
    assert (await router.site_of("a.test")).mx == ("x.test", "y.test")
    assert site_name([Host("x.test", 10)]) == "x.test"


async def test_the_site_of_a_domain_without_a_route_is_itself(router):
    info = await router.site_of("none.test")
    assert (info.name, info.mx) == ("none.test", ())


async def test_a_route_is_found_once_for_many_mails(dns, router):
    dns.update({"shop.test": {"MX": ["10 mx.shop.test."]}})
    for _ in range(5):
        await router.route("shop.test", MX)
    assert dns.queries == [("shop.test", "MX")]
