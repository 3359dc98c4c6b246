"""The delivery handler: what the engine asks about a group (mail, destination domain), and what is answered.

In order: what a person wants of it, whether its MailDomain or destination is suspended, whether its time has come,
whether it stays inside, which settings and pool apply; then one attempt by a transport, and `schedule.decide` on its
outcomes. Nothing is kept here that a crash would miss.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

import opentelemetry.metrics
import structlog
from msgspec import Struct, structs
from opentelemetry.metrics import CallbackOptions, Observation
from pydantic import SecretStr

from waypost_queue import subjects
from waypost_queue.config import DestinationConfig, DomainConfig, Snapshot
from waypost_queue.events import DialogueLine, Event
from waypost_queue.model import Hold, Mail, Reply, Report
from waypost_queue.work import Decision, Work

from . import dsn, schedule, worker_events
from .dsn_text import RETURNED
from .effective import Configured, Effective, reserved
from .schedule import Terms
from .transport import Attempted, Job, RecipientOutcome, SiteBusyError, SiteInfo, Transport

log = structlog.get_logger(__name__)

_meter = opentelemetry.metrics.get_meter("waypost")
_results: Counter[str] = Counter()  # added up here and read at collection: a counter costs more than a decision


def _observe(_options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(count, {"result": result}) for result, count in list(_results.items())]


RECIPIENTS = _meter.create_observable_counter(
    "waypost.delivery.recipients",
    [_observe],
    unit="{recipient}",
    description="Recipients by what came of an attempt or a decision: delivered, relayed, failed, expired, deleted, "
    "deferred (an attempt, each time), held.",
)
SPILLED = _meter.create_counter(
    "waypost.delivery.spilled",
    unit="{group}",
    description="Groups put off unattempted since their site was full, resting, or at its rate.",
)
DSNS = _meter.create_counter("waypost.delivery.dsns", unit="{mail}", description="DSNs made, by kind.")
LATENCY = _meter.create_histogram(
    "waypost.delivery.latency", unit="s", description="From acceptance to delivery at the first attempt."
)

CLOCKS_AGREE = 300.0  # seconds between the stream's clock and ours that still count as the same time
SPILL_JITTER = 0.1  # of a site's own estimate, which spreads already
END_OF = "end of "  # of a verdict: the queue service's, not a person's; it ends one suspension and overrules none


class Sites(Protocol):
    """Where mail for a domain goes, as `SmtpTransport.site_of` tells it."""

    async def site_of(self, domain: str) -> SiteInfo: ...


class Options(Struct, frozen=True, kw_only=True):
    """Of the process."""

    hostname: str
    pools: frozenset[str]  # those that exist: a ticket for another would wait for ever
    inbox_catch_all: bool = False
    inbox_reserved_names: bool = True


class Delivery:
    """Implements `waypost_queue.work.Handler`."""

    def __init__(
        self,
        options: Options,
        *,
        smtp: Transport,
        sites: Sites,
        inbox: Transport,
        snapshot: Snapshot,
        password: Callable[[str], SecretStr | None],
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`password` opens a key of the bucket `keys`; `chance` is uniform in [0, 1)."""
        self._options = options
        self._smtp = smtp
        self._sites = sites
        self._inbox = inbox
        self._config = Configured(snapshot)
        self._password = password
        self._emit = emit
        self._clock = clock
        self._chance = chance
        self._unknown_pools: set[str] = set()

    def configure(self, snapshot: Snapshot) -> None:
        """From now on decisions follow `snapshot`; attempts under way end under what they began with."""
        self._config = Configured(snapshot)
        self._unknown_pools.clear()

    # -- work.Handler

    async def attempt(self, work: Work) -> Decision:
        """See `work.Handler.attempt`."""
        ordered = _ordered(work)
        if ordered is not None:
            return ordered
        config = self._config
        domain = config.domain(work.mail)
        held = self._suspended_domain(work, domain)
        if held is not None:
            return held
        if work.mail.not_before > work.now and not _wanted(work, "retry"):
            at = work.mail.not_before  # RFC 4865: the sender asked for it to be kept until then
            return Decision(wait=schedule.keep(work, at, pool=work.pool, lane=work.lane))
        if self._stays_inside(work.domain):
            effective = config.effective(domain, None)
            return await self._deliver(work, effective, self._inbox, work.pool, final=True)
        mx, unknown = await self._mx(config, work, domain)
        policy = config.policies.find(work.domain, mx)
        if unknown is not None:
            # A policy by MX might hold it, or ask for TLS: nothing goes out before that is known.
            return self._unrouted(work, config.effective(domain, policy), unknown)
        held = self._suspended_policy(work, policy)
        if held is not None:
            return held
        effective = config.effective(domain, policy)
        pool = self._pool(effective.pool, work)
        if pool != work.pool:
            # The next schedule is stored at its new subject, for a worker of that pool; nothing was tried.
            return Decision(wait=schedule.keep(work, work.now, pool=pool, lane=work.lane))
        return await self._deliver(work, effective, self._smtp, pool, final=False)

    async def report(self, work: Work, report: Report) -> Mail:
        """See `work.Handler.report`."""
        context = dsn.Context(hostname=self._options.hostname, now=work.now)
        made = dsn.build(work.mail, work.recipients, report, await work.body(), context)
        DSNS.add(1, {"kind": report.kind})
        log.info(
            "delivery.reported", mail=work.mail.id, dsn=made.id, kind=report.kind, recipients=len(report.recipients)
        )
        for event in worker_events.reported(work, report, made, self._clock()):
            self._emit(event)
        return made

    def settled(self, work: Work, decision: Decision) -> None:
        """See `work.Handler.settled`."""
        for event in worker_events.settled(work, decision, self._clock()):
            self._emit(event)
            if event.kind != "deferred":
                _results[event.kind] += len(event.recipients)

    def lane_for_retry(self, mail: Mail) -> str:
        """The bulk lane of its tenant: what has waited stands before nobody's new mail."""
        return subjects.bulk_lane(mail.tenant)

    # -- what keeps a group from being attempted

    def _suspended_domain(self, work: Work, domain: DomainConfig) -> Decision | None:
        if domain.suspend not in ("Outbound", "All") or _released(work):
            return None
        return _hold(
            work,
            Hold(
                cause="suspended",
                reason=f"MailDomain {domain.domain} is suspended ({domain.suspend})",
                since=work.now,
                scope=f"domain:{domain.domain}",
            ),
        )

    def _suspended_policy(self, work: Work, policy: DestinationConfig | None) -> Decision | None:
        if policy is None or not policy.suspended or _released(work):
            return None
        return _hold(
            work,
            Hold(
                cause="suspended",
                reason=f"DestinationPolicy {policy.name} is suspended",
                since=work.now,
                scope=f"policy:{policy.name}",
            ),
        )

    def _stays_inside(self, domain: str) -> bool:
        options = self._options
        return options.inbox_catch_all or (options.inbox_reserved_names and reserved(domain))

    async def _mx(self, config: Configured, work: Work, domain: DomainConfig) -> tuple[tuple[str, ...], Reply | None]:
        """The MX hosts where they decide about the policy, or why they are not known.

        Where a smarthost takes all, the destination's own MX play no part.
        """
        if domain.route.type != "MX" or not config.policies.needs_mx(work.domain):
            return (), None
        site = await self._sites.site_of(work.domain)
        return site.mx, site.unknown

    def _pool(self, wanted: str, work: Work) -> str:
        if wanted == work.pool or wanted in self._options.pools:
            return wanted
        if wanted not in self._unknown_pools:
            self._unknown_pools.add(wanted)
            log.warning("delivery.unknown_pool", pool=wanted, used=work.pool, known=sorted(self._options.pools))
        return work.pool

    # -- the attempt

    async def _deliver(
        self, work: Work, effective: Effective, transport: Transport, pool: str, *, final: bool
    ) -> Decision:
        terms = self._terms(work, effective, pool, final=final)
        plan = effective.plan
        if effective.secret and not final:
            password = self._password(effective.secret)
            smarthost = plan.route.smarthost
            if password is None or smarthost is None or not smarthost.username:
                return self._no_password(work, terms)
            plan = structs.replace(plan, password=password)
        job = Job(
            mail=work.mail,
            recipients={index: work.recipients[index] for index in work.indexes},
            content=await work.body(),
            domain=work.domain,
            plan=plan,
            owned=work.owned,
        )
        try:
            attempted = await transport.deliver(job)
        except SiteBusyError as busy:
            return self._spill(work, terms, busy)
        self._note(work, attempted)
        # An attempt may take minutes: what follows from it counts from its end.
        ended = structs.replace(work, now=work.now + attempted.duration)
        return schedule.decide(ended, attempted.results, terms)

    def _terms(self, work: Work, effective: Effective, pool: str, *, final: bool = False) -> Terms:
        return Terms(
            retry=effective.retry,
            pool=pool,
            lane=self.lane_for_retry(work.mail),
            jitter=self._chance(),
            clocks_agree=abs(work.now - self._clock()) < CLOCKS_AGREE,
            final=final,
        )

    def _unrouted(self, work: Work, effective: Effective, why: Reply) -> Decision:
        """An attempt that ended at the DNS."""
        reply = structs.replace(why, at=work.now)
        attempted = Attempted(
            results={index: RecipientOutcome("deferred", reply) for index in work.indexes},
            dialogue=(DialogueLine(0.0, "-", reply.text),),
            site=work.domain,
        )
        self._note(work, attempted)
        return schedule.decide(work, attempted.results, self._terms(work, effective, work.pool))

    def _note(self, work: Work, attempted: Attempted) -> None:
        deferred = sum(outcome.result == "deferred" for outcome in attempted.results.values())
        if deferred:
            _results["deferred"] += deferred
        elif work.ticket is None:
            LATENCY.record(max(0.0, work.now + attempted.duration - work.mail.accepted))
        self._emit(worker_events.attempt(work, attempted, self._clock()))

    def _spill(self, work: Work, terms: Terms, busy: SiteBusyError) -> Decision:
        """No attempt was made: the group waits for its turn, its count of attempts as it was."""
        SPILLED.add(1, {"reason": busy.reason})
        last = busy.last or (work.ticket.last if work.ticket is not None else None)
        reply = last or Reply(
            enhanced="4.3.2", text=f"waiting for its turn: the site {busy.site} takes no more just now"
        )
        spilled = structs.replace(
            terms,
            attempted=False,
            again_at=work.now + busy.resume_after * (1 + SPILL_JITTER * terms.jitter),
            # A mail that never had its turn at a dead site still ends: others' attempts in its time speak for it.
            site_tried=busy.last is not None and busy.last.at >= work.mail.accepted,
        )
        return schedule.decide(work, {index: RecipientOutcome("deferred", reply) for index in work.indexes}, spilled)

    def _no_password(self, work: Work, terms: Terms) -> Decision:
        log.error("delivery.no_password", mail=work.mail.id, domain=work.mail.domain)
        reply = Reply(enhanced="4.3.5", text="the password for the smarthost is not available", at=work.now)
        return schedule.decide(work, {index: RecipientOutcome("deferred", reply) for index in work.indexes}, terms)


