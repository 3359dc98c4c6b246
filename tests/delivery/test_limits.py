"""Rest, rate, concurrency and backlog of a site: time is an argument."""

import pytest

from waypost_delivery.limits import Backlog, Breaker, Bucket, Window


def failing(breaker, now, times):
    return [breaker.failed(now) for _ in range(times)]


def test_five_failures_in_a_row_are_a_rest_and_a_success_between_is_none():
    breaker = Breaker()
    assert failing(breaker, 0.0, 4) == [False] * 4
    breaker.succeeded()
    assert failing(breaker, 0.0, 5) == [False] * 4 + [True]
    assert not breaker.admit(1.0)


def test_after_a_rest_one_attempt_goes_ahead_and_decides_for_all():
    breaker = Breaker()
    failing(breaker, 0.0, 5)
    after = breaker.resting_until
    assert breaker.admit(after)
    assert not breaker.admit(after)
    breaker.succeeded()
    assert breaker.admit(after)
    assert breaker.admit(after)


def test_rests_double_up_to_ten_minutes():
    breaker = Breaker()
    failing(breaker, 0.0, 5)
    rests = [breaker.resting_until]
    for _ in range(9):
        now = breaker.resting_until
        assert breaker.admit(now)
        assert breaker.failed(now)
        rests.append(breaker.resting_until - now)
    expected = [15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 600.0, 600.0]
    assert rests == pytest.approx(expected, rel=0.11)


def test_a_probe_that_learns_nothing_leaves_it_to_the_next():
    breaker = Breaker()
    failing(breaker, 0.0, 5)
    after = breaker.resting_until
    assert breaker.admit(after)
    breaker.gave_up()
    assert breaker.admit(after)


def test_failures_from_before_a_rest_do_not_lengthen_it():
    breaker = Breaker()
    failing(breaker, 0.0, 5)
    until = breaker.resting_until
    assert failing(breaker, 1.0, 10) == [False] * 10
    assert breaker.resting_until == until


def test_a_bucket_gives_its_rate_and_ten_seconds_of_it_at_once():
    bucket = Bucket(rate=2.0)
    taken = sum(bucket.take(100.0) for _ in range(100))
    assert taken == 20
    assert sum(bucket.take(100.0 + second) for second in range(1, 11) for _ in range(10)) == 20


def test_connections_halve_on_a_throttling_burst_once_and_grow_again():
    window = Window()
    window.bad(0.0, 20)
    window.bad(0.5, 20)
    assert window.capacity(20) == 5
    window.bad(1.5, 20)
    assert window.capacity(20) == 2
    for _ in range(10):
        window.bad(10.0 + _, 20)
    assert window.capacity(20) == 1
    for _ in range(1000):
        window.good(20)
    assert window.capacity(20) == 20


def test_a_backlog_is_spread_over_the_time_that_it_needs_and_looks_again_within_an_hour():
    backlog = Backlog()
    waits = [backlog.book(0.0, 0.0, 10.0) for _ in range(100)]
    assert waits[1:] == pytest.approx([at / 10 for at in range(1, 100)])
    backlog = Backlog()
    assert max(backlog.book(0.0, 0.0, 0.1) for _ in range(2000)) <= 3600.0
