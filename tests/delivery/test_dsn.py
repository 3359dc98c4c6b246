"""DSNs, read back by the standard library's parser: every field of the machine's part, and the words."""

import email
import email.policy
import quopri
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.delivery.works import CONTENT, LATER, NO_USER, NOW, OK, mail, recipient
from waypost_delivery import dsn, dsn_text
from waypost_queue import ids
from waypost_queue.model import Mail, Recipient, Reply, Report, ReportKind, Settled

CONTEXT = dsn.Context(hostname="relay.example.net", now=NOW + 100)
BOB = "bob@x.org"


def report(
    about: Mail, *settled: Settled, kind: ReportKind = "failure", until: float = 0.0, content: bytes = CONTENT
) -> Mail:
    told = Report(ids.dsn_id(about.id, (settled[0].index,), kind), kind, settled, will_retry_until=until)
    return dsn.build(about, dict(enumerate(about.recipients)), told, content, CONTEXT)


def content_of(made: Mail) -> bytes:
    assert made.content is not None
    assert made.size == len(made.content)
    return made.content


def parts(made: Mail) -> tuple[Message, str, list[Message], Message]:
    """The whole, the words, the blocks of fields, and the part that comes back."""
    whole = email.message_from_bytes(content_of(made))
    assert not whole.defects
    text, status, returned = whole.get_payload()
    assert not text.defects
    assert status.get_content_type() == "message/delivery-status"
    blocks = [block for block in status.get_payload() if block.keys()]
    return whole, text.get_payload(decode=True).decode(), blocks, returned


def unfolded(value: str) -> str:
    return " ".join(value.split())


def test_a_failure_has_exactly_the_fields_of_rfc_3464() -> None:
    group = mail(
        recipient("alice@x.org"),
        recipient(BOB, "FAILURE", orcpt="rfc822;Robert+x=y@old.example"),
        envid="QQ314159",
    )
    made = report(group, Settled(1, "failed", NO_USER))
    whole, _, (message, one), _ = parts(made)

    assert whole.get_content_type() == "multipart/report"
    assert whole.get_param("report-type") == "delivery-status"
    assert whole["Auto-Submitted"] == "auto-replied"
    assert whole["To"] == "<app@shop.example>"
    assert whole["From"] == "Mail Delivery System <MAILER-DAEMON@relay.example.net>"
    assert whole["Message-ID"] == f"<{made.id}@relay.example.net>"
    assert whole["In-Reply-To"] == whole["References"] == "<m1@shop.example>"
    assert whole["Subject"] == "Not delivered: your message to bob@x.org"
    assert parsedate_to_datetime(whole["Date"]) == datetime.fromtimestamp(NOW + 100, UTC)
    assert whole["MIME-Version"] == "1.0"

    assert dict(message.items()) == {
        "Original-Envelope-Id": "QQ314159",
        "Reporting-MTA": "dns; relay.example.net",
        "Arrival-Date": "Wed, 18 Nov 2026 11:06:40 +0000",
    }
    assert dict(one.items()) == {
        "Original-Recipient": "rfc822; Robert+x=y@old.example",
        "Final-Recipient": "rfc822; bob@x.org",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.x.org",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user here",
        "Last-Attempt-Date": "Wed, 18 Nov 2026 11:06:41 +0000",
        "Final-Log-ID": group.id,
    }


def test_the_dsn_is_a_mail_from_nobody_to_the_sender_that_asks_for_no_dsn() -> None:
    group = mail()
    made = report(group, Settled(0, "failed", NO_USER))
    assert made.sender == ""
    assert made.recipients == (Recipient("app@shop.example", "shop.example", ("NEVER",)),)
    assert made.id == ids.dsn_id(group.id, (0,), "failure")
    assert (made.kind, made.about, made.source) == ("dsn", group.id, "dsn")
    assert (made.domain, made.tenant) == (group.domain, group.tenant)
    assert (made.eight_bit, made.smtputf8) == (False, False)
    assert made.accepted == CONTEXT.now


def test_a_mail_from_nobody_is_not_reported() -> None:
    with pytest.raises(ValueError, match="nobody"):
        report(mail(sender=""), Settled(0, "failed", NO_USER))


def test_the_same_report_gives_the_same_dsn() -> None:
    group = mail()
    assert report(group, Settled(0, "failed", NO_USER)) == report(group, Settled(0, "failed", NO_USER))


