"""A worker that stood still past `ack_wait` looks before each thing it does: it does nothing more with the message."""

import time
from collections.abc import Callable

import pytest

from tests.support.engine import FAST, FakeHandler, emptied, mail, put, put_ticket, running, ticket_of
from waypost_queue import ids, pause
from waypost_queue.model import Mail, Report
from waypost_queue.spool import Spool
from waypost_queue.store import Store
from waypost_queue.streams import Layout
from waypost_queue.work import Work


@pytest.fixture
def layout() -> Layout:
    return FAST


@pytest.fixture
def stands_still(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """`stands_still(name)`: at the first pass of that point the process stands still; the points passed since then."""

    def at(name: str) -> list[str]:
        passed: list[str] = []
        armed = [True]

        def hook(reached: str) -> None:
            if reached == name and armed:
                armed.clear()
                time.sleep(FAST.timing.ack_wait * 1.2)
            elif not armed:
                passed.append(reached)

        monkeypatch.setattr(pause, "hook", hook)
        return passed

    return at


async def test_before_the_attempt(store: Store, stands_still: Callable[[str], list[str]]) -> None:
    stands_still("after_recv")
    one = mail("a@x.test")
    handler = FakeHandler()
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert [work.recovered for work in handler.attempts] == [True]


async def test_before_the_next_schedule(store: Store, stands_still: Callable[[str], list[str]]) -> None:
    stands_still("after_send")
    one = mail("a@x.test")
    await Spool(store).put(one.id, one.content or b"")
    handler = FakeHandler()
    answers = iter(["deferred"])
    handler.answers["a@x.test"] = lambda work, index: next(answers, "delivered")
    async with running(store, handler):
        await put_ticket(store, ticket_of(one, "x.test"))
        await emptied(store)
    first, second = (work.ticket for work in handler.attempts)
    assert first is not None
    assert second is not None
    assert (second.attempt, second.marked) == (first.attempt, True), (
        "the successor of what came back, not of the attempt"
    )


class Reporting(FakeHandler):
    """Notes whether it was recovery that asked for each DSN."""

    def __init__(self) -> None:
        super().__init__()
        self.recovered: list[bool] = []

    async def report(self, work: Work, report: Report) -> Mail:
        self.recovered.append(work.recovered)
        return await super().report(work, report)


async def test_before_the_dsn(store: Store, stands_still: Callable[[str], list[str]]) -> None:
    stands_still("after_settle")
    one = mail("a@x.test")
    handler = Reporting()
    handler.answers["a@x.test"] = "failed"
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert handler.recovered == [True]
    assert handler.sent == [(ids.dsn_id(one.id, (0,), "failure"), 0)]


async def test_before_the_ack(store: Store, stands_still: Callable[[str], list[str]]) -> None:
    passed = stands_still("before_ack")
    one = mail("a@x.test")
    handler = FakeHandler()
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert passed.index("rec_start") < passed.index("after_ack")
    assert handler.sent == [(one.id, 0)]
