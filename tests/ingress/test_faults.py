"""Whatever breaks inside is a 4xx without a text of its own, and nothing that was refused is stored."""

import asyncio
import tracemalloc

import pytest

from tests.ingress.lab import LAYOUT, Lab, LabFactory
from tests.support.nats import NatsServer, prepared
from waypost_ingress import session as session_module
from waypost_queue.intake import Intake, IntakeFullError, IntakeUnavailableError

BODY = b"From: app@example.test\r\n\r\n"


async def test_an_unexpected_exception_is_451_and_tells_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret internals")

    monkeypatch.setattr(session_module.policy, "at_rcpt", broken)
    client = await lab.hello()
    await client.say("MAIL FROM:<app@example.test>")
    reply = await client.say("RCPT TO:<a@far.test>")
    assert reply.startswith("451 4.3.0 ")
    assert "secret" not in reply
    assert "RuntimeError" not in reply
    assert await client.closed()


@pytest.mark.parametrize(
    ("error", "code"), [(IntakeFullError("full"), "452 4.3.1 "), (IntakeUnavailableError("no leader"), "451 4.3.0 ")]
)
async def test_a_mail_that_the_store_refuses_gives_its_limits_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def refuse(*_: object, **__: object) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future

    given: list[int] = []
    monkeypatch.setattr(Intake, "put", refuse)
    monkeypatch.setattr(lab.limiter, "give_back", lambda _scopes, count, _now: given.append(count))
    client = await lab.hello()
    await client.transaction("app@example.test", "a@far.test", "b@far.test")
    assert (await client.data(BODY)).startswith(code)
    assert given == [2]
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("250 ")


async def test_a_full_store_is_said_at_mail(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Intake, "room", lambda _self: "INTAKE-0 is 81% full")
    client = await lab.hello()
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("452 4.3.1 ")


async def test_a_mail_waits_through_an_outage_of_the_store_and_is_stored_once(tmp_path, make_lab: LabFactory) -> None:
    async with NatsServer(tmp_path / "nats") as server:
        await (await prepared(server, LAYOUT)).close()
        async with Lab(server.url, tmp_path / "lab") as lab:
            client = await lab.hello()
            await client.transaction()
            await server.kill()
            assert (await client.say("DATA")).startswith("354 ")
            client.send(BODY + b"x\r\n.\r\n")
            await server.start()
            assert (await client.reply(timeout=20.0)).startswith("250 ")
            assert len(await lab.mails()) == 1


async def test_an_idle_connection_takes_little_memory(lab: Lab) -> None:
    """The figure in budget.py: about 6 KiB for a plain one."""
    await lab.hello()
    tracemalloc.start(1)
    try:
        before = tracemalloc.take_snapshot()
        count = 100
        clients = [await lab.hello() for _ in range(count)]
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    here = [tracemalloc.Filter(True, "*/waypost_*"), tracemalloc.Filter(True, "*/aiosmtpd/*")]
    used = sum(
        difference.size_diff
        for difference in after.filter_traces(here).compare_to(before.filter_traces(here), "filename")
    )
    assert len(clients) == count
    assert used / count < 6 * 1024, f"{used / count:.0f} octets a connection"
