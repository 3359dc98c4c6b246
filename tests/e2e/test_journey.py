"""A mail's way through a whole Waypost, every service a process of its own."""

import asyncio
import email
import email.policy
import smtplib

import pytest

from tests.support.lab import Lab, domain
from tests.support.nexthop import NextHop
from tests.support.odd import messages
from tests.support.wait import eventually
from waypost_queue.config import Retry

pytestmark = pytest.mark.timeout(120)

CONTENT = b"From: <app@src.example>\r\nTo: <bob@dst.example>\r\nSubject: Hello\r\n\r\nHi Bob\r\n"


def send(
    lab: Lab, to: str | list[str], content: bytes = CONTENT, sender: str = "app@src.example", options: tuple = ()
) -> str:
    """Sends through the MX listener as a trusted network does; returns the mail id."""
    with smtplib.SMTP("127.0.0.1", lab.mx, timeout=20) as client:
        client.ehlo("app.src.example")
        assert client.mail(sender)[0] == 250
        for one in [to] if isinstance(to, str) else to:
            code, reply = client.rcpt(one, options)
            assert code == 250, reply
        code, reply = client.data(content)
        assert code == 250, reply
        return reply.decode().rsplit(" ", 1)[-1]


async def state(lab: Lab, mail: str) -> dict:
    answer = await lab.api(f"/v1/messages/{mail}")
    return answer.json() if answer.status_code == 200 else {"state": "unknown", "events": [], "waiting": []}


async def reaches(lab: Lab, mail: str, wanted: str, limit: float = 20.0) -> dict:
    """The message's view once it is in the state."""
    seen: dict = {}

    async def there() -> bool:
        nonlocal seen
        seen = await state(lab, mail)
        return seen["state"] == wanted

    try:
        await eventually(there, limit, f"{mail} is {wanted}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {seen}") from error
    return seen


@pytest.mark.parametrize("knows_dsn", [True, False])
async def test_a_mail_reaches_the_mx_of_its_domain_and_the_history_shows_how(lab: Lab, hop: NextHop, knows_dsn: bool):
    if not knows_dsn:
        hop.extensions = tuple(one for one in hop.extensions if one != "DSN")
    mail = await asyncio.to_thread(send, lab, "bob@dst.example")
    await hop.until(lambda h: len(h.accepted) == 1)
    received = hop.accepted[0]
    assert received.sender == "app@src.example"
    assert received.recipients == ("bob@dst.example",)
    assert received.content.endswith(CONTENT)
    trace = received.content[: -len(CONTENT)]
    assert trace.startswith(b"Received: from app.src.example")
    assert mail.encode() in trace

    # RFC 3461 5.2.2: what went to a hop that knows no DSN was relayed; one that does has taken the duty over
    seen = await reaches(lab, mail, "delivered" if knows_dsn else "relayed")
    attempt = next(event for event in seen["events"] if event["kind"] == "attempt")
    said = [line["text"] for line in attempt["dialogue"]]
    assert any(text.startswith("MAIL FROM:<app@src.example>") for text in said)
    assert seen["recipients"][0]["reply"]["code"] == 250


async def test_a_dead_next_hop_is_retried_on_schedule_and_the_mail_returned_after_its_lifetime(lab: Lab, hop: NextHop):
    await lab.publish(domain("src.example", retry=Retry(initial=1, max=2, expire_after=5, notify_delay_after=2)))
    mail = await asyncio.to_thread(send, lab, "bob@dead.example")
    await reaches(lab, mail, "deferred")
    seen = await reaches(lab, mail, "expired", 40)
    assert sum(event["kind"] == "attempt" for event in seen["events"]) >= 2

    await hop.until(lambda h: len(h.accepted) >= 2, 20)  # the delay notice and the failure, both to src.example
    kinds = []
    for dsn in hop.accepted:
        assert dsn.sender == ""
        assert dsn.recipients == ("app@src.example",)
        report = email.message_from_bytes(dsn.content, policy=email.policy.default)
        assert report.get_content_type() == "multipart/report"
        fields = report.get_payload(1).get_payload(1)
        assert fields["Final-Recipient"] == "rfc822; bob@dead.example"
        kinds.append(fields["Action"])
    assert sorted(kinds) == ["delayed", "failed"]
    assert seen["reports"]


