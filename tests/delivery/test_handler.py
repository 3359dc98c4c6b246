"""What the handler answers about a group: holds, waits, spills, attempts and ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs
from pydantic import SecretStr

from tests.delivery.works import CONTENT, LATER, NO_USER, NOW, OK, mail, recipient, work
from waypost_delivery.handler import Delivery, Options
from waypost_delivery.transport import Attempted, Job, RecipientOutcome, SiteBusyError, SiteInfo
from waypost_queue import subjects
from waypost_queue.config import (
    DestinationConfig,
    DomainConfig,
    Retry,
    Route,
    Smarthost,
    Snapshot,
)
from waypost_queue.errors import OwnershipLostError
from waypost_queue.events import DialogueLine, Event
from waypost_queue.model import ControlMark, Hold, Reply, Report, Settled
from waypost_queue.work import Decision, Wait, Work

SHOP = DomainConfig("shop.example", "shop")
Answer = Callable[[Job], RecipientOutcome]


class Hop:
    """A transport that answers as told, and knows where every domain's mail goes."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.asked: list[str] = []
        self.answer: Any = lambda _index: RecipientOutcome("delivered", OK)
        self.mx: tuple[str, ...] = ("mx.x.org",)
        self.unknown: Reply | None = None

    async def deliver(self, job: Job) -> Attempted:
        self.jobs.append(job)
        if isinstance(self.answer, Exception):
            raise self.answer
        return Attempted(
            results={index: self.answer(index) for index in job.recipients},
            dialogue=(DialogueLine(0.1, "s", "220 mx.x.org"),),
            mta="mx.x.org",
            address="192.0.2.1",
            duration=2.0,
            site="x.org",
        )

    async def site_of(self, domain: str) -> SiteInfo:
        self.asked.append(domain)
        return SiteInfo(name=domain, mx=self.mx, unknown=self.unknown)

    async def close(self) -> None:
        pass


class Bench:
    """A handler with a hop, an inbox and a list of events."""

    def __init__(self, *policies: DestinationConfig, domain: DomainConfig = SHOP, **options: Any) -> None:
        self.smtp, self.inbox = Hop(), Hop()
        self.events: list[Event] = []
        self.passwords: dict[str, SecretStr] = {}
        self.now = NOW
        self.handler = Delivery(
            Options(hostname="relay.example.net", pools=frozenset({"default", "warm"}), **options),
            smtp=self.smtp,
            sites=self.smtp,
            inbox=self.inbox,
            snapshot=Snapshot(domains={domain.domain: domain}, policies={policy.name: policy for policy in policies}),
            password=self.passwords.get,
            emit=self.events.append,
            clock=lambda: self.now,
            chance=lambda: 0.0,
        )

    async def wait(self, of: Work) -> Wait:
        decision = await self.handler.attempt(of)
        assert decision.wait is not None
        assert decision.settled == ()
        return decision.wait

    async def hold(self, of: Work) -> Hold:
        held = (await self.wait(of)).hold
        assert held is not None
        return held

    @property
    def untouched(self) -> bool:
        return not self.smtp.jobs and not self.inbox.jobs


def deferring() -> Any:
    return lambda _index: RecipientOutcome("deferred", LATER)


# -- attempts


async def test_a_mail_is_attempted_with_its_content_and_all_of_its_recipients() -> None:
    bench = Bench()
    group = mail(recipient("a@x.org"), recipient("b@y.org"), recipient("c@x.org"))
    decision = await bench.handler.attempt(work(group))
    (job,) = bench.smtp.jobs
    assert (job.domain, job.content, sorted(job.recipients)) == ("x.org", CONTENT, [0, 2])
    assert decision.settled == (Settled(0, "delivered"), Settled(2, "delivered"))
    assert decision.owed == ()


async def test_a_deferred_mail_waits_in_the_bulk_lane_of_its_tenant_from_the_end_of_the_attempt() -> None:
    bench = Bench(domain=structs.replace(SHOP, retry=Retry(initial=60.0)))
    bench.smtp.answer = deferring()
    wait = await bench.wait(work(lane="fast"))
    assert (wait.lane, wait.pool, wait.attempt) == (subjects.bulk_lane("shop"), "default", 1)
    assert wait.at == NOW + 2.0 + 60.0


