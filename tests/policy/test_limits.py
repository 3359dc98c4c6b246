"""Limits over time: never more than allowed, told when to come back, shared with other replicas, bounded."""

from hypothesis import given
from hypothesis import strategies as st

from waypost_policy.limits import DAY, MINUTE, FairShare, Limiter, Scope
from waypost_queue.model import UsageDelta
from waypost_queue.subjects import FAST, bulk_lane

START = 20000 * DAY + 0.0
MINUTELY = Scope("m", "app", "of app", per_minute=10)
DAILY = Scope("d", "app", "of app", per_day=10)


def test_a_minute_takes_what_it_may_and_says_when_to_come_back():
    limiter = Limiter()
    assert limiter.take((MINUTELY,), 10, START + 30) is None
    exceeded = limiter.take((MINUTELY,), 1, START + 31)
    assert exceeded is not None
    assert (exceeded.window, exceeded.limit, exceeded.scope) == ("minute", 10, MINUTELY)
    assert limiter.take((MINUTELY,), 1, START + 31 + exceeded.seconds - 2) is not None
    assert limiter.take((MINUTELY,), 1, START + 31 + exceeded.seconds) is None


def test_a_minute_slides_so_that_its_edge_lets_no_double_burst_through():
    limiter = Limiter()
    assert limiter.take((MINUTELY,), 10, START + 59) is None
    assert limiter.take((MINUTELY,), 10, START + 61) is not None
    assert limiter.take((MINUTELY,), 10, START + 120) is None


def test_a_day_ends_at_midnight():
    limiter = Limiter()
    assert limiter.take((DAILY,), 10, START + 100) is None
    exceeded = limiter.take((DAILY,), 1, START + 200)
    assert exceeded is not None
    assert (exceeded.window, exceeded.seconds) == ("day", DAY - 200)
    assert limiter.take((DAILY,), 10, START + DAY) is None


def test_nothing_is_counted_when_one_of_several_scopes_is_full():
    limiter = Limiter()
    assert limiter.take((DAILY,), 10, START) is None
    assert limiter.take((MINUTELY, DAILY), 5, START) is not None
    assert limiter.take((MINUTELY,), 10, START) is None


def test_what_was_not_used_is_given_back():
    limiter = Limiter()
    assert limiter.take((MINUTELY, DAILY), 10, START) is None
    limiter.give_back((MINUTELY, DAILY), 10, START + 1)
    assert limiter.take((MINUTELY, DAILY), 10, START + 2) is None
    assert sum(delta.recipients for delta in limiter.drain()) == 20


def test_totals_raise_a_count_and_are_never_added_to_it():
    here, late = Limiter(), Limiter()
    assert here.take((MINUTELY, DAILY), 6, START) is None
    totals = here.drain()
    here.adopt(totals)
    late.adopt(totals)
    for limiter in (here, late):
        assert limiter.take((MINUTELY, DAILY), 5, START) is not None
        assert limiter.take((MINUTELY, DAILY), 4, START) is None
    assert [delta.recipients for delta in late.drain()] == [4, 4]  # what was adopted is not told again


def test_replicas_that_tell_each_other_share_a_limit():
    here, there = Limiter(), Limiter()
    assert here.take((MINUTELY, DAILY), 6, START) is None
    deltas = here.drain()
    assert deltas == [
        UsageDelta(key="minute:m", window=int(START) // MINUTE, recipients=6),
        UsageDelta(key="day:d", window=int(START) // DAY, recipients=6),
    ]
    assert here.drain() == []
    there.merge(deltas)
    assert there.take((MINUTELY,), 5, START) is not None
    assert there.take((DAILY,), 5, START) is not None
    assert there.take((MINUTELY, DAILY), 4, START) is None
    assert [delta.recipients for delta in there.drain()] == [4, 4]  # what others granted is not told again


def test_old_news_is_of_no_interest():
    limiter = Limiter()
    assert limiter.take((MINUTELY,), 1, START) is None
    limiter.merge([UsageDelta(key="minute:m", window=int(START) // MINUTE - 5, recipients=10)])
    assert limiter.take((MINUTELY,), 9, START) is None


def test_news_of_the_last_minute_still_fades_out():
    limiter = Limiter()
    assert limiter.take((MINUTELY,), 1, START) is None
    limiter.merge([UsageDelta(key="minute:m", window=int(START) // MINUTE - 1, recipients=10)])
    assert limiter.take((MINUTELY,), 1, START + 1) is not None
    assert limiter.take((MINUTELY,), 1, START + 30) is None


def test_more_at_once_than_a_window_takes_never_fits():
    limiter = Limiter()
    for scope in (MINUTELY, DAILY):
        exceeded = limiter.take((scope,), 11, START)
        assert exceeded is not None
        assert exceeded.seconds > 0


def test_counters_are_bounded():
    limiter = Limiter(capacity=10)
    for number in range(100):
        assert limiter.take((Scope(f"s{number}", "", "", per_minute=5, per_day=5),), 1, START) is None
    assert len(limiter.drain()) == 20


@given(st.lists(st.tuples(st.floats(0, 90), st.integers(1, 6)), max_size=60))
def test_no_sequence_gets_more_than_twice_the_limit_into_any_minute_nor_more_than_it_into_a_calendar_minute(steps):
    limiter, now, granted = Limiter(), START, []
    for wait, recipients in steps:
        now += wait
        exceeded = limiter.take((MINUTELY,), recipients, now)
        if exceeded is None:
            granted.append((now, recipients))
        else:
            assert 1 <= exceeded.seconds <= 2 * MINUTE
            assert limiter.take((MINUTELY,), recipients, now) is not None
    for at, _ in granted:
        assert sum(n for t, n in granted if t // MINUTE == at // MINUTE) <= 10
        assert sum(n for t, n in granted if at <= t < at + MINUTE) < 20


def test_a_flood_goes_to_its_own_lane_and_nobody_elses_mail_does():
    shares = FairShare(rate=10, burst=100)
    lanes = [shares.lane("noisy", 1, START) for _ in range(200)]
    assert lanes.count(FAST) == 100
    assert set(lanes[100:]) == {bulk_lane("noisy")}
    assert shares.lane("quiet", 1, START) == FAST
    assert shares.lane("noisy", 1, START + 1) == FAST  # tokens came back


def test_a_mail_larger_than_the_bucket_is_fast_once_and_then_waits_for_its_share():
    shares = FairShare(rate=10, burst=100)
    assert shares.lane("t", 1000, START) == FAST
    assert shares.lane("t", 1, START + 50) == bulk_lane("t")
    assert shares.lane("t", 1, START + 100) == FAST


def test_tenants_are_bounded():
    shares = FairShare(rate=1, burst=1, capacity=2)
    assert [shares.lane(tenant, 1, START) for tenant in "abc"] == [FAST] * 3
    assert shares.lane("b", 1, START) == bulk_lane("b")
    assert shares.lane("a", 1, START) == FAST  # forgotten meanwhile
