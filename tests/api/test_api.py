"""The API over a real queue: messages, queue, inbox, resources, pages, and its errors."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.nats import LAYOUT
from waypost_api.app import create
from waypost_api.history.database import Database
from waypost_api.history.rows import rows_of
from waypost_api.settings import ApiSettings
from waypost_queue import codec, ids, subjects
from waypost_queue.events import Event, InboxMail
from waypost_queue.inbox import Inbox
from waypost_queue.model import Hold, Mail, Recipient, Ticket
from waypost_queue.store import Store
from waypost_runtime.health import Health

HOSTILE = (
    b"From: <a@src.example>\r\nSubject: <script>alert(1)</script>\r\n"
    b"Content-Type: text/html\r\n\r\n<script>alert(2)</script><img src=x onerror=alert(3)>\r\n"
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'history.db'}")
    await opened.open("stream")
    yield opened
    await opened.close()


@pytest.fixture
async def client(store: Store, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = create(ApiSettings(allow_anonymous=True, shards=LAYOUT.shards), store, database, Health())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as one:
        yield one


async def held_ticket(store: Store) -> Ticket:
    mail = Mail(
        id=ids.mail_id(1795494391.0, 0),
        sender="a@src.example",
        recipients=(Recipient(address="bob@dst.example", domain="dst.example"),),
        size=3,
        accepted=1795494391.0,
    )
    hold = Hold(cause="person", reason="look first", since=1795494400.0, by="token:ops")
    ticket = Ticket(mail=mail, domain="dst.example", n=0, indexes=(0,), attempt=2, hold=hold)
    subject = subjects.ticket("hold", 0, "default", "fast", "dst.example", mail.id, 0)
    target = subjects.ticket("ready", 0, "default", "fast", "dst.example", mail.id, 0)
    await store.publish(
        subject,
        codec.encode(ticket),
        {"Nats-Schedule": "@at 2099-01-01T00:00:00Z", "Nats-Schedule-Target": target},
    )
    return ticket


async def test_a_message_is_shown_from_the_queue_before_the_history_knows_it(client: httpx.AsyncClient, store: Store):
    ticket = await held_ticket(store)
    shown = (await client.get(f"/v1/messages/{ticket.mail.id.upper()}")).json()
    assert shown["waiting"][0]["state"] == "held"
    assert shown["waiting"][0]["hold"]["by"] == "token:ops"
    assert (await client.get("/v1/queue")).json()[0]["held"] == 1
    listed = (await client.get("/v1/queue/dst.example", params={"state": "held"})).json()
    assert [one["mail"] for one in listed] == [ticket.mail.id]
    assert (await client.get("/v1/queue/dst.example", params={"state": "deferred"})).json() == []
    assert (await client.get("/v1/queue/-")).json() == listed


async def test_errors_are_problem_details_that_say_what_would_be_right(client: httpx.AsyncClient):
    for path, status, words in (
        ("/v1/messages/nonsense", 400, "is not a mail id"),
        (f"/v1/messages/{ids.mail_id(1795494391.0, 0)}", 404, "No message"),
        (f"/v1/inbox/{ids.mail_id(1795494391.0, 0)}", 404, "inbox"),
        ("/v1/nothing", 404, "/openapi.json"),
        ("/v1/queue?limit=0", 422, "limit"),
    ):
        answer = await client.get(path)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert words in answer.json()["detail"]
        assert answer.json()["status"] == status


async def test_an_action_needs_a_known_verb_and_json(client: httpx.AsyncClient, store: Store):
    ticket = await held_ticket(store)
    path = f"/v1/messages/{ticket.mail.id}/actions"
    assert (await client.post(path, json={"action": "explode"})).status_code == 422
    form = await client.post(path, content=b'{"action":"delete"}', headers={"content-type": "text/plain"})
    assert form.status_code == 415
    away = await client.post(path, json={"action": "delete"})  # no queue service runs here
    assert away.status_code == 503
    assert "queue service" in away.json()["detail"]


async def test_the_anonymous_reach_it_by_its_own_names_alone(client: httpx.AsyncClient):
    answer = await client.get("/v1/queue", headers={"host": "rebound.example"})
    assert answer.status_code == 403


async def test_without_anonymous_access_a_token_is_needed(store: Store, database: Database):
    settings = ApiSettings(api_tokens="ops=0123456789abcdef0123", shards=1)
    transport = httpx.ASGITransport(create(settings, store, database, Health()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.example") as one:
        assert (await one.get("/v1/queue")).status_code == 401
        assert (await one.get("/v1/queue", headers={"authorization": "Bearer wrong"})).status_code == 401
        answer = await one.get("/v1/queue", headers={"authorization": "Bearer 0123456789abcdef0123"})
        assert answer.status_code == 200


def test_an_api_that_nobody_may_call_is_refused_at_start():
    with pytest.raises(ValueError, match="WAYPOST_API_TOKENS"):
        ApiSettings()


async def test_a_hostile_mail_is_shown_and_never_run(client: httpx.AsyncClient, store: Store):
    mail = ids.mail_id(1795494391.0, 0)
    await Inbox(store).put(
        InboxMail(
            mail=mail,
            sender="a@src.example",
            recipients=("you@example.test",),
            accepted=1795494391.0,
            delivered=1795494392.0,
            content=HOSTILE,
            subject="<script>alert(1)</script>",
        )
    )
    for path in ("/", f"/inbox/{mail}"):
        page = await client.get(path)
        assert page.status_code == 200, page.text
        assert "<script" not in page.text
        assert "onerror=alert(3)>" not in page.text.replace("&gt;", "")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "script-src" not in page.headers["content-security-policy"]
    source = await client.get(f"/v1/inbox/{mail}/source")
    assert source.content == HOSTILE
    assert source.headers["content-type"].startswith("text/plain")
    assert source.headers["x-content-type-options"] == "nosniff"
    view = (await client.get(f"/v1/inbox/{mail}")).json()
    assert ["Subject", "<script>alert(1)</script>"] in view["headers"]


async def test_a_message_page_shows_attempts_and_dialogue(client: httpx.AsyncClient, database: Database):
    mail = ids.mail_id(1795494391.0, 0)
    await database.apply(
        rows_of(
            [
                Event(id="1", kind="accepted", at=1.0, mail=mail, sender="a@src.example", addresses=("b@x.example",)),
                Event(id="2", kind="attempt", at=2.0, mail=mail, destination="x.example", attempt=1, duration=0.25),
            ]
        ),
        1,
    )
    page = await client.get(f"/messages/{mail}")
    assert page.status_code == 200, page.text
    assert "x.example" in page.text
    assert "attempt 1" in page.text


async def test_openapi_is_served(client: httpx.AsyncClient):
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert "/v1/messages/{mail}/actions" in paths