async def test_lost_ownership_is_left_to_the_engine() -> None:
    bench = Bench()
    bench.smtp.answer = OwnershipLostError("over")
    with pytest.raises(OwnershipLostError):
        await bench.handler.attempt(work())


async def test_a_clock_that_disagrees_with_the_streams_expires_nothing() -> None:
    bench = Bench()
    bench.smtp.answer = deferring()
    late = work(now=NOW + 5 * 86400, ticket={"attempt": 9})
    assert (await bench.wait(late)).attempt == 10
    bench.now = NOW + 5 * 86400
    assert [one.result for one in (await bench.handler.attempt(late)).settled] == ["expired"]


async def test_a_busy_site_puts_a_mail_off_and_counts_no_attempt() -> None:
    bench = Bench()
    bench.smtp.answer = SiteBusyError("x.org", 40.0, "rate")
    wait = await bench.wait(work(ticket={"attempt": 3, "last": LATER, "first_attempt": NOW - 9}))
    assert (wait.at, wait.attempt, wait.last, wait.first_attempt) == (NOW + 40.0, 3, LATER, NOW - 9)
    assert wait.lane == subjects.bulk_lane("shop")
    assert [event.kind for event in bench.events] == []


async def test_a_mail_whose_time_is_up_at_a_dead_site_ends_with_what_others_met_there() -> None:
    bench = Bench()
    bench.now = now = NOW + 6 * 86400
    refused = Reply(0, "4.4.1", "connection refused", "mx.x.org", "192.0.2.1", now - 60)
    bench.smtp.answer = SiteBusyError("x.org", 40.0, "resting", refused)
    decision = await bench.handler.attempt(work(now=now))
    assert decision.settled == (Settled(0, "expired", refused),)
    before = structs.replace(refused, at=NOW - 60)
    bench.smtp.answer = SiteBusyError("x.org", 40.0, "resting", before)
    assert (await bench.wait(work(now=now))).attempt == 0


# -- configuration


async def test_settings_in_effect_reach_the_transport() -> None:
    policy = DestinationConfig("p", domains=("x.org",), tls="Encrypted", ip_families=("IPv4",))
    bench = Bench(policy)
    await bench.handler.attempt(work())
    plan = bench.smtp.jobs[0].plan
    assert (plan.tls, plan.ip_families) == ("Encrypted", ("IPv4",))
    assert bench.smtp.asked == []


async def test_a_policy_by_mx_is_found_by_asking_where_the_mail_goes() -> None:
    bench = Bench(DestinationConfig("p", mx=("*.x.org",), tls="Encrypted"))
    await bench.handler.attempt(work())
    assert bench.smtp.asked == ["x.org"]
    assert bench.smtp.jobs[0].plan.tls == "Encrypted"


async def test_while_nobody_knows_the_mx_a_policy_by_mx_might_hold_for_it_and_nothing_goes_out() -> None:
    bench = Bench(DestinationConfig("p", mx=("*.x.org",), tls="Encrypted"))
    bench.smtp.unknown = Reply(451, "4.4.3", "no answer in time")
    wait = await bench.wait(work())
    assert bench.untouched
    assert (wait.attempt, wait.hold) == (1, None)
    assert wait.last is not None
    assert wait.last.enhanced == "4.4.3"
    assert wait.at > NOW
    assert [event.kind for event in bench.events] == ["attempt"]


async def test_a_smarthost_gets_its_password_and_no_mail_without_it() -> None:
    smarthost = Smarthost("relay.example", username="u", secret="smarthost.k")
    bench = Bench(
        DestinationConfig("p", mx=("*.x.org",)), domain=structs.replace(SHOP, route=Route("Smarthost", smarthost))
    )
    wait = await bench.wait(work())
    assert bench.untouched
    assert wait.last is not None
    assert "password" in wait.last.text
    bench.passwords["smarthost.k"] = SecretStr("s3cret")
    await bench.handler.attempt(work())
    assert bench.smtp.jobs[0].plan.password.get_secret_value() == "s3cret"
    assert bench.smtp.asked == []  # a smarthost takes all: where the domain's own MX lead plays no part


