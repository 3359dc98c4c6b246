"""ServiceAccount tokens: taken only from the issuer, for this audience, in time, and signed as Kubernetes signs."""

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from waypost_ingress.auth.tokens import (
    JwksVerifier,
    TokenError,
    TokensUnavailableError,
    looks_like_token,
)
from waypost_policy.identity import service_account

NOW = 1767225600.0
ISSUER = "https://issuer.example"
KEY = rsa.generate_private_key(65537, 2048)
STRANGER = rsa.generate_private_key(65537, 2048)


def jwks(*keys: tuple[str, Any], **more: str) -> str:
    entries = [{**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more} for kid, key in keys]
    return json.dumps({"keys": entries})


KEYS = jwks(("one", KEY), use="sig", alg="RS256")


def claims(**more: Any) -> dict[str, Any]:
    account = {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "1"}, "pod": {"name": "web-0", "uid": "2"}}
    whole = {
        "iss": ISSUER,
        "aud": ["waypost"],
        "sub": "system:serviceaccount:shop:web",
        "exp": NOW + 3600,
        "nbf": NOW,
        "iat": NOW,
        "kubernetes.io": account,
        **more,
    }
    return {name: value for name, value in whole.items() if value is not None}


def sign(body: dict[str, Any], key: Any = KEY, algorithm: str = "RS256", **headers: str) -> str:
    return jwt.encode(body, key, algorithm, headers={"kid": "one", **headers})


def verifier(keys: str = KEYS, issuer: str = ISSUER, now: float = NOW) -> JwksVerifier:
    return JwksVerifier(lambda: (keys, issuer), clock=lambda: now)


async def test_a_token_is_its_service_account():
    assert await verifier().verify(sign(claims())) == service_account("shop", "web")
    assert await verifier().verify(sign(claims(aud="waypost", nbf=None))) == service_account("shop", "web")
    assert await verifier(issuer="").verify(sign(claims(iss="any"))) == service_account("shop", "web")


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": ["https://kubernetes.default.svc"]},
        {"aud": None},
        {"aud": []},
        {"iss": "https://other.example"},
        {"iss": None},
        {"sub": None},
        {"sub": "system:serviceaccount:shop:other"},
        {"sub": "system:serviceaccount:other:web"},
        {"exp": NOW - 11},
        {"exp": None},
        {"exp": "tomorrow"},
        {"nbf": NOW + 11},
        {"kubernetes.io": None},
        {"kubernetes.io": "shop/web"},
        {"kubernetes.io": {"namespace": "shop"}},
        {"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": 7}}},
    ],
)
async def test_a_claim_that_is_not_right_makes_it_worthless(changed):
    with pytest.raises(TokenError):
        await verifier().verify(sign(claims(**changed)))


async def test_only_the_key_sets_keys_sign_and_only_by_rs256():
    for token in (
        sign(claims(), STRANGER),
        sign(claims(), kid="two"),
        sign(claims(), algorithm="RS512"),
        sign(claims(), algorithm="PS256"),
        jwt.encode(claims(), None, "none", headers={"kid": "one"}),
        jwt.encode(claims(), "a secret that is long enough for HS256", "HS256", headers={"kid": "one"}),
        jwt.encode(claims(), KEY, "RS256"),  # without a key id
        sign(claims())[:-3] + "abc",
        "eyJ.eyJ.x",
        "",
        "a.b.c",
    ):
        with pytest.raises(TokenError):
            await verifier().verify(token)


async def test_a_public_key_is_no_shared_secret():
    """The old confusion: HS256 keyed by the public key, which everybody has."""
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=")
    token = jwt.encode(claims(), "x" * 32, "HS256", headers={"kid": "one"})
    with pytest.raises(TokenError):
        await verifier().verify(header.decode() + token[token.index(".") :])


async def test_a_new_key_set_is_used_at_once():
    current = [KEYS]
    changing = JwksVerifier(lambda: (current[0], ISSUER), clock=lambda: NOW)
    await changing.verify(sign(claims()))
    current[0] = jwks(("two", STRANGER))
    with pytest.raises(TokenError):
        await changing.verify(sign(claims()))
    await changing.verify(sign(claims(), STRANGER, kid="two"))


@pytest.mark.parametrize(
    "keys",
    [
        "",
        "not json",
        "[]",
        '{"keys": 7}',
        '{"keys": ["x"]}',
        '{"keys": []}',
        '{"keys": [{"kty": "RSA", "kid": "one"}]}',
        jwks(("one", rsa.generate_private_key(65537, 1024))),
        json.dumps({"keys": [{"kty": "oct", "kid": "one", "k": "AAAA"}]}),
    ],
)
async def test_without_a_key_nothing_can_be_said(keys):
    with pytest.raises(TokensUnavailableError):
        await verifier(keys).verify(sign(claims()))


async def test_clocks_may_differ_by_ten_seconds():
    await verifier().verify(sign(claims(exp=NOW - 9)))
    await verifier().verify(sign(claims(nbf=NOW + 9)))


def test_a_password_that_is_a_token_is_recognised():
    assert looks_like_token(sign(claims()))
    assert not looks_like_token("eyJust a password")
    assert not looks_like_token("secret")
