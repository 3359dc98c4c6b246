"""The history: a projection that ends the same in whatever order events come."""

import itertools
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from waypost_api.history.database import Database
from waypost_api.history.rows import rows_of
from waypost_queue.events import Event, RecipientResult
from waypost_queue.model import Reply

MAIL = "01jd5w3k7zzzzzzzzzzzzzzzzz0"


def accepted(mail: str = MAIL, at: float = 100.0) -> Event:
    return Event(
        id=f"a-{mail}",
        kind="accepted",
        at=at,
        mail=mail,
        sender="a@src.example",
        addresses=("b@x.example",),
        subject="Hi",
    )


def moved(kind: str, at: float, attempt: int, code: int, mail: str = MAIL) -> Event:
    result = RecipientResult(index=0, address="b@x.example", result=kind, reply=Reply(code=code, text=f"said {code}"))
    return Event(id=f"{kind}-{at}-{mail}", kind=kind, at=at, mail=mail, attempt=attempt, recipients=(result,))


@pytest.fixture
async def database(tmp_path: Path):
    opened = Database(f"sqlite:///{tmp_path / 'history.db'}")
    assert await opened.open("stream-1") == 0
    yield opened
    await opened.close()


EVENTS = (accepted(), moved("deferred", 101, 1, 450), moved("deferred", 103, 2, 451), moved("relayed", 105, 3, 250))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::3])
async def test_a_recipient_ends_in_its_last_state_in_any_order_of_events(database: Database, order):
    for seq, place in enumerate(order, 1):
        await database.apply(rows_of([EVENTS[place], EVENTS[place]]), seq)
    found = await database.message(MAIL)
    assert found is not None
    assert found["sender"] == "a@src.example"
    assert [one["state"] for one in found["recipients"]] == ["relayed"]
    assert found["recipients"][0]["code"] == 250
    assert [event.kind for event in await database.events(MAIL)] == ["accepted", "deferred", "deferred", "relayed"]


async def test_it_goes_on_where_it_stopped_and_is_rebuilt_for_another_stream(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'history.db'}"
    first = Database(url)
    assert await first.open("stream-1") == 0
    await first.apply(rows_of([accepted()]), 17)
    await first.close()

    again = Database(url)
    assert await again.open("stream-1") == 17
    assert await again.message(MAIL) is not None
    await again.close()

    other = Database(url)
    assert await other.open("stream-2") == 0
    assert await other.message(MAIL) is None
    await other.close()


async def test_old_messages_are_pruned_with_all_that_belongs_to_them(database: Database):
    new = MAIL[:-2] + "y0"
    await database.apply(rows_of([accepted(at=50), moved("relayed", 51, 1, 250), accepted(new, at=500)]), 1)
    assert await database.prune(before=100) == 1
    assert await database.message(MAIL) is None
    assert await database.events(MAIL) == []
    assert await database.message(new) is not None
    assert await database.prune(before=100) == 0


async def test_what_was_told_of_a_message_without_its_acceptance_goes_with_its_time(database: Database):
    await database.apply(rows_of([moved("relayed", 51, 1, 250)]), 1)
    assert await database.prune(before=50) == 0
    assert len(await database.events(MAIL)) == 1
    await database.prune(before=100)
    assert await database.message(MAIL) is None
    assert await database.events(MAIL) == []


async def test_an_error_of_the_database_names_no_address(database: Database):
    rows = rows_of([accepted()])
    rows.messages[MAIL]["size"] = None
    with pytest.raises(IntegrityError) as failed:
        await database.apply(rows, 1)
    assert "src.example" not in str(failed.value)
