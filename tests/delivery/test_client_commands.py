"""Commands, replies and dot-stuffing: pure, octet by octet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.delivery.transport_lab import CONTENT, job
from waypost_delivery.client_commands import dot_stuffed, envelope, xtext
from waypost_delivery.client_replies import Answer, GarbageError, ReplyParser, printable, throttles, to_reply
from waypost_queue.model import Recipient, Reply

ALL = {"size": "26214400", "8bitmime": "", "smtputf8": "", "dsn": "", "pipelining": ""}


def lines(job, offered=ALL):
    made = envelope(job.mail, job.recipients, list(job.recipients), job.content, offered, "mx.remote.test")
    return made.mail.decode().rstrip(), [line.decode().rstrip() for line in made.rcpts.values()], made.refused


def test_every_parameter_that_is_offered_is_passed_on():
    recipient = Recipient(
        address="to@remote.test",
        domain="remote.test",
        notify=("SUCCESS", "FAILURE"),
        orcpt="rfc822;first+last=x@remote.test",
    )
    mail, (rcpt,), refused = lines(
        job(recipients=(recipient,), content=b"A: \xc3\xa9\r\n\r\n", ret="HDRS", envid="QQ+314=15", smtputf8=True)
    )
    assert mail == "MAIL FROM:<a@shop.test> SIZE=9 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B314+3D15"
    expected = "RCPT TO:<to@remote.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first+2Blast+3Dx@remote.test"
    assert rcpt == expected
    assert refused == {}


def test_what_is_not_offered_is_left_out():
    recipient = Recipient(address="to@remote.test", domain="remote.test", notify=("NEVER",), orcpt="rfc822;x@y")
    assert lines(job(recipients=(recipient,), ret="FULL", envid="x"), {})[:2] == (
        "MAIL FROM:<a@shop.test>",
        ["RCPT TO:<to@remote.test>"],
    )


def test_a_mail_larger_than_the_next_hop_takes_is_refused_before_it_is_sent():
    _, rcpts, refused = lines(job(), {"size": "10"})
    assert not rcpts
    assert (refused[0].result, refused[0].reply.enhanced) == ("failed", "5.3.4")
    assert lines(job(), {"size": "0"})[1]  # RFC 1870 4: 0 = no fixed limit
    assert lines(job(), {"size": ""})[1]


def test_8_bit_content_is_refused_where_it_could_not_arrive_as_it_is():
    eight = job(content=CONTENT + b"\xe9\r\n")
    assert lines(eight, {})[2][0].reply.enhanced == "5.6.3"
    assert " BODY=8BITMIME" in lines(eight, {"8bitmime": ""})[0]


def test_addresses_that_need_smtputf8_are_refused_without_it_one_by_one():
    mail, rcpts, refused = lines(job("jörg@remote.test", "to@remote.test"), {})
    assert rcpts == ["RCPT TO:<to@remote.test>"]
    assert (refused[0].result, refused[0].reply.enhanced) == ("failed", "5.6.7")
    assert lines(job(sender="jörg@shop.test"), {})[2][0].reply.enhanced == "5.6.7"
    assert lines(job("jörg@remote.test"))[0].endswith(" SMTPUTF8")
    assert mail == "MAIL FROM:<a@shop.test>"


def test_an_internationalised_domain_goes_on_in_a_labels():
    mail, rcpts, _ = lines(job("to@bücher.test", sender="a@bücher.test"), {})
    assert (mail, rcpts) == ("MAIL FROM:<a@xn--bcher-kva.test>", ["RCPT TO:<to@xn--bcher-kva.test>"])


def test_a_header_in_utf_8_is_refused_without_smtputf8_and_a_mail_that_did_not_need_it_goes_on():
    header = job(content="Subject: é\r\n\r\n".encode(), smtputf8=True)
    assert lines(header, {"8bitmime": ""})[2][0].reply.enhanced == "5.6.9"
    assert lines(job(smtputf8=True), {})[0] == "MAIL FROM:<a@shop.test>"


@pytest.mark.parametrize("hostile", ["a\r\nRCPT TO:<x@y>", "a\nb", "a\x00b", "a\u2028b", "a\x85b"])
def test_no_address_makes_a_new_command(hostile):
    _, rcpts, refused = lines(job(f"{hostile}@remote.test", "to@remote.test"))
    assert rcpts == ["RCPT TO:<to@remote.test>"]
    assert refused[0].result == "failed"
    assert lines(job(sender=f"{hostile}@shop.test"))[1] == []


def test_a_utf_8_original_recipient_is_encoded_for_any_next_hop():
    recipient = Recipient(address="to@remote.test", domain="remote.test", orcpt="utf-8;jö+rg@remote.test")
    assert lines(job(recipients=(recipient,)))[1][0].endswith(r"ORCPT=utf-8;j\x{F6}\x{2B}rg@remote.test")


@given(st.text())
def test_xtext_can_be_read_back_and_holds_nothing_that_ends_a_parameter(text):
    encoded = xtext(text)
    assert not set(encoded) & set(" =\r\n")
    assert encoded.isascii()
    out = bytearray()
    rest = encoded
    while rest:
        if rest[0] == "+":
            out.append(int(rest[1:3], 16))
            rest = rest[3:]
        else:
            out.append(ord(rest[0]))
            rest = rest[1:]
    assert out.decode() == text


@given(st.lists(st.sampled_from([b".", b"\r\n", b"\n", b"\r", b"a", b"\r\n.", b"\xff", b"\x00"])).map(b"".join))
def test_dot_stuffing_is_undone_by_a_reader_that_knows_crlf_alone(content):
    sent = dot_stuffed(content) + b".\r\n"
    received = []
    for line in sent.split(b"\r\n"):
        if line == b".":
            break
        received.append(line[1:] if line.startswith(b".") else line)
    whole = b"\r\n".join(received) + (b"\r\n" if received else b"")
    assert whole == (content if content.endswith(b"\r\n") or not content else content + b"\r\n")


def answer_of(data: bytes) -> Answer | None:
    return ReplyParser().feed(bytearray(data))


def test_a_reply_of_several_lines_is_one_answer_and_keeps_one_enhanced_code():
    answer = answer_of(b"550-5.7.1 Blocked\r\n550-5.7.1\r\n550 5.7.1 see https://x\r\n")
    reply = to_reply(answer, mta="mx", address="192.0.2.1", at=1.0)
    assert (reply.code, reply.enhanced, reply.text) == (550, "5.7.1", "Blocked see https://x")


def test_an_enhanced_code_of_another_class_is_text():
    assert to_reply(answer_of(b"450 5.1.1 odd\r\n"), mta="", address="", at=0).enhanced == ""
    assert to_reply(answer_of(b"250 2.0.0\r\n"), mta="", address="", at=0).enhanced == "2.0.0"


def test_a_bare_code_and_a_bare_lf_are_a_reply():
    assert answer_of(b"250\r\n") == Answer(250, ("",))
    assert answer_of(b"250 ok\n") == Answer(250, ("ok",))
    assert answer_of(b"250-a\r\n250") is None


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad\r\n", b"\r\n", b"25\r\n", b"150 x\r\n", b"250-a\r\n251 b\r\n", b"250x\r\n", b"2" * 5000]
)
def test_what_is_no_reply_is_garbage(data):
    with pytest.raises(GarbageError):
        answer_of(data)


def test_an_endless_reply_is_garbage_long_before_it_fills_the_memory():
    parser, buffer = ReplyParser(), bytearray()
    line = b"250-" + b"x" * 1000 + b"\r\n"
    for _ in range(32):
        buffer += line
        assert parser.feed(buffer) is None
    buffer += line
    with pytest.raises(GarbageError):
        parser.feed(buffer)


@given(st.binary(max_size=200))
def test_a_remote_s_text_is_one_printable_line(data):
    text = printable(data.decode("utf-8", "replace"))
    assert len(text.splitlines()) <= 1
    assert not set(text) & {chr(c) for c in range(32)}


@pytest.mark.parametrize(
    ("code", "enhanced", "expected"),
    [(421, "", True), (450, "4.7.650", True), (451, "4.7.0", True), (450, "4.2.2", False), (451, "", False)],
)
def test_a_reply_that_asks_for_less_is_known(code, enhanced, expected):
    assert throttles(Reply(code=code, enhanced=enhanced)) is expected