async def test_what_is_refused_for_good_comes_back_as_a_dsn_and_the_rest_is_delivered(lab: Lab, hop: NextHop):
    hop.on["rcpt"] = lambda line: "550 5.1.1 no such user here" if "nobody" in line else None
    mail = await asyncio.to_thread(send, lab, ["nobody@dst.example", "bob@dst.example"])
    await hop.until(lambda h: len(h.accepted) == 2, 20)
    delivered, dsn = sorted(hop.accepted, key=lambda one: one.sender == "")
    assert delivered.recipients == ("bob@dst.example",)
    assert b"no such user here" in dsn.content
    seen = await reaches(lab, mail, "failed")
    assert seen["recipients"][0]["state"] == "failed"


async def test_a_deferred_mail_is_held_released_and_delivered(lab: Lab, hop: NextHop):
    await lab.publish(domain("src.example", retry=Retry(initial=300, max=600)))
    hop.on["rcpt"] = ["450 4.2.0 not now"]
    mail = await asyncio.to_thread(send, lab, "bob@dst.example")
    await reaches(lab, mail, "deferred")
    answer = await lab.act(mail, "hold", reason="look first")
    assert answer.json()["acted"] == 1, answer.text
    seen = await reaches(lab, mail, "held")
    assert seen["waiting"][0]["hold"]["by"].startswith("anonymous:")
    answer = await lab.act(mail, "release")
    assert answer.json()["acted"] == 1, answer.text
    await hop.until(lambda h: len(h.accepted) == 1, 20)
    seen = await state(lab, mail)
    assert [event["text"] for event in seen["events"] if event["kind"] == "action"]


@pytest.mark.parametrize(("action", "end", "reports"), [("bounce", "failed", 1), ("delete", "deleted", 0)])
async def test_a_deferred_mail_is_given_up(lab: Lab, hop: NextHop, action: str, end: str, reports: int):
    await lab.publish(domain("src.example", retry=Retry(initial=300, max=600)))
    hop.on["rcpt"] = ["450 4.2.0 not now"]
    mail = await asyncio.to_thread(send, lab, "bob@dst.example")
    await reaches(lab, mail, "deferred")
    assert (await lab.act(mail, action)).json()["acted"] == 1
    await reaches(lab, mail, end)
    if reports:
        await hop.until(lambda h: len(h.accepted) == 1, 20)
        assert hop.accepted[0].sender == ""
    assert (await lab.act(mail, action)).status_code == 409


async def test_a_domain_that_is_added_may_send_at_once_and_one_that_is_suspended_waits(lab: Lab, hop: NextHop):
    with smtplib.SMTP("127.0.0.1", lab.mx, timeout=20) as client:
        client.ehlo("x.example")
        assert client.mail("a@new.example")[0] == 553

    await lab.publish(domain("new.example"))

    def accepted() -> bool:
        with smtplib.SMTP("127.0.0.1", lab.mx, timeout=20) as client:
            client.ehlo("x.example")
            return client.mail("a@new.example")[0] == 250

    await eventually(lambda: asyncio.to_thread(accepted))


async def test_a_thousand_odd_messages_arrive_byte_for_byte(lab: Lab, hop: NextHop):
    sent = messages(1000, "app@src.example")

    def send_all() -> None:
        with smtplib.SMTP("127.0.0.1", lab.mx, timeout=30) as client:
            client.ehlo("app.src.example")
            for number, content in enumerate(sent):
                client.mail("app@src.example", ["BODY=8BITMIME"])
                client.rcpt(f"n{number}@dst.example")
                client.docmd("DATA")
                stuffed = content.replace(b"\r\n.", b"\r\n..")
                client.send((b"." if stuffed.startswith(b".") else b"") + stuffed + b".\r\n")
                code, reply = client.getreply()
                assert code == 250, (number, reply, content[:200])

    await asyncio.to_thread(send_all)
    await hop.until(lambda h: len(h.accepted) >= len(sent), 60)
    by_recipient = {mail.recipients[0]: mail.content for mail in hop.accepted}
    assert len(by_recipient) == len(sent)
    for number, content in enumerate(sent):
        got = by_recipient[f"n{number}@dst.example"]
        # Waypost prepends its own Received header and changes nothing else
        assert got.endswith(content), number
        assert got[: -len(content)].startswith(b"Received: "), number
        assert got[: -len(content)].count(b"\r\nReceived:") == 0, number
