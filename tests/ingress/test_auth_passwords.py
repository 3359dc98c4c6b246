"""Passwords: Argon2id and scrypt hashes, verified in threads, remembered briefly, bounded."""

import asyncio
import base64
import hashlib
import threading

import argon2
import pytest

from waypost_ingress.auth import passwords
from waypost_ingress.auth.passwords import NOBODY, BusyError, HashError, PasswordChecker, like, verify

ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")


def scrypt(password: str, ln: int = 4) -> str:
    salt = b"0123456789abcdef"
    digest = hashlib.scrypt(password.encode(), salt=salt, n=1 << ln, r=8, p=1, dklen=32)
    salt64, digest64 = (base64.b64encode(part).decode().rstrip("=") for part in (salt, digest))
    return f"$scrypt$ln={ln},r=8,p=1${salt64}${digest64}"


@pytest.fixture
def checker():
    checker = PasswordChecker(threads=2, ttl=60, clock=lambda: checker_time[0])
    yield checker
    checker.close()


checker_time = [0.0]


@pytest.mark.parametrize("encoded", [ARGON2, scrypt("secret")], ids=["argon2id", "scrypt"])
def test_the_right_password_and_no_other_is_right(encoded):
    assert verify(encoded, "secret")
    assert not verify(encoded, "Secret")
    assert not verify(encoded, "secret ")
    assert not verify(like(encoded), "secret")


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "secret",
        "$2b$12$abcdefghijklmnopqrstuv",
        "$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAA",
        "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ",
        "$argon2id$v=19$m=9999999,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=40,r=8,p=1$c2FsdA$AAAA",
        "$scrypt$ln=4,r=0,p=1$c2FsdA$AAAA",
        "$scrypt$ln=0,r=8,p=1$c2FsdA$AAAA",
        "$scrypt$ln=4,r=8,p=1$c2FsdA$A",
    ],
)
def test_a_hash_that_is_none_or_is_too_dear_is_an_error(encoded):
    with pytest.raises(HashError):
        verify(encoded, "secret")


def test_the_hash_of_nobody_is_a_real_one_that_no_password_fits():
    assert not verify(NOBODY, "secret")
    assert like(NOBODY).rpartition("$")[0] == NOBODY.rpartition("$")[0]
    assert like(NOBODY) != like(NOBODY)


async def test_a_right_password_is_remembered_for_a_while_and_a_wrong_one_is_not(checker, monkeypatch):
    calls = []
    monkeypatch.setattr(passwords, "verify", lambda *claim: calls.append(claim) or claim[1] == "secret")
    checker_time[0] = 0.0
    for _ in range(3):
        assert await checker.check("app", ARGON2, "secret")
        assert not await checker.check("app", ARGON2, "wrong")
    assert len(calls) == 4
    checker_time[0] = 61.0
    assert await checker.check("app", ARGON2, "secret")
    assert len(calls) == 5


async def test_a_changed_hash_is_verified_again(checker):
    assert await checker.check("app", ARGON2, "secret")
    assert not await checker.check("app", scrypt("new"), "secret")
    assert not await checker.check("app", like(ARGON2), "secret")


async def test_equal_claims_together_cost_one_verification_and_too_many_others_none(monkeypatch):
    go = threading.Event()
    calls = []

    def slow(_encoded: str, password: str) -> bool:
        calls.append(password)
        assert go.wait(10)
        return True

    monkeypatch.setattr(passwords, "verify", slow)
    checker = PasswordChecker(threads=1, waiting=3)
    try:
        together = [asyncio.create_task(checker.check("app", ARGON2, "same")) for _ in range(20)]
        others = [asyncio.create_task(checker.check("app", ARGON2, f"other{n}")) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await checker.check("app", ARGON2, "one too many")
        together[0].cancel()  # a client that leaves takes nobody else's answer away
        go.set()
        assert all(await asyncio.gather(*together[1:], *others))
        assert sorted(calls) == ["other0", "other1", "same"]
    finally:
        go.set()
        checker.close()


async def test_what_is_remembered_is_bounded_and_holds_no_password(monkeypatch):
    monkeypatch.setattr(passwords, "verify", lambda *_claim: True)
    checker = PasswordChecker(threads=1, remembered=5)
    try:
        for number in range(20):
            assert await checker.check("app", ARGON2, f"secret{number}")
        assert len(checker._right) == 5
        assert all(b"secret" not in digest for digest in checker._right)
    finally:
        checker.close()


async def test_an_unreadable_hash_is_an_error_for_its_claim_alone(checker):
    with pytest.raises(HashError):
        await checker.check("app", "nonsense", "secret")
    assert await checker.check("app", ARGON2, "secret")
