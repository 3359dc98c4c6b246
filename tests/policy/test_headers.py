"""The header scan: what it finds in odd headers, what it refuses, and that no author escapes it."""

import email
import email.policy
import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_policy.headers import MAX_HEADER, Headers, scan
from waypost_policy.replies import Answer

MAIL = b"From: App <app@example.com>\r\nTo: x@y.example\r\nSubject: Hello\r\n\r\nBody\r\n"


def headers(content: bytes) -> Headers:
    found = scan(content)
    assert isinstance(found, Headers), found
    return found


def refusal(content: bytes) -> Answer:
    found = scan(content)
    assert isinstance(found, Answer), found
    return found


def authors(value: bytes) -> list[str]:
    return [address.text for address in headers(b"From:" + value + b"\r\n\r\n").from_]


def test_what_a_plain_mail_says_is_found():
    found = headers(
        b"Received: from a\r\n\tby b; date\r\nReceived: from c\r\nReturn-Path: <x@y>\r\n"
        b"MESSAGE-ID: <1@example.com>\r\nDate: today\r\nsubject: Hello\r\n there\r\n"
        b"From: app@example.com\r\n\r\nFrom: body\r\n"
    )
    assert [address.text for address in found.from_] == ["app@example.com"]
    assert found.received == 2
    assert found.message_id == "<1@example.com>"
    assert found.has_message_id
    assert found.has_date
    assert found.subject == "Hello there"
    assert not found.needs_separator
    assert len(found.return_paths) == 1


def test_return_path_spans_cover_the_whole_field():
    content = b"A: 1\r\nReturn-Path: <x@y>\r\n folded\r\nB: 2\r\nreturn-path :<z@y>\r\n\r\nReturn-Path: body\r\n"
    left = content
    for start, stop in reversed(headers(content).return_paths):
        left = left[:start] + left[stop:]
    assert left == b"A: 1\r\nB: 2\r\n\r\nReturn-Path: body\r\n"


def test_what_only_resembles_a_return_path_stays():
    assert headers(b"A: 1\r\n\x80Return-Path: <a@b>\r\nX-Return-Path: <a@b>\r\n\r\n").return_paths == ()


def test_a_return_path_at_the_very_start_or_end_is_spanned():
    assert headers(b"Return-Path: <a@b>\r\nA: 1\r\n\r\n").return_paths == ((0, 20),)
    assert headers(b"A: 1\r\nReturn-Path: <a@b>").return_paths == ((6, 24),)


@pytest.mark.parametrize(
    ("content", "needs_separator"),
    [
        (b"", False),
        (b"\r\nbody\r\n", False),
        (b"Just text.\r\nFrom: ceo@victim.example\r\n\r\n", True),
        (b" From: ceo@victim.example\r\n\r\n", True),
        (b"\x0bFrom: ceo@victim.example\r\n\r\n", True),
        (b"From app@example.com Mon Jan 1 10:00:00 2026\r\nFrom: app@example.com\r\n\r\n", True),
    ],
)
def test_a_mail_without_a_header_is_all_body(content, needs_separator):
    found = headers(content)
    assert found.end == 0
    assert found.from_ == ()
    assert found.needs_separator is needs_separator


@pytest.mark.parametrize(
    "second",
    [
        b"From: ceo@victim.example",
        b"from:ceo@victim.example",
        b"FROM : ceo@victim.example",
        b"From\t: ceo@victim.example",
        b"\x01From: ceo@victim.example",
        b"From\x1f: ceo@victim.example",
        b"\xa0From: ceo@victim.example",
        b"\xef\xbb\xbfFrom: ceo@victim.example",
        b"From\xc2\xa0: ceo@victim.example",
        b"From\r\n : ceo@victim.example",
        b"From \r\n\t\r\n : ceo@victim.example",
        b"no field at all\r\nFrom: ceo@victim.example",
        b"X: y\r\n \r\nFrom: ceo@victim.example",
    ],
)
def test_a_second_from_is_refused_however_it_is_disguised(second):
    assert refusal(b"From: app@example.com\r\n" + second + b"\r\n\r\n").name == "many_from"
    assert refusal(b"Subject: x\r\n" + second + b"\r\nFrom: app@example.com\r\n\r\n").name == "many_from"


