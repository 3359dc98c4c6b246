"""The inbox: newest first, whole however large, one entry however often it was put."""

import os

import pytest

from waypost_queue import inbox as inbox_module
from waypost_queue.events import InboxMail
from waypost_queue.inbox import Inbox
from waypost_queue.store import Store


@pytest.fixture
def inbox(store: Store) -> Inbox:
    return Inbox(store)


def kept(mail: str, content: bytes = b"x", recipient: str = "c@d") -> InboxMail:
    return InboxMail(mail=mail, sender="a@b", recipients=(recipient,), accepted=1.0, delivered=2.0, content=content)


async def test_an_inbox_without_mail_is_empty(inbox: Inbox) -> None:
    assert await inbox.list() == []
    assert await inbox.get("m") is None


async def test_the_newest_come_first_and_no_more_than_asked_for(inbox: Inbox) -> None:
    for number in range(40):
        await inbox.put(kept(f"m{number}"))
    assert [mail.mail for _, mail in await inbox.list(3)] == ["m39", "m38", "m37"]
    assert len(await inbox.list(100)) == 40


async def test_a_mail_that_is_put_twice_is_kept_once(inbox: Inbox) -> None:
    await inbox.put(kept("m", b"one"))
    await inbox.put(kept("m", b"one"))
    assert [mail.content for _, mail in await inbox.list()] == [b"one"]


async def test_the_groups_of_a_mail_are_one_entry_with_all_their_recipients(inbox: Inbox) -> None:
    await inbox.put(kept("m", recipient="fourth@d"), 3)
    await inbox.put(kept("other"), 0)
    await inbox.put(kept("m", recipient="first@d"), 0)
    found = await inbox.get("m")
    assert found is not None
    assert found.recipients == ("first@d", "fourth@d")
    assert [mail.mail for _, mail in await inbox.list()] == ["m", "other"]


async def test_a_mail_larger_than_a_message_comes_back_whole(inbox: Inbox) -> None:
    content = os.urandom(2 * inbox_module.PART + 5)
    await inbox.put(kept("small"))
    await inbox.put(kept("large", content))
    await inbox.put(kept("last"))
    listed = [mail for _, mail in await inbox.list(3)]
    assert [mail.mail for mail in listed] == ["last", "large", "small"]
    assert listed[1].content == content
    found = await inbox.get("large")
    assert found is not None
    assert found.content == content


async def test_a_list_reaches_back_past_the_parts_of_large_mails(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "PART", 10)
    await inbox.put(kept("first"))
    for number in range(3):
        await inbox.put(kept(f"m{number}", b"x" * 200))
    assert [mail.mail for _, mail in await inbox.list(4)] == ["m2", "m1", "m0", "first"]