async def test_a_smarthost_whose_login_is_missing_gets_no_mail() -> None:
    bench = Bench(domain=structs.replace(SHOP, route=Route("Smarthost", Smarthost("relay.example", secret="k"))))
    bench.passwords["k"] = SecretStr("of an older login")
    await bench.wait(work())
    assert bench.untouched


async def test_mail_goes_to_the_pool_that_a_policy_or_the_domain_names() -> None:
    bench = Bench(DestinationConfig("p", domains=("x.org",), pool="warm"))
    wait = await bench.wait(work(ticket={"attempt": 2, "last": LATER}, lane="bulk01"))
    assert bench.untouched
    assert (wait.pool, wait.lane, wait.at, wait.attempt, wait.hold) == ("warm", "bulk01", NOW, 2, None)
    moved = Bench(domain=structs.replace(SHOP, pool="warm"))
    assert (await moved.wait(work())).pool == "warm"
    assert (await moved.handler.attempt(work(pool="warm"))).settled != ()


async def test_a_pool_that_does_not_exist_is_no_place_for_mail() -> None:
    bench = Bench(DestinationConfig("p", domains=("x.org",), pool="gone"))
    assert (await bench.handler.attempt(work())).settled != ()


async def test_a_changed_configuration_holds_from_the_next_mail_on() -> None:
    bench = Bench()
    await bench.handler.attempt(work())
    bench.handler.configure(Snapshot(domains={"shop.example": structs.replace(SHOP, suspend="All")}))
    assert (await bench.hold(work())).cause == "suspended"


async def test_mail_of_a_domain_that_is_gone_goes_on() -> None:
    bench = Bench(domain=structs.replace(SHOP, deleted=True, retry=Retry(initial=7.0)))
    bench.smtp.answer = deferring()
    assert (await bench.wait(work())).at == NOW + 9.0


# -- suspension, holds, orders


@pytest.mark.parametrize("suspend", ["Outbound", "All"])
async def test_a_suspended_domains_mail_is_held(suspend: Any) -> None:
    bench = Bench(domain=structs.replace(SHOP, suspend=suspend))
    held = await bench.hold(work(ticket={"attempt": 2}))
    assert (held.cause, held.scope, held.since) == ("suspended", "domain:shop.example", NOW)
    assert bench.untouched


async def test_a_domain_suspended_for_inbound_mail_alone_sends() -> None:
    bench = Bench(domain=structs.replace(SHOP, suspend="Inbound"))
    assert (await bench.handler.attempt(work())).settled != ()


async def test_a_suspended_destinations_mail_is_held() -> None:
    bench = Bench(DestinationConfig("p", domains=("x.org",), suspended=True))
    held = await bench.hold(work())
    assert (held.cause, held.scope) == ("suspended", "policy:p")
    assert bench.untouched


async def test_a_person_lets_single_mails_out_of_a_suspended_domain() -> None:
    bench = Bench(domain=structs.replace(SHOP, suspend="Outbound"))
    released = work(ticket={"verdict": "release", "verdict_by": "ann"})
    assert (await bench.handler.attempt(released)).settled != ()
    for other in ({"verdict": "retry", "verdict_by": "ann"}, {"verdict": "release", "verdict_by": "end of policy:p"}):
        assert (await bench.hold(work(ticket=other))).scope == "domain:shop.example"


async def test_a_mail_is_kept_until_its_sender_wants_it_sent() -> None:
    bench = Bench()
    later = mail(not_before=NOW + 600)
    wait = await bench.wait(work(later, lane="fast"))
    assert (wait.at, wait.attempt, wait.lane) == (NOW + 600, 0, "fast")
    assert bench.untouched
    assert (await bench.handler.attempt(work(later, now=NOW + 600, ticket={}))).settled != ()
    assert (await bench.handler.attempt(work(later, ticket={"verdict": "retry"}))).settled != ()