def test_without_a_from_the_sender_is_who_a_reader_shows():
    found = headers(b"Sender: ceo@victim.example\r\nSubject: x\r\n\r\n")
    assert [address.text for address in found.from_] == ["ceo@victim.example"]
    found = headers(b"Sender: app@example.com\r\nX: y\r\nsender : CEO <ceo@victim.example>\r\n\r\n")
    assert [address.text for address in found.from_] == ["app@example.com", "ceo@victim.example"]
    found = headers(b"Sender: list@other.example\r\nFrom: app@example.com\r\n\r\n")
    assert [address.text for address in found.from_] == ["app@example.com"]
    assert refusal(b"Sender: nobody in particular\r\n\r\n").name == "bad_from"


def test_a_from_in_a_folded_line_or_the_body_is_no_second_one():
    found = headers(b"Subject: x\r\n From: ceo@victim.example\r\nFrom: app@example.com\r\n\r\nFrom: z@y.example\r\n")
    assert [address.text for address in found.from_] == ["app@example.com"]


@pytest.mark.parametrize(
    ("octet", "name"),
    [(b"\x00", "NUL"), (b"\x0b", "vertical tab"), (b"\x0c", "form feed"), (b"\r", "bare CR"), (b"\n", "bare CR or LF")],
)
def test_octets_that_some_take_for_a_line_end_are_refused(octet, name):
    for place in (b"Subject: a" + octet + b"Bcc: x@y.example\r\n", b"X" + octet + b": a\r\n"):
        answer = refusal(b"From: app@example.com\r\n" + place + b"\r\n")
        assert answer.name == "hostile_header"
        assert name in answer.text


def test_octets_of_old_mail_pass_unharmed():
    for odd in (b"\x1b$B$3\x1b(B", b"caf\xe9", b"\xc2\x85", b"\xe2\x80\xa8", b"x" * 990):
        assert headers(b"From: app@example.com\r\nSubject: " + odd + b"\r\n\r\n").from_


def test_a_subject_is_printable_and_short():
    found = headers(b"From: a@b.example\r\nSubject: \x1b[2Jred\xc2\x85" + b"x" * 900 + b"\r\n\r\n")
    assert found.subject.isprintable()
    assert len(found.subject) == 200


