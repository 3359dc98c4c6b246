"""SASL dialogues: what each mechanism's exchange yields, and what malformed responses are told."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_ingress.auth import (
    MECHANISMS,
    Challenge,
    Exchange,
    Malformed,
    PasswordClaim,
    TokenClaim,
    failure_challenge,
)


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize(
    ("mechanism", "response", "claim"),
    [
        ("PLAIN", "\0app@example.com\0secret", PasswordClaim("app@example.com", "secret", "PLAIN")),
        ("PLAIN", "app@example.com\0App@example.com\0se cret", PasswordClaim("App@example.com", "se cret", "PLAIN")),
        ("OAUTHBEARER", "n,,\x01auth=Bearer abc.def-_~+/=\x01\x01", TokenClaim("abc.def-_~+/=", "OAUTHBEARER")),
        ("OAUTHBEARER", "n,a=x,\x01host=h\x01port=587\x01auth=bearer t\x01\x01", TokenClaim("t", "OAUTHBEARER")),
        ("XOAUTH2", "user=x\x01auth=Bearer t\x01\x01", TokenClaim("t", "XOAUTH2")),
    ],
)
def test_one_response_makes_a_claim_at_once_or_when_asked(mechanism, response, claim, initial):
    exchange = Exchange(mechanism)
    if not initial:
        assert exchange.step(None) == Challenge(b"334 \r\n")
    assert exchange.step(b64(response)) == claim


def test_login_asks_for_the_user_name_and_then_for_the_password():
    exchange = Exchange("LOGIN")
    assert exchange.step(None) == Challenge(b"334 VXNlcm5hbWU6\r\n")
    assert exchange.step(b64("app@example.com")) == Challenge(b"334 UGFzc3dvcmQ6\r\n")
    assert exchange.step(b64("secret")) == PasswordClaim("app@example.com", "secret", "LOGIN")


def test_login_may_come_with_the_user_name():
    exchange = Exchange("LOGIN")
    assert exchange.step(b64("app@example.com")) == Challenge(b"334 UGFzc3dvcmQ6\r\n")
    assert exchange.step(b64("secret")) == PasswordClaim("app@example.com", "secret", "LOGIN")


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b"not base64"),
        ("PLAIN", b"AGFwcA"),
        ("PLAIN", b"="),
        ("PLAIN", b""),
        ("PLAIN", base64.b64encode(b"\0app\0\xff")),
        ("PLAIN", b64("app\0secret")),
        ("PLAIN", b64("\0app\0sec\0ret")),
        ("PLAIN", b64("\0app\0")),
        ("PLAIN", b64("\0\0secret")),
        ("PLAIN", b64("ceo\0app\0secret")),
        ("PLAIN", b64("\0a\r\nb\0secret")),
        ("PLAIN", b64("\0" + "a" * 321 + "\0secret")),
        ("LOGIN", b64("")),
        ("LOGIN", b64("a\0b")),
        ("OAUTHBEARER", b64("auth=Bearer t")),
        ("OAUTHBEARER", b64("n,,\x01auth=Basic t\x01\x01")),
        ("OAUTHBEARER", b64("n,,\x01auth=Bearer t\x01auth=Bearer u\x01\x01")),
        ("OAUTHBEARER", b64("p=tls-unique,,\x01auth=Bearer t\x01\x01")),
        ("OAUTHBEARER", b64("n,,\x01auth=Bearer t")),
        ("XOAUTH2", b64("user=x\x01auth=Bearer t\x01")),
        ("XOAUTH2", b64("auth=Bearer t\x01\x01")),
    ],
)
def test_a_malformed_response_is_told_what_would_be_right(mechanism, response):
    step = Exchange(mechanism).step(response)
    assert isinstance(step, Malformed)
    assert (step.answer.code, step.answer.enhanced) == (501, "5.5.2")
    assert mechanism in step.answer.text


def test_a_refused_token_client_is_told_the_status_first():
    challenge = failure_challenge(TokenClaim("t", "OAUTHBEARER"))
    assert challenge is not None
    assert b'"status":"invalid_token"' in base64.b64decode(challenge.line.split()[1])
    assert failure_challenge(TokenClaim("t", "XOAUTH2")) is not None
    assert failure_challenge(PasswordClaim("a", "b")) is None


def test_no_secret_shows_in_a_repr():
    assert "secret" not in repr(PasswordClaim("app", "secret"))
    assert "secret" not in repr(TokenClaim("secret", "XOAUTH2"))


@given(st.sampled_from(MECHANISMS), st.lists(st.binary(max_size=60) | st.binary(max_size=60).map(base64.b64encode)))
def test_any_responses_end_in_a_claim_or_a_refusal(mechanism, responses):
    exchange = Exchange(mechanism)
    for response in responses:
        step = exchange.step(response)
        if isinstance(step, Malformed):
            assert step.answer.code == 501
            return
        if not isinstance(step, Challenge):
            assert step.mechanism == mechanism
            return
