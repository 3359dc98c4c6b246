"""Tokens of a laptop look like a cluster's."""

import json
import stat
from pathlib import Path

import jwt
import pytest

from waypost_config import devtoken

KEY = devtoken.new_key()


def decoded(token: str) -> dict[str, object]:
    """As ingress does it: the key by its id out of the JWKS."""
    keys = jwt.PyJWKSet.from_json(devtoken.jwks(KEY))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(token, key, algorithms=["RS256"], audience="waypost", issuer=devtoken.ISSUER)


def test_a_token_carries_the_claims_of_a_service_account_and_the_jwks_verifies_it() -> None:
    claims = decoded(devtoken.mint(KEY, "shop", "web", 60.0))
    assert claims["sub"] == "system:serviceaccount:shop:web"
    assert claims["aud"] == ["waypost"]
    account = claims["kubernetes.io"]
    assert isinstance(account, dict)
    assert account["namespace"] == "shop"
    assert account["serviceaccount"]["name"] == "web"


def test_a_token_expires() -> None:
    with pytest.raises(jwt.ExpiredSignatureError):
        decoded(devtoken.mint(KEY, "shop", "web", 60.0, now=1000.0))


def test_a_token_of_another_key_does_not_pass() -> None:
    token = devtoken.mint(devtoken.new_key(), "shop", "web")
    with pytest.raises(KeyError):
        decoded(token)


def test_the_jwks_holds_no_private_part() -> None:
    (key,) = json.loads(devtoken.jwks(KEY))["keys"]
    assert sorted(key) == ["alg", "e", "kid", "kty", "n", "use"]


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = devtoken.key_path(tmp_path)
    first = devtoken.load_or_create(path)
    assert devtoken.load_or_create(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_no_key_is_said(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("no key")
    with pytest.raises(devtoken.DevTokenError, match="no PEM private key"):
        devtoken.load_or_create(path)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("1h", 3600.0), ("1h30m", 5400.0)])
def test_life_times_are_durations(text: str, seconds: float) -> None:
    assert devtoken.parse_ttl(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "1d", "25h", "-1h"])
def test_other_life_times_are_refused(text: str) -> None:
    with pytest.raises(devtoken.DevTokenError):
        devtoken.parse_ttl(text)