def test_a_huge_header_is_refused_and_a_huge_body_is_not():
    field = b"X: " + b"x" * 95 + b"\r\n"
    whole = field * (MAX_HEADER // len(field))
    assert headers(whole + b"\r\n" + b"body\r\n" * 100000).end == len(whole)
    answer = refusal(whole + field + b"\r\n")
    assert (answer.code, answer.enhanced) == (552, "5.3.4")
    assert refusal(field * 20000).name == "header_too_big"


AUTHORS = [
    (b" app@example.com", ["app@example.com"]),
    (b"app@example.com", ["app@example.com"]),
    (b" <app@example.com>", ["app@example.com"]),
    (b" App <app@example.com>", ["app@example.com"]),
    (b' "App, the" <app@example.com> ', ["app@example.com"]),
    (b' "ceo@victim.example" <app@example.com>', ["app@example.com"]),
    (b' "\\"ceo@victim.example\\" <x>" <app@example.com>', ["app@example.com"]),
    (b" =?utf-8?q?ceo=40victim.example?= <app@example.com>", ["app@example.com"]),
    (b" (ceo@victim.example) app@example.com", ["app@example.com"]),
    (b" app@example.com (ceo@victim.example (nested \\) )) ", ["app@example.com"]),
    (b" John Q. Public <app@example.com>", ["app@example.com"]),
    (b" J\xc3\xbcrgen <app@example.com>", ["app@example.com"]),
    (b" J\xfcrgen <app@example.com>", ["app@example.com"]),
    (b" App\r\n <app@example.com>", ["app@example.com"]),
    (b"\r\n app@example.com", ["app@example.com"]),
    (b" < app@example.com >", ["app@example.com"]),
    (b" a@example.com, B <b@example.net>", ["a@example.com", "b@example.net"]),
    (b" app@example.com <app@example.com>", ["app@example.com", "app@example.com"]),
    (b" ceo@victim.example <app@example.com>", ["ceo@victim.example", "app@example.com"]),
    (b' "john doe"@example.com', ['"john doe"@example.com']),
    (b" <app@[192.0.2.1]>", ["app@[192.0.2.1]"]),
    (b" j\xc3\xbcrgen@example.com", ["j\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen@example.com"]),
]


@pytest.mark.parametrize(("value", "expected"), AUTHORS)
def test_every_address_that_a_reader_could_see_is_found(value, expected):
    assert authors(value) == expected


UNREADABLE = [
    b"",
    b"  ",
    b" undisclosed-recipients:;",
    b" Team: a@example.com, b@example.com;",
    b" Re: App <app@example.com>",
    b" <ceo@victim.example> <app@example.com>",
    b" <app@example.com> ceo@victim.example",
    b" <app@example.com> App",
    b" App <app@example.com",
    b" App app@example.com>",
    b" >app@example.com<",
    b" <<app@example.com>>",
    b" App",
    b" <App>",
    b" <>",
    b" a@example.com,",
    b" a@example.com,,b@example.com",
    b" a@example.com b@example.com",
    b" <@route.example:app@example.com>",
    b" app(comment)@example.com",
    b" <app@example.com(comment)>",
    b" app @example.com",
    b" app@ example.com",
    b" app@example.com@victim.example",
    b" app%victim.example@example.com",
    b' "ceo@victim.example"@example.com',
    b" =?utf-8?q?ceo?=@example.com",
    b" <=?utf-8?q?ceo=40victim?=@example.com>",
    b' "App <app@example.com>',
    b" (App app@example.com",
    b" App) app@example.com",
    b" App \\<app@example.com>",
    b" [App] <app@example.com>",
    b" a..b@example.com",
    b" j\xfcrgen@example.com",
    b" app@ex\xffample.com",
    b" app@example.com\xef\xbb\xbf",
    b" a\xe2\x80\xa8b@example.com",
    b" a\xc2\x85b@example.com",
    b" app@example.com." + b"x" * 300,
    b", ".join(b"a@example.com" for _ in range(33)),
]


@pytest.mark.parametrize("value", UNREADABLE)
def test_what_is_not_plainly_a_mailbox_list_is_refused_with_the_reason(value):
    answer = refusal(b"From:" + value + b"\r\n\r\n")
    assert answer.name == "bad_from"
    assert answer.text.endswith("right would be From: Name <local@domain>")
    assert len(answer.line) <= 512


PIECES = (
    *(b"From", b"from:", b"Subject: ", b"Message-ID: <a@b>", b"Received: x", b"Return-Path: <>", b"A: b"),
    *(b"\r\n", b"\r\n ", b"\r\n\r\n", b"\r", b"\n", b"\x00", b"\x0b", b"\x85", b"\xe2\x80\xa8", b"\xff", b" ", b"\t"),
    *(
        b"app@example.com",
        b"ceo@victim.example",
        b"=?utf-8?q?a?=",
        b"<",
        b">",
        b'"',
        b"(",
        b")",
        b"\\",
        b",",
        b";",
        b"@",
    ),
)
hostile = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=30).map(b"".join)


@given(hostile)
def test_any_octets_are_scanned_or_refused_and_spans_stay_inside(content):
    for mail in (content, b"From: " + content, b"Subject: x\r\n" + content + b"\r\n\r\n"):
        found = scan(mail)
        if isinstance(found, Answer):
            assert found.line.endswith(b"\r\n")
            assert len(found.line) <= 512
            continue
        assert 0 <= found.end <= len(mail)
        last = 0
        for start, stop in found.return_paths:
            assert last <= start < stop <= found.end
            assert mail[start:stop].lower().startswith(b"return-path")
            last = stop
        assert found.subject.isprintable()


@given(hostile)
def test_who_the_standard_library_shows_as_author_was_found(value):
    """An independent reader sees no address in From that the scan did not report."""
    mail = b"From: " + value + b"\r\n\r\nbody\r\n"
    found = scan(mail)
    if isinstance(found, Answer) or not value.isascii():
        return
    shown = email.message_from_bytes(mail[: found.end] + b"\r\n", policy=email.policy.compat32)
    assert len(shown.get_all("From") or []) == 1
    addresses = [address for _, address in email.utils.getaddresses([str(shown["From"])]) if "@" in address]
    reported = {address.domain for address in found.from_}
    assert {address.rpartition("@")[2].strip().lower() for address in addresses} <= reported