def _ordered(work: Work) -> Decision | None:
    """What a person wants instead of an attempt: by the ticket's verdict, or by a control mark that is newer.

    A mark that the verdict came after may still be seen here for a moment after it was taken away.
    """
    mark, ticket = work.mark, work.ticket
    action, by, reason = "", "", ""
    if ticket is not None and ticket.verdict:
        action, by, reason = ticket.verdict, ticket.verdict_by, ticket.verdict_reason
    if mark is not None and mark.domain in ("", work.domain) and not (action and ticket and mark.at <= ticket.due):
        action, by, reason = mark.action, mark.by, mark.reason
    match action:
        case "hold":
            return _hold(work, Hold(cause="person", reason=reason or "held on request", since=work.now, by=by))
        case "bounce":
            text = "returned by the operators of this mail system" + (f": {reason}" if reason else "")
            return schedule.end(work, "failed", Reply(enhanced=RETURNED, text=text, at=work.now))
        case "delete":
            return schedule.end(work, "deleted", Reply(text=reason or "deleted on request", at=work.now))
    return None


def _wanted(work: Work, verdict: str) -> bool:
    return work.ticket is not None and work.ticket.verdict == verdict


def _released(work: Work) -> bool:
    """Whether a person let this very mail go, whatever is suspended: a trickle out of a suspended domain."""
    return _wanted(work, "release") and work.ticket is not None and not work.ticket.verdict_by.startswith(END_OF)


def _hold(work: Work, hold: Hold) -> Decision:
    return Decision(wait=structs.replace(schedule.keep(work, work.now, pool=work.pool, lane=work.lane), hold=hold))
