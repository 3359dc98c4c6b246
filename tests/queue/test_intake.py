"""Committing mails: one bundle for all that is ready, a 250 only for what is on disk, one mail's refusal its own."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.nats import LAYOUT, NatsServer
from waypost_queue import codec, ids, intake, subjects
from waypost_queue.intake import Intake, IntakeFullError, IntakeUnavailableError
from waypost_queue.model import INLINE_LIMIT, Bundle, Mail, Recipient
from waypost_queue.store import Store
from waypost_queue.streams import Layout


def mail(number: int = 0, content: bytes = b"Subject: x\r\n\r\nhello\r\n", recipients: int = 1) -> Mail:
    to = tuple(Recipient(address=f"r{i}@example.net", domain="example.net") for i in range(recipients))
    return Mail(
        id=ids.mail_id(1_700_000_000 + number, 0),
        sender=f"s{number}@example.com",
        recipients=to,
        size=len(content),
        accepted=1_700_000_000.0,
        content=content,
    )


@pytest.fixture
async def committer(store: Store, layout: Layout) -> AsyncIterator[Intake]:
    committer = Intake(store, 0, layout)
    await committer.start()
    yield committer
    await committer.close()


async def bundles(store: Store) -> list[tuple[str, Bundle]]:
    return [(m.subject, codec.decode(m.data, Bundle)) async for m in store.direct("INTAKE-0", "intake0.>")]


async def test_a_mail_is_in_the_stream_when_put_returns(store: Store, committer: Intake) -> None:
    sent = mail()
    await committer.put(sent, pool="default", lane="fast")
    ((subject, bundle),) = await bundles(store)
    assert subject.startswith("intake0.default.fast.")
    assert bundle == Bundle(mails=(sent,))


async def test_mails_that_are_ready_together_share_bundles_of_at_most_64(store: Store, committer: Intake) -> None:
    sent = [mail(i) for i in range(150)]
    await asyncio.gather(*(committer.put(m, pool="default", lane="fast") for m in sent))
    stored = [bundle for _, bundle in await bundles(store)]
    assert [len(bundle.mails) for bundle in stored] == [64, 64, 22]
    assert [m for bundle in stored for m in bundle.mails] == sent


async def test_a_bundle_holds_at_most_a_mebibyte(store: Store, committer: Intake) -> None:
    sent = [mail(i, b"x" * (100 * 1024)) for i in range(25)]
    await asyncio.gather(*(committer.put(m, pool="default", lane="fast") for m in sent))
    stored = [m.data async for m in store.direct("INTAKE-0", "intake0.>")]
    assert [len(codec.decode(data, Bundle).mails) for data in stored] == [10, 10, 5]
    assert max(len(data) for data in stored) <= intake.MAX_BYTES + 64


async def test_one_mail_with_very_many_recipients_goes_alone(store: Store, committer: Intake) -> None:
    sent = [mail(0), mail(1, recipients=50_000), mail(2)]
    await asyncio.gather(*(committer.put(m, pool="default", lane="fast") for m in sent))
    assert [len(bundle.mails) for _, bundle in await bundles(store)] == [1, 1, 1]


async def test_lanes_and_pools_do_not_share_bundles(nats_server: NatsServer, store: Store) -> None:
    committer = Intake(store, 0, Layout(pools=("default", "other")))
    await committer.start()
    await asyncio.gather(
        committer.put(mail(0), pool="default", lane="fast"),
        committer.put(mail(1), pool="default", lane="prio"),
        committer.put(mail(2), pool="other", lane="fast"),
    )
    await committer.close()
    assert sorted(subject.rsplit(".", 1)[0] for subject, _ in await bundles(store)) == [
        "intake0.default.fast",
        "intake0.default.prio",
        "intake0.other.fast",
    ]


async def test_a_content_over_the_inline_limit_is_refused_before_anything_is_sent(committer: Intake) -> None:
    with pytest.raises(ValueError, match="spool first"):
        await committer.put(mail(content=b"x" * (INLINE_LIMIT + 1)), pool="default", lane="fast")


async def test_a_pool_that_nobody_serves_is_refused_by_name(committer: Intake) -> None:
    with pytest.raises(IntakeUnavailableError, match="'nowhere'; there are: default"):
        await committer.put(mail(), pool="nowhere", lane="fast")


async def test_a_mail_whose_session_gave_up_before_the_flush_is_not_stored(store: Store, committer: Intake) -> None:
    given_up = committer.put(mail(0), pool="default", lane="fast")
    kept = committer.put(mail(1), pool="default", lane="fast")
    given_up.cancel()
    await kept
    ((_, bundle),) = await bundles(store)
    assert [m.sender for m in bundle.mails] == ["s1@example.com"]


async def test_a_restart_of_the_server_is_waited_out_and_nothing_is_stored_twice(
    nats_server: NatsServer, store: Store, committer: Intake
) -> None:
    await nats_server.kill()
    waiting = asyncio.gather(*(committer.put(mail(i), pool="default", lane="fast") for i in range(5)))
    await nats_server.start()
    await waiting
    stored = [m for _, bundle in await bundles(store) for m in bundle.mails]
    assert sorted(m.sender for m in stored) == [f"s{i}@example.com" for i in range(5)]


async def test_a_lost_answer_is_asked_again_with_the_same_id_and_marks_the_bundle(
    store: Store, committer: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Bundle]] = []
    publish = store.publish

    async def losing(subject: str, payload: bytes, headers: dict[str, str], timeout: float = 5.0) -> object:
        seen.append((headers["Nats-Msg-Id"], codec.decode(payload, Bundle)))
        ack = await publish(subject, payload, headers, timeout)
        if len(seen) == 1:
            raise intake.UnknownFateError("the answer was lost")
        return ack

    monkeypatch.setattr(store, "publish", losing)
    await committer.put(mail(), pool="default", lane="fast")
    (first, unmarked), (second, marked) = seen
    assert first == second
    assert not unmarked.marked
    assert marked.marked
    assert marked.origin_time > 0
    assert len(await bundles(store)) == 1


async def test_without_an_answer_every_mail_is_refused_within_the_time_allowed(
    nats_server: NatsServer, store: Store, layout: Layout
) -> None:
    committer = Intake(store, 0, layout, retry_for=0.3)
    await committer.start()
    await nats_server.kill()
    results = await asyncio.gather(
        *(committer.put(mail(i), pool="default", lane="fast") for i in range(3)), return_exceptions=True
    )
    await committer.close()
    assert [type(result) for result in results] == [IntakeUnavailableError] * 3


class TestFull:
    """INTAKE holds 150 KiB in these."""

    @pytest.fixture
    def layout(self) -> Layout:
        return Layout(store_bytes=1 << 20)

    async def test_a_mail_that_does_not_fit_is_refused_and_its_neighbours_are_stored(
        self, store: Store, committer: Intake
    ) -> None:
        sizes = [100, 120_000, 100, 120_000, 100]
        results = await asyncio.gather(
            *(committer.put(mail(i, b"x" * size), pool="default", lane="fast") for i, size in enumerate(sizes)),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), type(None), type(None), IntakeFullError, type(None)]
        stored = [m.sender for _, bundle in await bundles(store) for m in bundle.mails]
        assert stored == [f"s{i}@example.com" for i in (0, 1, 2, 4)]

    async def test_room_says_why_from_80_percent_on_and_until_there_is_room_again(
        self, store: Store, layout: Layout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "ROOM_EVERY", 0.01)
        looked: asyncio.Queue[str] = asyncio.Queue()
        measure = Intake._measure

        async def measured(self: Intake) -> None:
            await measure(self)
            looked.put_nowait(self.room())

        monkeypatch.setattr(Intake, "_measure", measured)
        committer = Intake(store, 0, layout)
        await committer.start()
        assert await looked.get() == ""
        await committer.put(mail(0, b"x" * 127_000), pool="default", lane="fast")
        while not (why := await looked.get()):
            pass
        assert why.startswith("INTAKE-0 is 8")
        await store.api("STREAM.PURGE.INTAKE-0")
        while await looked.get():
            pass
        await committer.close()


async def test_the_spool_counts_for_room_too(nats_server: NatsServer, store: Store) -> None:
    config = (await store.api("STREAM.INFO.SPOOL-0"))["config"]
    await store.api("STREAM.UPDATE.SPOOL-0", {**config, "max_bytes": 1000})
    await store.publish(subjects.spool(0, "m", 0), b"x" * 850)
    committer = Intake(store, 0, LAYOUT)
    await committer.start()
    assert committer.room().startswith("SPOOL-0 is 89%")
    await committer.close()


async def test_a_mail_that_the_server_takes_for_too_large_is_refused_alone(
    store: Store, committer: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.nc, "_max_payload", 50_000)
    results = await asyncio.gather(
        *(
            committer.put(mail(i, b"x" * size), pool="default", lane="fast")
            for i, size in enumerate((100, 60_000, 100))
        ),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), IntakeUnavailableError, type(None)]