def test_a_delay_says_until_when_only_while_that_lies_ahead() -> None:
    until = NOW + 5 * 86400
    made = report(mail(), Settled(0, "deferred", LATER), kind="delay", until=until)
    whole, text, (_, one), _ = parts(made)
    assert (one["Action"], one["Status"]) == ("delayed", "4.7.1")
    assert parsedate_to_datetime(one["Will-Retry-Until"]) == datetime.fromtimestamp(until, UTC)
    assert whole["Subject"] == "Not delivered yet: your message to bob@x.org"
    assert "tried again until Monday, 23 November 2026" in unfolded(text)
    past = report(mail(), Settled(0, "deferred", LATER), kind="delay", until=NOW + 99)
    _, _, (_, one), _ = parts(past)
    assert "Will-Retry-Until" not in one
    failed = report(mail(), Settled(0, "expired", LATER), until=until)
    _, _, (_, one), _ = parts(failed)
    assert "Will-Retry-Until" not in one


@pytest.mark.parametrize(
    ("kind", "action", "subject"),
    [
        ("success", "delivered", "Delivered: your message to bob@x.org"),
        ("relayed", "relayed", "Passed on: your message to bob@x.org"),
    ],
)
def test_a_good_end_is_confirmed(kind: ReportKind, action: str, subject: str) -> None:
    made = report(mail(), Settled(0, "relayed" if kind == "relayed" else "delivered", OK), kind=kind)
    whole, text, (_, one), returned = parts(made)
    assert (one["Action"], one["Status"]) == (action, "2.0.0")
    assert whole["Subject"] == subject
    assert returned.get_content_type() == "text/rfc822-headers"
    assert "What to do" not in text


@pytest.mark.parametrize(
    ("kind", "result", "reply", "expected"),
    [
        ("failure", "failed", Reply(550, "5.1.1"), "5.1.1"),
        ("failure", "failed", Reply(550, ""), "5.0.0"),
        ("failure", "failed", Reply(554, "2.0.0"), "5.0.0"),
        ("failure", "failed", Reply(550, "4.1.1"), "5.1.1"),
        ("failure", "failed", Reply(550, "5.1.1234"), "5.0.0"),
        ("failure", "failed", None, "5.0.0"),
        ("failure", "failed", Reply(0, "5.4.6"), "5.4.6"),
        ("failure", "expired", Reply(451, "4.7.1"), "4.7.1"),
        ("failure", "expired", Reply(451, ""), "4.4.7"),
        ("failure", "expired", Reply(0, ""), "4.4.7"),
        ("failure", "expired", Reply(535, "5.7.8"), "5.7.8"),
        ("failure", "expired", None, "4.4.7"),
        ("delay", "deferred", Reply(451, "4.7.650"), "4.7.650"),
        ("delay", "deferred", Reply(535, "5.7.8"), "4.7.8"),
        ("delay", "deferred", Reply(421, ""), "4.0.0"),
        ("success", "delivered", Reply(250, "2.1.5"), "2.1.5"),
        ("success", "delivered", None, "2.0.0"),
        ("relayed", "relayed", Reply(250, "5.0.0"), "2.0.0"),
    ],
)
def test_the_status_is_always_one_that_fits_the_action(
    kind: ReportKind, result: str, reply: Reply | None, expected: str
) -> None:
    assert dsn.status_code(kind, Settled(0, result, reply)) == expected  # type: ignore[arg-type]


def test_what_no_remote_host_said_is_not_passed_off_as_smtp() -> None:
    nobody = Reply(0, "4.4.1", "no connection: timed out", "mx.x.org", "192.0.2.1", NOW)
    _, text, (_, one), _ = parts(report(mail(), Settled(0, "expired", nobody)))
    assert one["Diagnostic-Code"] == "x-waypost; 4.4.1 no connection: timed out"
    assert "Remote-MTA" not in one
    assert "We noted: 4.4.1 no connection" in text
    assert "It said" not in text


