"""A deadline for each command, and a least rate for DATA; what arrives moves the deadline, what doesn't ends it."""

import asyncio

import pytest

from tests.ingress.lab import Client, LabFactory


async def drip(client: Client, data: bytes, pause: float) -> None:
    """Sends octet by octet until done or cut off."""
    try:
        for octet in data:
            client.send(bytes([octet]))
            await client.writer.drain()
            await asyncio.sleep(pause)
    except ConnectionError:
        pass


@pytest.mark.parametrize("listener", ["mx", "submissions"])
async def test_a_silent_client_is_told_and_closed(make_lab: LabFactory, listener: str) -> None:
    lab = await make_lab(command_timeout=0.2)
    client = await lab.hello(listener)
    assert (await client.reply()).startswith("421 4.4.2 ")
    assert await client.closed()


async def test_a_command_that_trickles_in_does_not_move_its_deadline(make_lab: LabFactory) -> None:
    lab = await make_lab(command_timeout=0.3)
    client = await lab.hello()
    task = asyncio.create_task(drip(client, b"NOOP " + b"x" * 400 + b"\r\n", 0.02))
    assert (await client.reply()).startswith("421 4.4.2 ")
    task.cancel()


async def test_data_that_stands_still_is_ended(make_lab: LabFactory) -> None:
    lab = await make_lab(data_timeout=0.2)
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    client.send(b"From: app@example.test\r\n")
    assert (await client.reply()).startswith("421 4.4.2 ")
    assert await client.closed()
    assert await lab.mails() == []


async def test_data_below_the_least_rate_is_ended_although_it_never_stands_still(make_lab: LabFactory) -> None:
    lab = await make_lab(data_timeout=0.3, data_rate=10_000)
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    task = asyncio.create_task(drip(client, b"x" * 500, 0.02))
    assert (await client.reply()).startswith("421 4.4.2 ")
    task.cancel()


async def test_data_that_keeps_its_rate_may_take_longer_than_the_deadline(make_lab: LabFactory) -> None:
    lab = await make_lab(data_timeout=0.3, data_rate=100)
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    client.send(b"From: app@example.test\r\n\r\n")
    for _ in range(12):
        client.send(b"a line of fifty octets, which is more than is due\r\n")
        await client.writer.drain()
        await asyncio.sleep(0.05)
    client.send(b".\r\n")
    assert (await client.reply()).startswith("250 ")


async def test_an_unfinished_tls_handshake_is_ended(make_lab: LabFactory) -> None:
    lab = await make_lab(tls_timeout=0.2)
    _, writer = await asyncio.open_connection("127.0.0.1", lab.ports["submissions"])
    async with asyncio.timeout(5):
        await lab.ingress.left_to(0)
    writer.close()


async def test_a_client_that_reads_nothing_is_cut_off_at_the_deadline(make_lab: LabFactory) -> None:
    lab = await make_lab(command_timeout=0.3)
    client = await lab.hello()
    client.writer.transport.pause_reading()
    for _ in range(100):
        client.send(b"NOOP\r\n" * 50)
    async with asyncio.timeout(8):
        await lab.ingress.left_to(0)
