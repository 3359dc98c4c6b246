"""EHLO says what there is, and each extension does what its RFC says."""

import time

import pytest

from tests.ingress.lab import Lab

BODY = b"From: app@example.test\r\n\r\nx\r\n"


async def test_ehlo_lists_what_each_listener_offers(lab: Lab) -> None:
    offered = {}
    for listener in ("mx", "submission", "submissions"):
        client = await lab.connect(listener)
        lines = (await client.hello()).split("\n")
        assert lines[0] == "250-mx.lab.test"
        assert all(line[:4] == "250-" for line in lines[:-1])
        offered[listener] = {line[4:].split(" ")[0] for line in lines[1:]}
    common = {
        "PIPELINING",
        "SIZE",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "DSN",
        "CHUNKING",
        "MT-PRIORITY",
        "LIMITS",
    }
    assert offered["mx"] == common | {"STARTTLS"}
    assert offered["submission"] == common | {"STARTTLS", "FUTURERELEASE"}
    assert offered["submissions"] == common | {"AUTH", "FUTURERELEASE"}


async def test_helo_is_told_of_no_extension(lab: Lab) -> None:
    client = await lab.connect()
    await client.reply()
    assert await client.say("HELO client.test") == "250 mx.lab.test"
    await client.transaction()
    assert (await client.data(BODY)).startswith("250 ")
    await client.say("EHLO client.test")
    await client.transaction()
    assert (await client.data(BODY)).startswith("250 ")
    first, second = await lab.mails()
    assert b"with SMTP id" in (first.content or b"")
    assert b"with ESMTP id" in (second.content or b"")


async def test_dsn_parameters_keep_their_case_and_come_decoded(lab: Lab) -> None:
    client = await lab.hello()
    assert (await client.say("MAIL FROM:<app@example.test> RET=hdrs ENVID=Job+2B7-aB")).startswith("250 ")
    assert (await client.say("RCPT TO:<a@far.test> NOTIFY=delay,FAILURE ORCPT=rfc822;Some+2Bone@Far.test")).startswith(
        "250 "
    )
    assert (await client.say("RCPT TO:<b@far.test> NOTIFY=NEVER")).startswith("250 ")
    assert (await client.data(BODY)).startswith("250 ")
    [mail] = await lab.mails()
    assert (mail.ret, mail.envid) == ("HDRS", "Job+7-aB")
    assert mail.recipients[0].notify == ("FAILURE", "DELAY")
    assert mail.recipients[0].orcpt == "rfc822;Some+one@Far.test"
    assert mail.recipients[1].notify == ("NEVER",)


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ("RET=SOME", "501"),
        ("ENVID=" + "x" * 101, "501"),
        ("ENVID=a+0D+0ABcc:evil", "501"),
        ("ENVID=a+zz", "501"),
        ("SIZE=12x", "501"),
        ("SIZE", "501"),
        ("SIZE=-1", "501"),
        ("SIZE=1 SIZE=2", "501"),
        ("BODY=BINARYMIME", "501"),
        ("SMTPUTF8=yes", "501"),
        ("MT-PRIORITY=10", "501"),
        ("MT-PRIORITY=+1", "501"),
        ("REQUIRETLS", "555"),
        ("HOLDFOR=10", "555"),
        ("XFOO=1", "555"),
        ("AUTH=a=b", "501"),
        ("AUTH=<>", "250"),
        ("BODY=7bit", "250"),
        ("body=8bitmime size=100", "250"),
    ],
)
async def test_a_parameter_of_mail_is_taken_or_refused_with_what_would_be_right(
    lab: Lab, parameters: str, code: str
) -> None:
    client = await lab.hello()
    assert (await client.say(f"MAIL FROM:<app@example.test> {parameters}"))[:3] == code


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ("NOTIFY=NEVER,DELAY", "501"),
        ("NOTIFY=SOMETIMES", "501"),
        ("NOTIFY=", "501"),
        ("ORCPT=a@b", "501"),
        ("ORCPT=rfc822;a+0D+0Ab", "501"),
        ("ORCPT=rfc822;" + "x" * 500, "501"),
        ("ORCPT=utf-8;us\\x{E4}r@far.test", "250"),
        ("ORCPT=utf-8;\\x{2028}@far.test", "501"),
        ("ORCPT=utf-8;\\x{FFFFFF}@far.test", "501"),
        ("FOO", "555"),
    ],
)
async def test_a_parameter_of_rcpt_is_taken_or_refused_with_what_would_be_right(
    lab: Lab, parameters: str, code: str
) -> None:
    client = await lab.hello()
    await client.say("MAIL FROM:<app@example.test>")
    assert (await client.say(f"RCPT TO:<a@far.test> {parameters}"))[:3] == code