def test_every_recipient_has_a_block_of_its_own_and_equal_fates_stand_together() -> None:
    group = mail(*(recipient(f"u{number}@x.org") for number in range(200)))
    made = report(group, *(Settled(number, "failed", NO_USER) for number in range(200)))
    whole, text, blocks, _ = parts(made)
    assert [unfolded(block["Final-Recipient"]) for block in blocks[1:]] == [
        f"rfc822; u{number}@x.org" for number in range(200)
    ]
    assert text.count("no such user here") == 1
    assert "and 150 more" in text
    assert whole["Subject"] == "Not delivered: your message to u0@x.org and 199 others"


def test_many_different_fates_are_cut_short_in_words_but_not_in_fields() -> None:
    group = mail(*(recipient(f"u{number}@x.org") for number in range(30)))
    made = report(group, *(Settled(n, "failed", Reply(550, "5.1.1", f"no {n}", "mx.x.org")) for n in range(30)))
    _, text, blocks, _ = parts(made)
    assert "10 more recipients are in the delivery report" in unfolded(text)
    assert len(blocks) == 31


# -- what a person reads


def test_a_person_learns_what_happened_what_was_said_and_what_to_do() -> None:
    _, text, _, _ = parts(report(mail(), Settled(0, "failed", NO_USER)))
    lines = text.splitlines()
    assert "This is the mail system at relay.example.net." in lines
    assert "could not be delivered to the recipient below. It will not be tried again." in unfolded(text)
    assert "    Subject: Hello" in lines
    assert BOB in lines
    assert "    What happened: There is no such mailbox." in lines
    assert "    It said: 550 5.1.1 no such user here" in lines
    assert "    Mail server: mx.x.org [192.0.2.1]" in lines
    assert any(line.startswith("    What to do: Check the address") for line in lines)
    assert max(map(len, lines)) <= dsn_text.WIDTH


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(552, "5.2.2", "over quota", "mx"), "mailbox is full"),
        (Reply(552, "5.3.4", "too big", "mx"), "too large"),
        (Reply(556, "5.1.10", "null MX"), "takes no mail at all"),
        (Reply(550, "5.7.26", "DMARC", "mx"), "by its rules"),
        (Reply(550, "", "go away", "mx"), "refused the message"),
        (Reply(451, "", "try later", "mx"), "for now"),
        (Reply(0, "", ""), "could not be reached"),
        (Reply(0, dsn_text.RETURNED, "returned by the operators"), "operators of this mail system"),
        (Reply(0, "5.4.6", "loop"), "round in a circle"),
    ],
)
def test_a_code_is_put_into_words(reply: Reply, words: str) -> None:
    assert words in dsn_text.meaning(reply)[0]


def test_the_subject_is_read_as_its_sender_wrote_it() -> None:
    _, text, _, _ = parts(report(mail(subject="=?utf-8?q?Gr=C3=BC=C3=9Fe?="), Settled(0, "failed", NO_USER)))
    assert "Subject: Grüße" in text
    assert dsn_text.readable("=?utf-8?q?cut in the mi") == "=?utf-8?q?cut in the mi"
    assert dsn_text.readable("=?no-such-charset?q?a?=") == "=?no-such-charset?q?a?="


# -- what comes back


@pytest.mark.parametrize("ret", ["", "HDRS"])
def test_the_header_comes_back_where_the_message_is_not_asked_for(ret: str) -> None:
    _, _, _, returned = parts(report(mail(ret=ret), Settled(0, "failed", NO_USER)))
    assert returned.get_content_type() == "text/rfc822-headers"
    assert "Message-ID: <m1@shop.example>" in returned.get_payload()
    assert "Hello." not in returned.get_payload()


def test_the_message_comes_back_whole_byte_by_byte_where_it_is_asked_for() -> None:
    content = CONTENT + b"--=_waypost\r\n\r\n..\r\nend\r\n"
    made = report(mail(ret="FULL"), Settled(0, "failed", NO_USER), content=content)
    _, _, _, returned = parts(made)
    assert returned.get_content_type() == "message/rfc822"
    assert b"\r\n\r\n" + content + b"\r\n--=_waypost_" in content_of(made)


def test_a_large_message_comes_back_as_its_header() -> None:
    content = CONTENT + b"x" * 70 + b"\r\n" * dsn.RETURN_LIMIT
    made = report(mail(ret="FULL"), Settled(0, "failed", NO_USER), content=content)
    _, _, _, returned = parts(made)
    assert returned.get_content_type() == "text/rfc822-headers"
    assert made.size < 8192


