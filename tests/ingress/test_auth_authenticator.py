"""From claim to identity: who gets in, that nobody learns who exists, and that no secret reaches the log."""

import argon2
import pytest
import structlog

from waypost_ingress.auth import (
    Authenticator,
    LockoutRules,
    Lockouts,
    PasswordChecker,
    PasswordClaim,
    TokenClaim,
    passwords,
)
from waypost_ingress.auth.tokens import TokenError, TokensUnavailableError
from waypost_policy.identity import Identity, service_account
from waypost_policy.index import ConfigIndex
from waypost_policy.replies import Answer
from waypost_queue.config import CredentialConfig, DomainConfig, Sender, Snapshot, Subject

HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HERE = "192.0.2.1"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


class FixedTokens:
    """Knows the tokens that it is given."""

    def __init__(self, answers: dict[str, Identity | Exception]) -> None:
        self._answers = answers

    async def verify(self, token: str) -> Identity:
        answer = self._answers.get(token, TokenError("unknown"))
        if isinstance(answer, Exception):
            raise answer
        return answer


def make_index(encoded: str) -> ConfigIndex:
    senders = (
        Sender(
            name="app",
            subjects=(Subject(kind="Secret", name="smtp"), Subject(kind="ServiceAccount", name="web")),
            addresses=("*@example.com",),
        ),
    )
    domain = DomainConfig(domain="example.com", namespace="shop", senders=senders)
    credential = CredentialConfig(
        username="app@example.com", domain="example.com", namespace="shop", secret="smtp", hash=encoded
    )
    return ConfigIndex(
        Snapshot(domains={"example.com": domain}, credentials={"app@example.com": credential}),
    )


@pytest.fixture
def log():
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
def index():
    return [make_index(HASHER.hash("secret"))]


@pytest.fixture
def authenticator(index):
    tokens = FixedTokens(
        {
            TOKEN: service_account("shop", "web"),
            TOKEN + "x": service_account("shop", "stranger"),
            TOKEN + "y": TokensUnavailableError("no key set"),
        }
    )
    lockouts = Lockouts(LockoutRules(per_address=50, per_user=5, per_pair=5, delay=0.02, max_delay=0.04))
    one = Authenticator(
        lambda: index[0], passwords=PasswordChecker(threads=1), tokens=tokens, lockouts=lockouts, clock=lambda: 1000.0
    )
    yield one
    one.close()


async def test_the_right_password_is_the_secret_it_came_from(authenticator, log):
    for name in ("app@example.com", "App@Example.com"):
        identity = await authenticator.authenticate(PasswordClaim(name, "secret"), HERE)
        assert identity == Identity("Secret", "app@example.com", "shop", "smtp")
    assert log == []


async def test_a_token_is_taken_in_every_mechanism(authenticator):
    for claim in (
        TokenClaim(TOKEN, "OAUTHBEARER"),
        TokenClaim(TOKEN, "XOAUTH2"),
        PasswordClaim("shop/web", TOKEN),
        PasswordClaim("anything", TOKEN, "LOGIN"),
    ):
        assert await authenticator.authenticate(claim, HERE) == service_account("shop", "web")


async def refused(authenticator: Authenticator, claim: PasswordClaim | TokenClaim, address: str = HERE) -> Answer:
    answer = await authenticator.authenticate(claim, address)
    assert isinstance(answer, Answer)
    return answer


async def test_all_that_are_wrong_get_the_same_reply_and_the_log_says_why(authenticator, log):
    answers = {
        await refused(authenticator, PasswordClaim("app@example.com", "wrong")),
        await refused(authenticator, PasswordClaim("nobody@example.com", "secret"), "192.0.2.2"),
        await refused(authenticator, TokenClaim("garbage", "OAUTHBEARER"), "192.0.2.3"),
        await refused(authenticator, TokenClaim(TOKEN + "x", "OAUTHBEARER"), "192.0.2.4"),
    }
    assert [(answer.code, answer.enhanced) for answer in answers] == [(535, "5.7.8")]
    assert [entry["reason"] for entry in log] == [
        "the password is wrong",
        "there is no such user",
        "unknown",
        "shop/stranger is no sender of any MailDomain",
    ]
    assert all(entry["event"] == "auth.refused" for entry in log)