def mark(action: Any, domain: str = "") -> ControlMark:
    return ControlMark("m", action, "ann", NOW, "a good reason", domain)


async def test_a_control_mark_is_heeded_before_an_attempt() -> None:
    bench = Bench()
    held = await bench.hold(work(mark=mark("hold")))
    assert (held.cause, held.by, held.reason) == ("person", "ann", "a good reason")
    bounced = await bench.handler.attempt(work(mark=mark("bounce")))
    assert [one.result for one in bounced.settled] == ["failed"]
    assert [report.kind for report in bounced.owed] == ["failure"]
    deleted = await bench.handler.attempt(work(mark=mark("delete")))
    assert [one.result for one in deleted.settled] == ["deleted"]
    assert deleted.owed == ()
    assert bench.untouched


async def test_a_mark_about_another_destination_is_not_ours() -> None:
    bench = Bench()
    assert (await bench.handler.attempt(work(mark=mark("delete", "y.org")))).settled[0].result == "delivered"
    assert (await bench.handler.attempt(work(mark=mark("delete", "x.org")))).settled[0].result == "deleted"


async def test_the_newer_of_a_mark_and_a_verdict_counts() -> None:
    bench = Bench()
    before, after = ({"verdict": "release", "verdict_by": "ann", "due": NOW + seconds} for seconds in (-1, 1))
    assert (await bench.handler.attempt(work(ticket=after, mark=mark("hold")))).settled != ()
    assert (await bench.hold(work(ticket=before, mark=mark("hold")))).cause == "person"


@pytest.mark.parametrize(("verdict", "result"), [("bounce", "failed"), ("delete", "deleted"), ("retry", "delivered")])
async def test_a_verdict_is_carried_out(verdict: str, result: str) -> None:
    bench = Bench(domain=SHOP)
    decision = await bench.handler.attempt(work(ticket={"attempt": 1, "verdict": verdict, "verdict_by": "ann"}))
    assert [one.result for one in decision.settled] == [result]


async def test_a_suspended_mail_can_still_be_returned_or_deleted() -> None:
    bench = Bench(domain=structs.replace(SHOP, suspend="All"))
    decision = await bench.handler.attempt(work(ticket={"verdict": "bounce", "verdict_by": "ann"}))
    assert [one.result for one in decision.settled] == ["failed"]
    reply = decision.settled[0].reply
    assert reply is not None
    assert "ann" not in reply.text  # the sender is told that, not by whom


# -- inbox


async def test_reserved_names_stay_inside_and_are_confirmed_as_delivered() -> None:
    bench = Bench(DestinationConfig("default", suspended=True))
    decision = await bench.handler.attempt(work(mail(recipient("bob@site.test", "SUCCESS"))))
    assert len(bench.inbox.jobs) == 1
    assert not bench.smtp.jobs
    assert bench.smtp.asked == []
    assert [report.kind for report in decision.owed] == ["success"]


async def test_a_catch_all_keeps_everything_inside() -> None:
    bench = Bench(inbox_catch_all=True)
    await bench.handler.attempt(work())
    assert len(bench.inbox.jobs) == 1


async def test_reserved_names_go_out_where_that_is_switched_off() -> None:
    bench = Bench(inbox_reserved_names=False)
    await bench.handler.attempt(work(mail(recipient("bob@site.test"))))
    assert len(bench.smtp.jobs) == 1


async def test_a_suspended_domains_mail_is_held_even_from_the_inbox() -> None:
    bench = Bench(domain=structs.replace(SHOP, suspend="All"), inbox_catch_all=True)
    assert (await bench.hold(work())).cause == "suspended"


# -- what is told