def test_a_large_header_is_cut_at_a_line() -> None:
    header = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 90) for number in range(2000))
    cut = dsn.header_of(header + b"\r\nbody")
    assert len(cut) <= dsn.RETURN_LIMIT
    assert cut.endswith(b"y\r\n")
    assert header.startswith(cut)


@pytest.mark.parametrize(("kind", "result"), [("delay", "deferred"), ("success", "delivered"), ("relayed", "relayed")])
def test_only_a_failure_returns_the_message(kind: ReportKind, result: str) -> None:
    made = report(mail(ret="FULL"), Settled(0, result, OK), kind=kind)  # type: ignore[arg-type]
    assert parts(made)[3].get_content_type() == "text/rfc822-headers"


def test_of_an_eight_bit_message_the_header_comes_back_so_that_every_hop_takes_the_dsn() -> None:
    content = CONTENT + "Grüße\r\n".encode("latin-1")
    made = report(mail(ret="FULL"), Settled(0, "failed", NO_USER), content=content)
    assert not made.eight_bit
    assert content_of(made).isascii()
    assert parts(made)[3].get_content_type() == "text/rfc822-headers"


def test_a_broken_header_is_encoded_and_comes_out_of_that_as_it_was() -> None:
    header = b"From: a\r\nSubject: \xfc\xff =3D " + b"z" * 1500 + b" \r\nX-Bare: a\rb\nc\0d\r\n"
    made = report(mail(), Settled(0, "failed", NO_USER), content=header + b"\r\nbody\r\n")
    assert not made.eight_bit
    assert max(map(len, content_of(made).split(b"\r\n"))) <= dsn.MAX_LINE
    _, _, _, returned = parts(made)
    assert returned["Content-Transfer-Encoding"] == "quoted-printable"
    assert quopri.decodestring(returned.get_payload().replace("\r\n", "\n")).replace(b"\n", b"").replace(
        b"\r", b""
    ) == header.replace(b"\r", b"").replace(b"\n", b"")


# -- what others wrote can't break out

EVIL = "x\r\nBcc: victim@x.org\r\n\r\nbody\x0b\x0c\x00\x85\u2028\u2029y"


def test_nothing_that_a_client_or_a_remote_host_wrote_makes_a_line_of_its_own() -> None:
    group = mail(
        recipient("bob@x.org", orcpt=f"rfc822;{EVIL}"),
        envid=EVIL,
        subject=EVIL,
        message_id=f"<a@b>{EVIL}",
    )
    made = report(group, Settled(0, "failed", Reply(550, "5.1.1", EVIL, f"mx{EVIL}", "192.0.2.1", NOW)))
    whole, text, blocks, _ = parts(made)
    assert "Bcc" not in whole
    assert "In-Reply-To" not in whole
    assert len(blocks) == 2
    for block in blocks:
        assert "Bcc" not in block
        assert all(not set(value) & set("\x0b\x0c\x00\x85\u2028\u2029") for value in block.values())
    assert not any(line.lstrip().startswith("Bcc") for line in text.splitlines())
    assert content_of(made).count(b"\n") == content_of(made).count(b"\r\n") == content_of(made).count(b"\r")


def test_a_word_that_fits_no_line_is_cut() -> None:
    made = report(mail(), Settled(0, "failed", Reply(550, "5.1.1", "w" * 1000, "mx.x.org")))
    assert max(map(len, content_of(made).split(b"\r\n"))) <= dsn.MAX_LINE
    _, _, (_, one), _ = parts(made)
    assert one["Diagnostic-Code"].replace("\r\n", "").replace(" ", "") == "smtp;5505.1.1" + "w" * 1000


_TEXT = st.text(max_size=300) | st.text("a \r\n\t\x00:\x85\u2028é😀\ud800", max_size=60)
_FIELDS = {"Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date", "Final-Log-ID"}


