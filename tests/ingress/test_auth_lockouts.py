"""Guessing is slowed down and locked out, without an oracle, and without locking out those who know the password."""

from waypost_ingress.auth import LockoutRules, Lockouts

NOW = 1000.0
HERE, THERE = "192.0.2.1", "192.0.2.2"


def fail(lockouts: Lockouts, times: int, address: str = HERE, user: str = "app", now: float = NOW) -> float:
    """The lock that the last attempt met."""
    left = 0.0
    for _ in range(times):
        left = lockouts.begin(address, user, now)
    return left


def test_the_third_failure_is_the_first_that_waits_and_each_waits_longer():
    lockouts = Lockouts()
    delays = []
    for _ in range(8):
        assert lockouts.begin(HERE, "app", NOW) == 0
        delays.append(lockouts.delay(HERE, "app", NOW))
    assert delays == [0, 0, 1, 2, 4, 8, 8, 8]


def test_an_address_is_locked_whatever_users_it_tries():
    lockouts = Lockouts(LockoutRules(per_address=5))
    for number in range(5):
        assert lockouts.begin(HERE, f"user{number}", NOW) == 0
    assert lockouts.begin(HERE, "another", NOW) == 300
    assert lockouts.begin(THERE, "another", NOW) == 0
    assert lockouts.begin(HERE, "another", NOW + 300) == 0


def test_a_user_is_locked_wherever_the_attempts_come_from():
    lockouts = Lockouts(LockoutRules(per_user=5))
    for number in range(5):
        assert lockouts.begin(f"192.0.2.{number}", "app", NOW) == 0
    assert lockouts.begin("198.51.100.1", "app", NOW) > 0
    assert lockouts.begin("198.51.100.1", "other", NOW) == 0


def test_an_ipv6_network_counts_as_one_and_a_mapped_address_as_its_ipv4():
    lockouts = Lockouts(LockoutRules(per_address=2))
    fail(lockouts, 1, "2001:db8::1", "a")
    fail(lockouts, 1, "2001:db8::2", "b")
    assert lockouts.begin("2001:db8::3", "c", NOW) > 0
    assert lockouts.begin("2001:db8:0:1::3", "c", NOW) == 0
    fail(lockouts, 1, "::ffff:192.0.2.9", "d")
    fail(lockouts, 1, "192.0.2.9", "e")
    assert lockouts.begin("192.0.2.9", "f", NOW) > 0


def test_who_knows_the_password_is_not_locked_out_by_others():
    lockouts = Lockouts(LockoutRules(per_address=5, per_user=5, per_pair=3))
    assert lockouts.begin(HERE, "app", NOW) == 0
    lockouts.succeeded(HERE, "app", NOW)
    fail(lockouts, 6, HERE, "other")  # a neighbour with a wrong Secret behind the same address
    fail(lockouts, 6, THERE, "app")  # somebody who guesses
    assert lockouts.begin(HERE, "other", NOW) > 0
    assert lockouts.begin(THERE, "app", NOW) > 0
    assert lockouts.begin(HERE, "app", NOW) == 0
    lockouts.succeeded(HERE, "app", NOW)
    assert fail(lockouts, 4) > 0  # its own failures count


def test_success_does_not_wash_an_address_clean():
    lockouts = Lockouts(LockoutRules(per_address=6))
    for _ in range(5):
        fail(lockouts, 1, HERE, "victim")
        assert lockouts.begin(HERE, "mine", NOW) == 0
        lockouts.succeeded(HERE, "mine", NOW)
    fail(lockouts, 1, HERE, "victim")
    assert lockouts.begin(HERE, "another", NOW) > 0


def test_attempts_side_by_side_count_before_they_are_decided():
    lockouts = Lockouts(LockoutRules(per_pair=3))
    assert [lockouts.begin(HERE, "app", NOW) > 0 for _ in range(5)] == [False, False, False, True, True]


def test_an_attempt_that_could_not_be_decided_does_not_count():
    lockouts = Lockouts(LockoutRules(per_pair=3))
    for _ in range(10):
        assert lockouts.begin(HERE, "app", NOW) == 0
        lockouts.withdraw(HERE, "app", NOW)
    assert fail(lockouts, 3) == 0
    lockouts.withdraw(HERE, "app", NOW)  # the last of them, which had locked
    assert lockouts.begin(HERE, "app", NOW) == 0


def test_failures_of_long_ago_are_forgotten():
    lockouts = Lockouts(LockoutRules(per_pair=3))
    fail(lockouts, 2)
    assert fail(lockouts, 2, now=NOW + 601) == 0
    assert lockouts.delay(HERE, "app", NOW + 601) == 0


def test_stale_tokens_are_slowed_down_and_lock_nobody():
    lockouts = Lockouts()
    assert fail(lockouts, 500, user="") == 0
    assert lockouts.delay(HERE, "", NOW) == 8
    assert lockouts.begin(HERE, "app", NOW) == 0
    assert lockouts.delay(HERE, "app", NOW) == 0
    lockouts.succeeded(HERE, "", NOW)
    assert lockouts.begin(HERE, "", NOW) == 0
    assert lockouts.delay(HERE, "", NOW) == 0


def test_memory_is_bounded():
    lockouts = Lockouts(capacity=100)
    for number in range(1000):
        lockouts.begin(f"10.0.{number // 256}.{number % 256}", f"user{number}", NOW)
        lockouts.succeeded(f"10.0.{number // 256}.{number % 256}", f"user{number}", NOW)
    tables = (lockouts._addresses, lockouts._users, lockouts._pairs, lockouts._known)
    assert all(len(table) <= 100 for table in tables)
