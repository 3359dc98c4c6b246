"""When a recipient is tried again, given up, and reported."""

from collections.abc import Mapping

import pytest
from msgspec import structs

from tests.delivery.works import LATER, NO_USER, NOW, OK, mail, recipient, work
from waypost_delivery.schedule import Decided, Terms, decide, delay, end, reports
from waypost_delivery.transport import RecipientOutcome
from waypost_queue import ids
from waypost_queue.config import Retry
from waypost_queue.model import Recipient, Reply, Settled
from waypost_queue.work import Work

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
TERMS = Terms(retry=Retry(), pool="default", lane="bulk03", jitter=0.0)
DEFERRED = RecipientOutcome("deferred", LATER)
FAILED = RecipientOutcome("failed", NO_USER)
DELIVERED = RecipientOutcome("delivered", OK)
RELAYED = RecipientOutcome("relayed", OK)


def decided(of: Work, *outcomes: RecipientOutcome, **terms: object) -> Decided:
    return decide(of, dict(zip(of.indexes, outcomes, strict=True)), structs.replace(TERMS, **terms))


def test_delays_double_from_the_initial_to_the_greatest() -> None:
    found = [delay(Retry(), attempt, 0.0) / MINUTE for attempt in range(1, 9)]
    assert found == [5, 10, 20, 40, 80, 160, 240, 240]


@pytest.mark.parametrize("attempt", [1, 2, 5, 6, 7, 60, 10_000])
def test_jitter_spreads_and_never_passes_the_greatest(attempt: int) -> None:
    least, most = delay(Retry(), attempt, 0.0), delay(Retry(), attempt, 0.999)
    assert least != most
    assert abs(most - least) <= 0.2 * 4 * HOUR
    assert max(least, most) <= 4 * HOUR
    assert min(least, most) >= 0.8 * min(4 * HOUR, 5 * MINUTE * 2.0 ** min(attempt - 1, 40))


def test_each_recipient_has_an_outcome_of_its_own() -> None:
    group = mail(recipient("a@x.org"), recipient("b@x.org"), recipient("c@x.org"))
    decision = decided(work(group), DELIVERED, FAILED, DEFERRED)
    assert decision.settled == (Settled(0, "delivered"), Settled(1, "failed", NO_USER))
    assert decision.wait is not None
    assert decision.wait.indexes == (2,)
    assert decision.wait.at == NOW + 5 * MINUTE
    assert (decision.wait.attempt, decision.wait.last) == (1, LATER)
    assert decision.wait.lane == "bulk03"
    assert decision.wait.first_attempt == NOW
    (report,) = decision.owed
    assert (report.kind, report.recipients) == ("failure", (Settled(1, "failed", NO_USER),))
    assert report.id == ids.dsn_id(group.id, (1,), "failure")
    assert decision.delay is None


def test_a_recipient_expires_after_its_time_with_what_was_said_last() -> None:
    late = work(now=NOW + 5 * DAY, ticket={"attempt": 40, "first_attempt": NOW + 1})
    decision = decided(late, DEFERRED)
    assert decision.wait is None
    assert decision.settled == (Settled(0, "expired", LATER),)
    assert [report.kind for report in decision.owed] == ["failure"]


def test_age_counts_from_acceptance_and_the_last_attempt_falls_on_the_end() -> None:
    almost = work(now=NOW + 5 * DAY - HOUR, ticket={"attempt": 40, "delay_notified": True})
    decision = decided(almost, DEFERRED)
    assert decision.wait is not None
    assert decision.wait.at == NOW + 5 * DAY


def test_nothing_expires_before_one_attempt() -> None:
    """It was held for longer than its life, and its site is busy: it waits for the attempt that it has coming."""
    old = work(now=NOW + 9 * DAY)
    spilled = decided(old, DEFERRED, attempted=False, again_at=NOW + 9 * DAY + 7)
    assert spilled.wait is not None
    assert (spilled.wait.at, spilled.wait.attempt) == (NOW + 9 * DAY + 7, 0)
    assert decided(old, DEFERRED).settled == (Settled(0, "expired", LATER),)
    assert decided(old, DEFERRED, attempted=False, site_tried=True).settled == (Settled(0, "expired", LATER),)


def test_a_clock_that_jumps_expires_nothing_and_alarms_nobody() -> None:
    late = work(now=NOW + 5 * DAY, ticket={"attempt": 3})
    decision = decided(late, DEFERRED, clocks_agree=False)
    assert decision.settled == ()
    assert decision.delay is None
    assert decision.wait is not None


def test_the_clock_stands_still_while_a_suspension_holds_a_mail() -> None:
    held = {"attempt": 2, "held_total": 3 * DAY, "delay_notified": True}
    assert decided(work(now=NOW + 7 * DAY, ticket=held), DEFERRED).wait is not None
    assert decided(work(now=NOW + 8 * DAY, ticket=held), DEFERRED).wait is None


def test_the_time_that_a_sender_asked_for_is_not_part_of_a_mails_life() -> None:
    later = mail(not_before=NOW + 3 * DAY)
    assert decided(work(later, now=NOW + 7 * DAY, ticket={"attempt": 2}), DEFERRED).wait is not None
    assert decided(work(later, now=NOW + 8 * DAY, ticket={"attempt": 2}), DEFERRED).wait is None


def test_a_spill_counts_no_attempt_and_keeps_its_time() -> None:
    decision = decided(work(ticket={"attempt": 4, "last": LATER}), DEFERRED, attempted=False, again_at=NOW + 30)
    assert decision.wait is not None
    assert (decision.wait.at, decision.wait.attempt, decision.wait.first_attempt) == (NOW + 30, 4, 0.0)


# -- the delay notice


