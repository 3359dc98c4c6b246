"""Lines that are prepended, and that nothing else of a mail changes."""

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_policy import trace
from waypost_policy.headers import Headers, scan

NOW = 1767225600.5  # 2026-01-01 00:00:00 UTC
ID = "01kdt2m5g0abcdefghjkmnpqrs0"


def scanned(content: bytes) -> Headers:
    found = scan(content)
    assert isinstance(found, Headers)
    return found


def test_received_says_who_sent_how_and_when():
    start = trace.received_start(
        helo="client.example",
        peer="192.0.2.7",
        by="mx.example.net",
        esmtp=True,
        tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
        authenticated=True,
    )
    assert trace.received(start, ID, NOW, "a@b.example") == (
        b"Received: from client.example ([192.0.2.7])\r\n"
        b"\t(version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384)\r\n"
        b"\tby mx.example.net (Waypost) with ESMTPSA id 01kdt2m5g0abcdefghjkmnpqrs0\r\n"
        b"\tfor <a@b.example>;\r\n"
        b"\tThu, 01 Jan 2026 00:00:00 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("facts", "keyword"),
    [
        ({"esmtp": False}, "SMTP"),
        ({"esmtp": True}, "ESMTP"),
        ({"esmtp": True, "tls": True}, "ESMTPS"),
        ({"esmtp": True, "authenticated": True}, "ESMTPA"),
        ({"esmtp": True, "tls": True, "authenticated": True}, "ESMTPSA"),
        ({"esmtp": True, "smtputf8": True}, "UTF8SMTP"),
        ({"esmtp": True, "tls": True, "authenticated": True, "smtputf8": True}, "UTF8SMTPSA"),
    ],
)
def test_the_protocol_has_its_registered_keyword(facts, keyword):
    assert trace.transmission(**{"tls": False, "authenticated": False, "smtputf8": False, **facts}) == keyword


def test_an_ipv6_peer_is_an_address_literal():
    start = trace.received_start(helo="[IPv6:2001:db8::1]", peer="2001:db8::1", by="mx", esmtp=True)
    assert b"from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])" in start


@given(st.text(max_size=300), st.text(max_size=80))
def test_no_greeting_or_recipient_makes_a_line_of_its_own(helo, recipient):
    start = trace.received_start(helo=helo, peer="192.0.2.7", by="mx", esmtp=True)
    line = trace.received(start, ID, NOW, recipient)
    assert line.count(b"\n") == line.count(b"\r\n") == line.count(b"\r")
    unfolded = line.replace(b"\r\n\t", b" ")
    assert unfolded.count(b"\r\n") == 1
    assert all(0x20 <= octet < 0x7F for octet in unfolded[:-2])
    assert all(len(part) <= 998 for part in line.split(b"\r\n"))


def test_submission_gets_the_message_id_and_date_that_it_lacks():
    content = b"From: a@b.example\r\n\r\nx\r\n"
    whole = trace.assemble(
        content, scanned(content), b"Received: x\r\n", mail_id=ID, host="h", now=NOW, submission=True
    )
    assert whole == (
        b"Received: x\r\nMessage-ID: <01kdt2m5g0abcdefghjkmnpqrs0@h>\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
        + content
    )


def test_what_is_there_is_not_added_and_relayed_mail_gets_nothing():
    content = b"Message-ID: broken\r\nDate: x\r\nFrom: a@b.example\r\n\r\nx\r\n"
    for submission in (True, False):
        assert trace.assemble(
            content, scanned(content), b"R: x\r\n", mail_id=ID, host="h", now=NOW, submission=submission
        ) == (b"R: x\r\n" + content)
    bare = b"From: a@b.example\r\n\r\nx\r\n"
    assert trace.assemble(bare, scanned(bare), b"", mail_id=ID, host="h", now=NOW, submission=False) == bare


def test_a_body_without_header_is_kept_out_of_ours():
    content = b"From the start: no header\r\nFrom: ceo@victim.example\r\n"
    whole = trace.assemble(content, scanned(content), b"R: x\r\n", mail_id=ID, host="h", now=NOW, submission=False)
    assert whole == b"R: x\r\n\r\n" + content
    empty = b"\r\nbody\r\n"
    assert trace.assemble(empty, scanned(empty), b"R: x\r\n", mail_id=ID, host="h", now=NOW, submission=False) == (
        b"R: x\r\n" + empty
    )


def test_return_path_is_left_out_and_nothing_else():
    content = b"Return-Path: <a@b>\r\nA: 1\r\nReturn-Path:\r\n <c@d>\r\nB: 2\r\n\r\nReturn-Path: x\r\n"
    whole = trace.assemble(content, scanned(content), b"", mail_id=ID, host="h", now=NOW, submission=False)
    assert whole == b"A: 1\r\nB: 2\r\n\r\nReturn-Path: x\r\n"


@given(st.floats(min_value=0, max_value=4102444800))
def test_a_date_reads_back_as_the_time(now):
    assert email.utils.parsedate_to_datetime(trace.date(now)).timestamp() == int(now)