async def test_no_secret_reaches_the_log(authenticator, log):
    await authenticator.authenticate(PasswordClaim("app@example.com", "hunter2"), HERE)
    await authenticator.authenticate(TokenClaim(TOKEN + "z", "XOAUTH2"), HERE)
    await authenticator.authenticate(PasswordClaim("a\x1b[2J", TOKEN + "z"), HERE)
    assert len(log) == 3
    assert all(secret not in str(log) for secret in ("hunter2", "eyJ", "\x1b"))


async def test_an_unknown_user_costs_as_much_as_a_wrong_password(authenticator, index, monkeypatch):
    checked = []
    real = passwords.verify
    monkeypatch.setattr(passwords, "verify", lambda *claim: checked.append(claim[0]) or real(*claim))
    await authenticator.authenticate(PasswordClaim("app@example.com", "wrong"), HERE)
    await authenticator.authenticate(PasswordClaim("nobody@example.com", "wrong"), HERE)
    known, unknown = checked
    assert known.split("$")[:4] == unknown.split("$")[:4]  # algorithm, version and cost
    assert known != unknown


async def test_known_and_unknown_users_are_locked_alike(authenticator):
    for user in ("app@example.com", "nobody@example.com"):
        codes = [(await refused(authenticator, PasswordClaim(user, f"guess{n}"))).code for n in range(7)]
        assert codes == [535] * 5 + [454] * 2


async def test_a_locked_user_is_told_when_to_come_back_and_the_right_password_does_not_help(authenticator):
    for number in range(5):
        await refused(authenticator, PasswordClaim("app@example.com", f"guess{number}"))
    answer = await refused(authenticator, PasswordClaim("app@example.com", "secret"))
    assert (answer.code, answer.enhanced) == (454, "4.7.0")
    assert "try again in 300 s" in answer.text


async def test_the_third_failure_is_kept_back(authenticator, monkeypatch):
    waited = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("waypost_ingress.auth.authenticator.asyncio.sleep", note)
    for number in range(4):
        await refused(authenticator, PasswordClaim("app@example.com", f"guess{number}"))
    assert waited == [0.02, 0.04]


async def test_what_can_not_be_checked_is_temporary_and_counts_for_nothing(authenticator, index, log):
    for _ in range(10):
        answer = await refused(authenticator, TokenClaim(TOKEN + "y", "OAUTHBEARER"))
        assert (answer.code, answer.enhanced) == (454, "4.7.0")
    index[0] = make_index("not a hash")
    for _ in range(10):
        answer = await refused(authenticator, PasswordClaim("app@example.com", "secret"))
        assert (answer.code, answer.name) == (454, "auth_unavailable")
    index[0] = make_index(HASHER.hash("secret"))
    assert isinstance(await authenticator.authenticate(PasswordClaim("app@example.com", "secret"), HERE), Identity)
    assert {entry["event"] for entry in log} == {"auth.unavailable"}


async def test_more_logins_than_can_be_verified_are_told_to_come_back(index):
    one = Authenticator(lambda: index[0], passwords=PasswordChecker(threads=1, waiting=0))
    try:
        answer = await refused(one, PasswordClaim("app@example.com", "secret"))
        assert answer.name == "auth_unavailable"
    finally:
        one.close()


async def test_a_password_that_was_changed_counts_at_once(authenticator, index):
    assert isinstance(await authenticator.authenticate(PasswordClaim("app@example.com", "secret"), HERE), Identity)
    index[0] = make_index(HASHER.hash("new"))
    assert (await refused(authenticator, PasswordClaim("app@example.com", "secret"))).code == 535
    assert isinstance(await authenticator.authenticate(PasswordClaim("app@example.com", "new"), HERE), Identity)


async def test_tokens_are_verified_by_the_configurations_key_set_by_default(index):
    one = Authenticator(lambda: index[0])
    try:
        answer = await one.authenticate(TokenClaim(TOKEN, "OAUTHBEARER"), HERE)
        assert isinstance(answer, Answer)
        assert answer.name == "auth_unavailable"  # the configuration has none
    finally:
        one.close()