def test_the_delay_notice_comes_once_and_says_until_when() -> None:
    group = mail(recipient("a@x.org"), recipient("b@x.org"))
    decision = decided(work(group, now=NOW + 4 * HOUR, ticket={"attempt": 6}), DELIVERED, DEFERRED)
    assert decision.delay is not None
    assert decision.delay.recipients == (Settled(1, "deferred", LATER),)
    assert decision.delay.will_retry_until == NOW + 5 * DAY
    assert decision.delay.id == ids.dsn_id(group.id, (1,), "delay")
    assert decision.wait is not None
    assert decision.wait.delay_notified
    again = decided(work(group, now=NOW + 8 * HOUR, ticket={"attempt": 7, "delay_notified": True}), DEFERRED, DEFERRED)
    assert again.delay is None
    assert again.wait is not None
    assert again.wait.delay_notified


def test_an_attempt_is_made_when_the_notice_falls_due() -> None:
    decision = decided(work(now=NOW + 3 * HOUR, ticket={"attempt": 6}), DEFERRED)
    assert decision.wait is not None
    assert decision.wait.at == NOW + 4 * HOUR


@pytest.mark.parametrize("after", [0.0, 5 * DAY, 9 * DAY])
def test_no_notice_where_none_is_wanted_before_the_end(after: float) -> None:
    retry = Retry(notify_delay_after=after)
    decision = decided(work(now=NOW + 4 * DAY, ticket={"attempt": 6}), DEFERRED, retry=retry)
    assert decision.delay is None


# -- NOTIFY, RFC 3461 4.1


def kinds(notify: tuple[str, ...], outcome: RecipientOutcome, *, hours: float = 5, final: bool = False) -> set[str]:
    group = mail(recipient("a@x.org", *notify))
    decision = decided(work(group, now=NOW + hours * HOUR, ticket={"attempt": 1}), outcome, final=final)
    return {report.kind for report in (*decision.owed, *([decision.delay] if decision.delay else ()))}


@pytest.mark.parametrize(
    ("notify", "expected"),
    [
        ((), {"failed": {"failure"}, "deferred": {"delay"}, "relayed": set(), "delivered": set()}),
        (("NEVER",), {"failed": set(), "deferred": set(), "relayed": set(), "delivered": set()}),
        (("FAILURE",), {"failed": {"failure"}, "deferred": set(), "relayed": set(), "delivered": set()}),
        (("DELAY",), {"failed": set(), "deferred": {"delay"}, "relayed": set(), "delivered": set()}),
        (("SUCCESS",), {"failed": set(), "deferred": set(), "relayed": {"relayed"}, "delivered": {"success"}}),
        (
            ("SUCCESS", "FAILURE", "DELAY"),
            {"failed": {"failure"}, "deferred": {"delay"}, "relayed": {"relayed"}, "delivered": {"success"}},
        ),
    ],
)
def test_notify_decides_what_is_reported(notify: tuple[str, ...], expected: Mapping[str, set[str]]) -> None:
    for outcome in (FAILED, DEFERRED, RELAYED, DELIVERED):
        assert kinds(notify, outcome, final=True) == expected[outcome.result]


def test_expiry_is_a_failure_to_notify() -> None:
    assert kinds(("FAILURE",), DEFERRED, hours=5 * 24) == {"failure"}
    assert kinds(("DELAY",), DEFERRED, hours=5 * 24) == set()


def test_a_hop_that_takes_over_the_duty_is_not_confirmed_by_us() -> None:
    assert kinds(("SUCCESS",), DELIVERED, final=False) == set()


@pytest.mark.parametrize("fields", [{"sender": ""}, {"kind": "dsn"}])
def test_nothing_is_ever_reported_to_nobody(fields: dict[str, object]) -> None:
    silent = mail(recipient("a@x.org", "SUCCESS", "FAILURE", "DELAY"), **fields)
    for outcome in (FAILED, DEFERRED, RELAYED, DELIVERED):
        decision = decided(work(silent, now=NOW + 5 * HOUR, ticket={"attempt": 1}), outcome, final=True)
        assert (decision.owed, decision.delay) == ((), None)


def test_reports_of_one_group_are_one_of_each_kind_with_ids_that_differ() -> None:
    every = ("SUCCESS", "FAILURE", "DELAY")
    group = mail(*(recipient(f"{name}@x.org", *every) for name in "abcd"))
    decision = decided(work(group), FAILED, RELAYED, FAILED, RELAYED)
    assert [(report.kind, [one.index for one in report.recipients]) for report in decision.owed] == [
        ("failure", [0, 2]),
        ("relayed", [1, 3]),
    ]
    assert [report.id for report in decision.owed] == [
        ids.dsn_id(group.id, (0, 2), "failure"),
        ids.dsn_id(group.id, (1, 3), "relayed"),
    ]


# -- by order


def test_a_bounce_is_reported_and_a_deletion_is_not() -> None:
    group = work(mail(recipient("a@x.org"), recipient("b@x.org")))
    bounced = end(group, "failed", Reply(text="by order"))
    assert [one.result for one in bounced.settled] == ["failed", "failed"]
    assert [report.kind for report in bounced.owed] == ["failure"]
    deleted = end(group, "deleted", Reply(text="by order"))
    assert [one.result for one in deleted.settled] == ["deleted", "deleted"]
    assert deleted.owed == ()


def test_only_those_who_asked_are_in_a_report() -> None:
    asked: tuple[Recipient, ...] = (recipient("a@x.org", "NEVER"), recipient("b@x.org"))
    (report,) = reports(work(mail(*asked)), [Settled(0, "failed"), Settled(1, "failed")], final=False)
    assert [one.index for one in report.recipients] == [1]
    assert report.id.endswith("0")
