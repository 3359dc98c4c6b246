"""Envelope addresses: what is taken, as what, and what is refused with which reply."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_policy.addresses import (
    MAX_LOCAL,
    MAX_PATH,
    NULL_PATH,
    Address,
    AddressError,
    canonical_domain,
    parse_address,
    parse_forward_path,
    parse_reverse_path,
)
from waypost_policy.replies import Answer

ACCEPTED = [
    # argument, text, local, domain, utf8, parameters
    ("<app@example.com>", "app@example.com", "app", "example.com", False, ""),
    (" <app@example.com>", "app@example.com", "app", "example.com", False, ""),
    (
        "<App@EXAMPLE.Com> SIZE=10 BODY=8BITMIME",
        "App@EXAMPLE.Com",
        "App",
        "example.com",
        False,
        "SIZE=10 BODY=8BITMIME",
    ),
    ("<a.b+c=d@x>", "a.b+c=d@x", "a.b+c=d", "x", False, ""),
    ("<a@_dmarc.example.com>", "a@_dmarc.example.com", "a", "_dmarc.example.com", False, ""),
    ("<a@b2>", "a@b2", "a", "b2", False, ""),
    ("<@one.example,@two.example:a@b.example>", "a@b.example", "a", "b.example", False, ""),
    ('<"john doe"@b.example>', '"john doe"@b.example', "john doe", "b.example", False, ""),
    ('<"app"@b.example> RET=HDRS', '"app"@b.example', "app", "b.example", False, "RET=HDRS"),
    ('<"a>b"@c.example> X=1', '"a>b"@c.example', "a>b", "c.example", False, "X=1"),
    ('<"a\\"b"@c.example>', '"a\\"b"@c.example', 'a"b', "c.example", False, ""),
    ("<a@[192.0.2.1]>", "a@[192.0.2.1]", "a", "[192.0.2.1]", False, ""),
    ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", "a", "[IPv6:2001:db8::1]", False, ""),
    ("<josé@example.com>", "josé@example.com", "josé", "example.com", True, ""),
    ("<a@bücher.example>", "a@bücher.example", "a", "xn--bcher-kva.example", True, ""),
    ("<a@BÜCHER.example>", "a@BÜCHER.example", "a", "xn--bcher-kva.example", True, ""),
    ("<用户@例子.例>", "用户@例子.例", "用户", "xn--fsqu00a.xn--fsq", True, ""),
]


@pytest.mark.parametrize(("argument", "text", "local", "domain", "utf8", "parameters"), ACCEPTED)
def test_an_address_is_taken_apart(argument, text, local, domain, utf8, parameters):
    expected = (Address(text, local, domain, utf8), parameters)
    assert parse_reverse_path(argument) == expected
    assert parse_forward_path(argument) == expected


REFUSED = [
    # argument, reply's name, part of its text
    ("a@b.example", "syntax", "angle brackets"),
    ("<a@b.example", "syntax", "closing angle bracket"),
    ("<a@b.example>SIZE=1", "syntax", "space must separate"),
    ("<a..b@c.example>", "syntax", "joined by dots"),
    ("<.a@c.example>", "syntax", "joined by dots"),
    ("<a.@c.example>", "syntax", "joined by dots"),
    ("<a b@c.example>", "syntax", "joined by dots"),
    ("<@c.example>", "syntax", "source route"),
    ("<a@>", "syntax", "domain must be labels"),
    ("<a@-b.example>", "syntax", "domain must be labels"),
    ("<a@b..example>", "syntax", "domain must be labels"),
    ("<a@b.example.>", "syntax", "domain must be labels"),
    ("<a@b example>", "syntax", "domain must be labels"),
    ("<a>", "syntax", "no @"),
    ("<a@192.0.2.1>", "syntax", "needs brackets"),
    ("<a@[192.0.2.300]>", "syntax", "address literal"),
    ("<a@[IPv6:::1%eth0]>", "syntax", "address literal"),
    ("<a@[tag:data]>", "syntax", "address literal"),
    ("<a@[192.0.2.1>", "syntax", "address literal"),
    (f"<{'a' * 65}@b.example>", "syntax", "longer than 64"),
    (f"<{'a' * 400}@b.example>", "syntax", "longer than 254"),
    (f"<a@{'.'.join(['b' * 60] * 5)}>", "syntax", "longer than 254"),
    (f"<a@{'b' * 64}.example>", "syntax", "domain must be labels"),
    ('<"a@b.example>', "syntax", "not closed"),
    ('<"a"b@c.example>', "syntax", "@ must follow"),
    ('<""@c.example>', "syntax", "empty"),
    ("<a\x00b@c.example>", "syntax", "joined by dots"),
    ("<a\rb@c.example>", "syntax", "joined by dots"),
    ('<"a\r\nRCPT TO:<x@y>"@c.example>', "syntax", "control"),
    ("<a\u2028b@c.example>", "syntax", "control or invisible"),
    ("<a\x85b@c.example>", "syntax", "control or invisible"),
    ("<a\u202eb@c.example>", "syntax", "control or invisible"),
    ("<a\udcffb@c.example>", "syntax", "control or invisible"),
    ("<a@\udcff.example>", "syntax", "invisible"),
    ("<a@\u2028.example>", "syntax", "invisible"),
    ("<a@example.com\ufeff>", "syntax", "invisible"),
    ("<a@exam\u00adple.com>", "syntax", "invisible"),
    ("<a@\u0378.example>", "syntax", "invisible"),
    ("<a@-\u00fc.example>", "syntax", "internationalised"),
    ("<a%b.example@c.example>", "routed_address", "routes"),
    ("<b.example!a@c.example>", "routed_address", "routes"),
    ("<a@b.example@c.example>", "routed_address", "routes"),
    ('<"a@b.example"@c.example>', "routed_address", "routes"),
    ('<"a%b"@c.example>', "routed_address", "routes"),
]


@pytest.mark.parametrize(("argument", "name", "text"), REFUSED)
def test_an_address_is_refused_with_what_would_be_right(argument, name, text):
    for parse, syntax in ((parse_reverse_path, "bad_sender_syntax"), (parse_forward_path, "bad_recipient_syntax")):
        answer = parse(argument)
        assert isinstance(answer, Answer)
        assert answer.name == (syntax if name == "syntax" else name)
        assert text in answer.text
        assert answer.line.endswith(b"\r\n")
        assert answer.line.count(b"\n") == 1


def test_the_null_path_is_a_sender_and_no_recipient():
    assert parse_reverse_path("<> SIZE=1") == (NULL_PATH, "SIZE=1")
    refused = parse_forward_path("<>")
    assert isinstance(refused, Answer)
    assert refused.code == 501


def test_postmaster_without_a_domain_is_told_where_to_write():
    refused = parse_forward_path("<PostMaster>")
    assert isinstance(refused, Answer)
    assert (refused.code, refused.enhanced) == (550, "5.1.1")


@given(st.text(max_size=400))
def test_any_text_is_an_address_or_a_refusal(text):
    for argument in (text, f"<{text}>", f"<{text}@example.com>", f"<a@{text}>", f'<"{text}"@example.com>'):
        parsed = parse_forward_path(argument)
        if isinstance(parsed, Answer):
            assert 500 <= parsed.code < 600
            continue
        address, _ = parsed
        assert address.text.isprintable()
        assert len(address.text.encode()) <= MAX_PATH - 2
        assert address.domain.isascii()
        assert address.utf8 is not address.text.isascii()
        assert not set("%!@") & set(address.local)
        assert parse_address(address.text) == address  # what was accepted is accepted again, as the same


@given(
    st.text(string.ascii_letters + string.digits + "#$&'*+/=?^_`{|}~-", min_size=1, max_size=MAX_LOCAL),
    st.lists(st.text(string.ascii_letters + string.digits, min_size=1, max_size=20), min_size=1, max_size=4),
)
def test_every_plain_address_is_taken_alike_fast_and_slow(local, labels):
    domain = ".".join([*labels, "example"])
    fast = parse_reverse_path(f"<{local}@{domain}>")
    slow = parse_reverse_path(f"<@route.example:{local}@{domain}>")
    assert fast == slow == (Address(f"{local}@{domain}", local, domain.lower()), "")


def test_a_domain_is_canonical_whatever_its_case():
    assert canonical_domain("XN--BCHER-KVA.Example") == "xn--bcher-kva.example"
    with pytest.raises(AddressError, match="internationalised"):
        canonical_domain("a\u3002\u3002b")
