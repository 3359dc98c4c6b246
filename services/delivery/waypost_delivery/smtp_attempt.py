"""One attempt at a site: from the slot that it holds to an outcome for every recipient."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import Struct, structs

from waypost_queue.model import Reply

from .client_replies import throttles
from .client_session import Dialer, DialError, Dialogue, PlaintextError, Session
from .client_transaction import transact
from .pool import Pool
from .routing import Host, Route, Router, UnroutableError
from .site import Site
from .tls import TlsPolicy
from .transport import Attempted, Job, RecipientOutcome, TransportSettings

_MOST_DIALS = 6  # addresses tried in one attempt
_MOST_SESSIONS = 2  # sessions lost before anything was decided, in one attempt
_MOST_TRANSACTIONS = 100
_NO_TLS = 300.0  # seconds for which TLS is not tried again with an address where it broke (opportunistic only)
_MOST_PLAINTEXT = 100  # such addresses remembered of a site

Candidates = AsyncGenerator[tuple[Host, str] | UnroutableError, None]


class Shared(Struct, frozen=True):
    """What all attempts of a transport have in common."""

    settings: TransportSettings
    router: Router
    dialer: Dialer
    pool: Pool


_NOBODY = RecipientOutcome("deferred", Reply(enhanced="4.4.1", text="no further host is left to try"))
_TOO_LONG = RecipientOutcome(
    "deferred", Reply(enhanced="4.4.2", text="the next hops gave up too often, tried again later")
)


def dated(reply: Reply) -> Reply:
    """A reply of ours, as of now."""
    return structs.replace(reply, at=time.time())


class Attempt:
    """What is known so far about each recipient of a job."""

    def __init__(self, job: Job, dialogue: Dialogue) -> None:
        self.job = job
        self.dialogue = dialogue
        self.pending = list(job.recipients)
        self.outcomes: dict[int, RecipientOutcome] = {}
        self.fallback: dict[int, RecipientOutcome] = {}
        self.mta = self.address = self.tls = self.local_address = ""

    def at(self, session: Session) -> None:
        self.mta, self.address = session.host, session.address
        self.tls, self.local_address = session.tls, session.local_address

    def undecided(self, outcome: RecipientOutcome) -> None:
        """Ends it: who has no outcome yet gets what was last heard about it, else this."""
        for index in self.pending:
            self.outcomes[index] = self.fallback.get(index, outcome)
        self.pending = []

    def result(self, duration: float, site: str) -> Attempted:
        return Attempted(
            results=self.outcomes,
            dialogue=tuple(self.dialogue.lines),
            mta=self.mta,
            address=self.address,
            tls=self.tls,
            local_address=self.local_address,
            duration=duration,
            site=site,
        )


class Run:
    """An attempt that holds a slot of its site until it ends, however it ends."""

    def __init__(
        self,
        shared: Shared,
        site: Site,
        route: Route,
        tls: TlsPolicy,
        key: object,
        attempt: Attempt,
        session: Session | None,
    ) -> None:
        self._shared = shared
        self._site = site
        self._route = route
        self._tls = tls
        self._key = key
        self._attempt = attempt
        self._session = session
        self._dials = 0

    async def run(self) -> None:
        """Decides about every recipient."""
        plan = self._attempt.job.plan
        began = time.monotonic()
        candidates = self._shared.router.candidates(self._route, plan.ip_families, self._site.penalised())
        limit = asyncio.timeout(plan.timeouts.attempt)
        try:
            async with aclosing(candidates), limit:
                await self._work(candidates, limit)
        except BaseException as error:
            if self._session is not None:
                self._session.closing = True
            self._site.breaker.gave_up()
            self._site.drop(self._session)
            if not (isinstance(error, TimeoutError) and limit.expired()):
                raise
            self._out_of_time(plan.timeouts.attempt)
            return
        if self._session is None:
            self._site.breaker.gave_up()
            self._site.drop(None)
        else:
            self._site.give_back(self._session, time.monotonic() - began, plan.limits)

    def _out_of_time(self, patience: float) -> None:
        """A next hop that answers each command, but late, is no reason to sit on the mail: it waits like any other."""
        attempt = self._attempt
        if attempt.address:
            self._site.penalise(attempt.address)
        text = f"not done within {patience:g} s, tried again later"
        attempt.dialogue.add("-", text)
        reply = Reply(enhanced="4.4.2", text=text, mta=attempt.mta, address=attempt.address)
        attempt.undecided(RecipientOutcome("deferred", dated(reply)))

    async def _work(self, candidates: Candidates, patience: asyncio.Timeout) -> None:
        attempt = self._attempt
        deadline = patience.when()
        most = attempt.job.plan.limits.recipients_per_message or self._shared.settings.recipients_per_message
        stale = self._session is not None
        if self._session is not None:
            attempt.dialogue.add("-", f"reused the connection to {self._session.host} [{self._session.address}]")
        lost = 0
        for _ in range(_MOST_TRANSACTIONS):
            if not attempt.pending:
                return
            if self._session is None:
                if lost >= _MOST_SESSIONS:
                    break
                opened = await self._open(candidates)
                if isinstance(opened, RecipientOutcome):
                    attempt.undecided(opened)
                    return
                self._session = opened
            session = self._session
            attempt.at(session)
            limit = min(most, session.most_recipients) if session.most_recipients else most
            batch, rest = attempt.pending[:limit], attempt.pending[limit:]
            done = await transact(
                session, attempt.job, batch, attempt.dialogue, time.time(), lambda: patience.reschedule(None)
            )
            patience.reschedule(deadline)
            attempt.outcomes.update(done.outcomes)
            attempt.fallback.update(done.again)
            attempt.pending = [*done.again, *rest]
            self._judge(done.answered, [*done.outcomes.values(), *done.again.values()])
            if session.usable:
                stale = False
                continue
            if attempt.pending:
                # An idle connection may have been closed meanwhile (RFC 5321 3.8): that is nobody's fault.
                lost += 0 if stale and not done.answered else 1
                stale = False
                self._shared.pool.retire(session)
                self._session = None
        if attempt.pending:
            attempt.undecided(_TOO_LONG)

    async def _open(self, candidates: Candidates) -> Session | RecipientOutcome:
        """A session with the next host that can be reached; else what that means for the mail."""
        site, attempt = self._site, self._attempt
        failures: list[RecipientOutcome] = []
        unreachable: Reply | None = None
        async for candidate in candidates:
            if isinstance(candidate, UnroutableError):
                attempt.dialogue.add("-", candidate.reply.text)
                failures.append(RecipientOutcome(candidate.result, dated(candidate.reply)))
                continue
            host, address = candidate
            try:
                session = await self._dial(host, address)
            except DialError as error:
                failures.append(RecipientOutcome(error.result, error.reply))
                attempt.mta, attempt.address = host.name, address
                if error.stage in ("connect", "greeting"):
                    site.penalise(address)
                    if error.result == "deferred":
                        unreachable = error.reply
                if self._dials >= _MOST_DIALS:
                    break
                continue
            session.key = self._key
            self._shared.pool.opened(session)
            site.reached()
            return session
        if unreachable is not None:
            site.unreachable(unreachable)
        # For good only if every host says so (RFC 7504 4.2 for greetings, DNS for the others).
        deferred = [failure for failure in failures if failure.result == "deferred"]
        return (deferred or failures or [_NOBODY])[-1]

    async def _dial(self, host: Host, address: str) -> Session:
        site, attempt = self._site, self._attempt
        plan, route = attempt.job.plan, self._route
        tls = self._tls
        if tls.mode == "opportunistic" and site.plaintext.get(address, 0.0) > time.monotonic():
            tls = TlsPolicy("none")
        self._dials += 1
        try:
            return await self._shared.dialer.dial(host, address, route.port, plan, tls, attempt.dialogue)
        except PlaintextError:
            if len(site.plaintext) > _MOST_PLAINTEXT:
                site.plaintext.clear()
            site.plaintext[address] = time.monotonic() + _NO_TLS
            return await self._shared.dialer.dial(host, address, route.port, plan, TlsPolicy("none"), attempt.dialogue)

    def _judge(self, answered: bool, outcomes: list[RecipientOutcome]) -> None:
        """What the replies say about the site."""
        site = self._site
        if answered:
            site.reached()
        limits = self._attempt.job.plan.limits
        if not limits.adaptive:
            return
        limit = limits.connections or self._shared.settings.site_connections
        if any(throttles(outcome.reply) for outcome in outcomes if outcome.result == "deferred"):
            site.window.bad(time.monotonic(), limit)
        elif answered:
            site.window.good(limit)