async def test_an_attempt_and_its_ends_are_told_with_what_was_said() -> None:
    bench = Bench()
    bench.smtp.answer = lambda index: [
        RecipientOutcome("delivered", OK),
        RecipientOutcome("failed", NO_USER),
        RecipientOutcome("deferred", LATER),
    ][index]
    group = work(mail(recipient("a@x.org"), recipient("b@x.org"), recipient("c@x.org")))
    decision = await bench.handler.attempt(group)
    bench.handler.settled(group, decision)
    attempt, delivered, failed, deferred = bench.events
    assert (attempt.kind, attempt.attempt, attempt.site, attempt.duration) == ("attempt", 1, "x.org", 2.0)
    assert attempt.dialogue == (DialogueLine(0.1, "s", "220 mx.x.org"),)
    assert [one.result for one in attempt.recipients] == ["delivered", "failed", "deferred"]
    for event, reply, index in ((delivered, OK, 0), (failed, NO_USER, 1), (deferred, LATER, 2)):
        (one,) = event.recipients
        assert (one.index, one.address, one.reply, one.result) == (index, f"{'abc'[index]}@x.org", reply, event.kind)
        assert (event.attempt, event.mail, event.destination) == (1, group.mail.id, "x.org")
    assert decision.wait is not None
    assert deferred.next_attempt == decision.wait.at


async def test_a_hold_is_told_with_its_reason() -> None:
    bench = Bench(domain=structs.replace(SHOP, suspend="All"))
    group = work()
    bench.handler.settled(group, await bench.handler.attempt(group))
    (held,) = bench.events
    assert (held.kind, held.text) == ("held", "MailDomain shop.example is suspended (All)")


async def test_a_backlog_that_waits_for_its_turn_does_not_fill_the_history() -> None:
    bench = Bench()
    bench.smtp.answer = SiteBusyError("x.org", 40.0, "full")
    first, again = work(), work(ticket={"attempt": 0})
    bench.handler.settled(first, await bench.handler.attempt(first))
    bench.handler.settled(again, await bench.handler.attempt(again))
    assert [event.kind for event in bench.events] == ["deferred"]


async def test_what_the_engine_decides_by_itself_can_be_told_too() -> None:
    bench = Bench()
    group = work()
    hold = Hold("body", "its body is in no store", NOW)
    wait = Wait(indexes=(0,), at=NOW, pool="default", lane="fast", attempt=0, hold=hold)
    bench.handler.settled(group, Decision(wait=wait))
    assert [(event.kind, event.text) for event in bench.events] == [("held", "its body is in no store")]


async def test_a_dsn_is_made_of_a_report_and_told_once() -> None:
    bench = Bench()
    group = work(mail(recipient("bob@x.org")))
    bench.smtp.answer = lambda _index: RecipientOutcome("failed", NO_USER)
    (owed,) = (await bench.handler.attempt(group)).owed
    bench.events.clear()
    first, second = await asyncio.gather(bench.handler.report(group, owed), bench.handler.report(group, owed))
    assert first == second
    assert (first.id, first.sender, first.about) == (owed.id, "", group.mail.id)
    about, accepted = bench.events[:2]
    assert (about.kind, about.mail, about.related) == ("dsn", group.mail.id, owed.id)
    assert (accepted.kind, accepted.mail, accepted.mail_kind) == ("accepted", owed.id, "dsn")
    assert accepted.addresses == ("app@shop.example",)
    assert {event.id for event in bench.events} == {about.id, accepted.id}  # history counts an id once


async def test_a_dsn_that_fails_is_reported_to_nobody() -> None:
    bench = Bench()
    bench.smtp.answer = lambda _index: RecipientOutcome("failed", NO_USER)
    bounce = mail(recipient("app@shop.example"), sender="", kind="dsn")
    bench.handler.configure(Snapshot())
    decision = await bench.handler.attempt(work(bounce))
    assert decision.owed == ()


async def test_a_report_needs_no_more_of_the_mail_than_it_is_about() -> None:
    bench = Bench()
    group = work(mail(recipient("a@x.org"), recipient("b@x.org")))
    made = await bench.handler.report(group, Report("d" * 27, "failure", (Settled(1, "failed", NO_USER),)))
    assert made.content is not None
    assert b"b@x.org" in made.content
    assert b"a@x.org" not in made.content
