"""A network is trusted only while its peers' addresses are real."""

from waypost_policy.peers import PeerGate

NOW = 1767225600.0


def gate_after(counts: dict[str, int], **settings) -> PeerGate:
    gate = PeerGate(**settings)
    for address, count in counts.items():
        for _ in range(count):
            gate.seen(address, NOW)
    return gate


def test_many_connections_from_one_address_hide_who_connects():
    gate = gate_after({"10.244.0.1": 412})
    assert gate.hidden("10.244.0.1", NOW).startswith("all 412 connections of the last hour came from 10.244.0.1.")


def test_a_few_nodes_hide_as_well_as_one():
    assert gate_after({"10.244.0.1": 200, "10.244.1.1": 200}).hidden("10.244.0.1", NOW)
    assert not gate_after({"10.244.0.1": 200, "10.244.1.1": 200, "10.244.7.9": 1}).hidden("10.244.0.1", NOW)


def test_nothing_is_concluded_from_a_few_connections_or_when_told_not_to():
    assert not gate_after({"10.0.0.1": 199}).hidden("10.0.0.1", NOW)
    assert not gate_after({"10.0.0.1": 5000}, enough=0).hidden("10.0.0.1", NOW)


def test_loopback_is_exempt():
    gate = gate_after({"127.0.0.1": 5000, "::1": 5000})
    assert not gate.hidden("127.0.0.1", NOW)
    assert not gate.hidden("::1", NOW)
    assert not gate.hidden("10.0.0.1", NOW)


def test_a_gateway_is_never_trusted():
    assert "is a gateway" in PeerGate(gateways=["10.244.0.1"]).hidden("10.244.0.1", NOW)


def test_an_hour_later_it_is_forgotten_and_memory_is_bounded():
    gate = gate_after({"10.244.0.1": 412})
    assert gate.hidden("10.244.0.1", NOW + 3000)
    assert not gate.hidden("10.244.0.1", NOW + 4000)
    for hour in range(100):
        for number in range(50):
            gate.seen(f"10.0.0.{number}", NOW + hour * 300)
    assert len(gate._slots) <= 13
    assert all(len(addresses) <= 3 for _, addresses in gate._slots.values())