async def test_utf8_addresses_need_smtputf8(lab: Lab) -> None:
    client = await lab.hello()
    assert (await client.say("MAIL FROM:<ünï@example.test>")).startswith("553 5.6.7 ")
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("250 ")
    assert (await client.say("RCPT TO:<jürgen@far.test>")).startswith("553 5.6.7 ")
    await client.say("RSET")
    assert (await client.say("MAIL FROM:<ünï@example.test> SMTPUTF8 BODY=8BITMIME")).startswith("250 ")
    assert (await client.say("RCPT TO:<jürgen@bücher.test>")).startswith("250 ")
    assert (await client.data("From: ünï@example.test\r\n\r\nü\r\n".encode())).startswith("250 ")
    [mail] = await lab.mails()
    assert mail.smtputf8
    assert mail.eight_bit
    assert mail.recipients[0].address.startswith("jürgen@")
    assert mail.recipients[0].domain == "xn--bcher-kva.test"
    assert b"with UTF8SMTP id" in (mail.content or b"")


async def test_eight_bit_content_is_noticed_without_being_declared(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    assert (await client.data(BODY + "ü\r\n".encode())).startswith("250 ")
    [mail] = await lab.mails()
    assert mail.eight_bit


@pytest.mark.parametrize(("parameter", "seconds"), [("HOLDFOR=3600", 3600), ("HOLDUNTIL={}", 7200)])
async def test_future_release_holds_until_its_time(lab: Lab, parameter: str, seconds: int) -> None:
    client = await lab.hello("submission")
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 7200))
    assert (await client.say(f"MAIL FROM:<app@example.test> {parameter.format(stamp)}")).startswith("250 ")
    await client.say("RCPT TO:<a@far.test>")
    assert (await client.data(BODY)).startswith("250 ")
    [mail] = await lab.mails()
    assert abs(mail.not_before - now - seconds) < 10


@pytest.mark.parametrize(
    "parameter",
    [
        "HOLDFOR=0",
        "HOLDFOR=9999999",
        "HOLDUNTIL=tomorrow",
        "HOLDUNTIL=2999-01-01T00:00:00Z",
        "HOLDFOR=1 HOLDUNTIL=2030-01-01T00:00:00Z",
    ],
)
async def test_a_release_that_is_too_far_or_no_time_is_refused(lab: Lab, parameter: str) -> None:
    client = await lab.hello("submission")
    assert (await client.say(f"MAIL FROM:<app@example.test> {parameter}")).startswith("501 5.5.4 ")


async def test_priority_is_for_the_authenticated_and_chooses_the_lane(lab: Lab) -> None:
    client = await lab.hello("mx")
    assert (await client.say("MAIL FROM:<app@example.test> MT-PRIORITY=5")).startswith("250 2.3.6 ")
    await client.say("RCPT TO:<a@far.test>")
    assert (await client.data(BODY)).startswith("250 ")
    client = await lab.connect("submissions")
    await client.hello()
    assert (await client.say("AUTH PLAIN AGFwcEBleGFtcGxlLnRlc3QAY29ycmVjdCBob3JzZQ==")).startswith("235 ")
    assert (await client.say("MAIL FROM:<app@example.test> MT-PRIORITY=5")).startswith("250 2.1.0 ")
    await client.say("RCPT TO:<a@far.test>")
    assert (await client.data(BODY)).startswith("250 ")
    assert [mail.priority for mail in await lab.mails()] == [0, 5]
    assert await lab.lanes() == ["fast", "prio"]


async def test_help_vrfy_expn_noop_say_what_they_can(lab: Lab) -> None:
    client = await lab.hello()
    assert (await client.say("HELP")).startswith("214 ")
    assert "BDAT octets [LAST]" in await client.say("HELP bdat")
    assert (await client.say("VRFY someone")).startswith("252 ")
    assert (await client.say("VRFY")).startswith("501 ")
    assert (await client.say("EXPN list")).startswith("502 ")
    assert (await client.say("noop ignored")).startswith("250 ")
    assert (await client.say("TURN")).startswith("500 ")