@settings(max_examples=150, deadline=None)
@given(
    said=_TEXT, title=_TEXT, envid=_TEXT, orcpt=_TEXT, mta=_TEXT, content=st.binary(max_size=300), full=st.booleans()
)
def test_whatever_others_wrote_the_dsn_has_its_own_lines_alone(
    said: str, title: str, envid: str, orcpt: str, mta: str, content: bytes, full: bool
) -> None:
    group = mail(recipient(BOB, orcpt=orcpt), envid=envid, subject=title, ret="FULL" if full else "")
    made = report(group, Settled(0, "failed", Reply(550, "5.1.1", said, mta, "192.0.2.1", NOW)), content=content)
    octets = content_of(made)
    assert octets.count(b"\n") == octets.count(b"\r") == octets.count(b"\r\n")
    assert b"\0" not in octets
    assert max(map(len, octets.split(b"\r\n"))) <= dsn.MAX_LINE
    assert octets.isascii()
    whole = email.message_from_bytes(octets)
    assert [part.get_content_type() for part in whole.get_payload()][:2] == ["text/plain", "message/delivery-status"]
    assert len(whole.get_payload()) == 3
    _, one = (block for block in whole.get_payload()[1].get_payload() if block.keys())
    assert set(one.keys()) - {"Original-Recipient", "Remote-MTA"} == _FIELDS - {"Remote-MTA"}


# -- SMTPUTF8, RFC 6533


def utf8_parts(made: Mail) -> tuple[Message, list[bytes]]:
    """The whole, and each part's octets (header and body), since the parser knows no message/global-delivery-status."""
    whole = email.message_from_bytes(content_of(made))
    boundary = whole.get_boundary()
    assert boundary is not None
    sections = content_of(made).split(f"\r\n--{boundary}".encode())
    assert sections[-1] == b"--\r\n"
    return whole, [section.removeprefix(b"\r\n") for section in sections[1:-1]]


def test_a_sender_with_utf8_address_gets_a_global_status_in_utf8() -> None:
    group = mail(
        recipient("jörg@x.org", orcpt="utf-8;jörg@x.org"),
        sender="grüße@bücher.example",
        smtputf8=True,
    )
    made = report(group, Settled(0, "failed", NO_USER), content="Subject: Grüße\r\n\r\nx\r\n".encode())
    assert made.smtputf8
    assert made.eight_bit
    assert made.recipients == (Recipient("grüße@bücher.example", "xn--bcher-kva.example", ("NEVER",)),)
    whole, (_, status, returned) = utf8_parts(made)
    assert whole.get_param("report-type") == "global-delivery-status"
    assert status.startswith(b"Content-Type: message/global-delivery-status\r\n")
    assert b"Content-Transfer-Encoding: 8bit" in status
    assert "\r\nOriginal-Recipient: utf-8; jörg@x.org\r\nFinal-Recipient: utf-8; jörg@x.org\r\n".encode() in status
    assert returned.startswith(b"Content-Type: message/global-headers\r\n")
    assert "Subject: Grüße\r\n".encode() in returned
    assert "To: <grüße@bücher.example>\r\n".encode() in content_of(made)


def test_a_sender_with_ascii_address_can_be_told_by_hosts_without_smtputf8() -> None:
    group = mail(recipient("jörg@x.org"), smtputf8=True, ret="FULL")
    content = "Subject: Grüße\r\n\r\nx\r\n".encode()
    made = report(group, Settled(0, "failed", NO_USER), content=content)
    assert not made.smtputf8
    assert not made.eight_bit
    assert content_of(made).isascii()
    whole, (_, status, returned) = utf8_parts(made)
    assert whole.get_param("report-type") == "global-delivery-status"
    head, _, body = status.partition(b"\r\n\r\n")
    assert b"Content-Transfer-Encoding: quoted-printable" in head
    assert "Final-Recipient: utf-8; jörg@x.org\r\n".encode() in quopri.decodestring(body)
    head, _, body = returned.partition(b"\r\n\r\n")
    assert head.startswith(b"Content-Type: message/global\r\n")
    assert quopri.decodestring(body).startswith(content)
    subject = str(email.message_from_bytes(content_of(made), policy=email.policy.default)["Subject"])
    assert subject == "Not delivered: your message to jörg@x.org"


def test_a_remote_that_answers_in_utf8_is_quoted_in_ascii_to_who_speaks_ascii() -> None:
    made = report(mail(), Settled(0, "failed", Reply(550, "5.1.1", "kein Postfach für Sie", "mx.x.org")))
    _, text, (_, one), _ = parts(made)
    assert one["Diagnostic-Code"] == "smtp; 550 5.1.1 kein Postfach f\\x{FC}r Sie"
    assert "kein Postfach für Sie" in text
    assert content_of(made).isascii()
