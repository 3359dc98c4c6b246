"""The end of a worker: nobody new, 421 at the next command, and a mail on its way gets its answer."""

import asyncio

import pytest

from tests.ingress.lab import Lab, LabFactory
from waypost_ingress.listeners import close_all

BODY = b"From: app@example.test\r\n\r\n"


async def test_who_waits_between_commands_is_told_at_once(lab: Lab) -> None:
    clients = [await lab.hello() for _ in range(3)]
    await clients[1].transaction()
    await close_all(lab.servers)
    assert await lab.ingress.drain(5.0)
    for client in clients:
        assert (await client.reply()).startswith("421 4.3.2 ")
        assert await client.closed()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", lab.ports["mx"])


async def test_data_in_flight_is_finished_and_acknowledged_before_the_421(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    client.send(BODY + b"first half\r\n")
    drained = asyncio.create_task(lab.ingress.drain(5.0))
    await asyncio.sleep(0)
    client.send(b"second half\r\n.\r\n")
    assert (await client.reply()).startswith("250 2.0.0 Ok: queued as ")
    assert (await client.reply()).startswith("421 4.3.2 ")
    assert await drained
    [mail] = await lab.mails()
    assert (mail.content or b"").endswith(b"first half\r\nsecond half\r\n")


async def test_who_does_not_finish_in_time_is_cut_off_without_a_250(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    client.send(BODY)
    assert not await lab.ingress.drain(0.2)
    assert await client.closed()
    assert await lab.mails() == []
    assert lab.ingress.all_sessions() == ()


async def test_a_client_that_vanishes_during_the_commit_neither_breaks_it_nor_is_missed(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    client.send(BODY + b"x\r\n.\r\n")
    await client.writer.drain()
    client.writer.transport.abort()
    await lab.ingress.left_to(0)
    assert len(await lab.mails()) <= 1


async def test_a_login_half_done_holds_up_no_drain(lab: Lab) -> None:
    client = await lab.hello("submissions")
    assert (await client.say("AUTH LOGIN")).startswith("334 ")
    assert await lab.ingress.drain(5.0)
    assert (await client.reply()).startswith("421 4.3.2 ")
    assert await client.closed()


async def test_a_worker_that_can_take_no_mail_says_so_to_who_connects(make_lab: LabFactory) -> None:
    lab = await make_lab()
    lab.not_ready = "NATS is lost"
    client = await lab.connect()
    assert (await client.reply()).startswith("421 4.3.2 ")
    assert await client.closed()
