"""From a finished transaction to a durable mail: policy at the content, spool, INTAKE, then the 250 with its id.

A 250 is given only when INTAKE has the mail on disk. Whatever fails before that is a 4xx, and what the transaction took
of the sender's limits is given back. A body that is in the spool by then, and whose mail is not in INTAKE, belongs to
nobody: the queue service sweeps it.
"""

import time
from collections.abc import Callable

import opentelemetry.metrics
import structlog
from msgspec import Struct

from waypost_policy import acceptance as policy
from waypost_policy import headers as mail_headers
from waypost_policy import trace
from waypost_policy.acceptance import Grant, Listener
from waypost_policy.index import ConfigIndex
from waypost_policy.limits import FairShare, Limiter
from waypost_policy.replies import Answer, Replies
from waypost_queue import eventlog, ids
from waypost_queue.errors import FullError, StoreError
from waypost_queue.eventlog import EventLog
from waypost_queue.events import Event
from waypost_queue.intake import Intake, IntakeFullError, IntakeUnavailableError
from waypost_queue.model import INLINE_LIMIT, Mail, Recipient
from waypost_queue.pause import reached
from waypost_queue.spool import Spool
from waypost_queue.subjects import FAST, PRIO, bulk_lane

from .parameters import MailParameters

log = structlog.get_logger(__name__)

_meter = opentelemetry.metrics.get_meter("waypost")
ACCEPTED = _meter.create_counter(
    "waypost.mails.accepted", unit="{mail}", description="Mails that got their 250, by listener."
)
ACCEPTED_OCTETS = _meter.create_counter(
    "waypost.mails.accepted.size", unit="By", description="Octets of the mails that got their 250, by listener."
)
ACCEPTED_RECIPIENTS = _meter.create_counter(
    "waypost.recipients.accepted", unit="{recipient}", description="Recipients of the mails that got their 250."
)


class Submission(Struct, frozen=True):
    """A whole transaction, as the session hands it over."""

    grant: Grant
    parameters: MailParameters
    recipients: tuple[Recipient, ...]
    priority: int  # after what the sender may ask for
    received: bytes  # trace.received_start
    listener: Listener
    source: str  # the peer's address


class Acceptor:
    """Shared by all sessions of a worker."""

    def __init__(
        self,
        *,
        intake: Intake,
        spool: Spool,
        events: EventLog,
        index: Callable[[], ConfigIndex],
        limiter: Limiter,
        shares: FairShare,
        hostname: str,
        worker: str,
    ) -> None:
        self.limiter = limiter
        self._intake = intake
        self._spool = spool
        self._events = events
        self._index = index
        self._shares = shares
        self._hostname = hostname
        self._worker = worker
        self._mails: dict[Listener, int] = {}
        self._octets: dict[Listener, int] = {}
        self._recipients = 0

    def room(self) -> Answer | None:
        """The refusal to give at MAIL while the store has no room."""
        reason = self._intake.room()
        return Replies.STORE_FULL(reason=reason) if reason else None

    async def accept(self, submission: Submission, content: bytes) -> Answer:
        """Stores the mail; the answer to its sender. Nothing may cancel this for a client that has gone."""
        now = time.time()
        grant = submission.grant
        accepted = len(submission.recipients)
        answer: Answer | None = None
        try:
            decided = self._decide(submission, content, now)
            if isinstance(decided, Answer):
                answer = decided
                return answer
            grant, headers = decided
            answer = await self._store(submission, grant, headers, content, now)
            return answer
        finally:
            if answer is None or answer.code >= 400:
                self.limiter.give_back(grant.scopes, accepted, now)

    def _decide(
        self, submission: Submission, content: bytes, now: float
    ) -> tuple[Grant, mail_headers.Headers] | Answer:
        headers = mail_headers.scan(content)
        if isinstance(headers, Answer):
            return headers
        grant = policy.at_content(
            self._index(), submission.grant, headers, len(content), len(submission.recipients), self.limiter, now
        )
        return grant if isinstance(grant, Answer) else (grant, headers)

    async def _store(
        self, submission: Submission, grant: Grant, headers: mail_headers.Headers, content: bytes, now: float
    ) -> Answer:
        recipients = submission.recipients
        parameters = submission.parameters
        listener = submission.listener
        mail_id = ids.mail_id(now, self._intake.shard)
        received = trace.received(
            submission.received, mail_id, now, recipients[0].address if len(recipients) == 1 else ""
        )
        content = trace.assemble(
            content, headers, received, mail_id=mail_id, host=self._hostname, now=now, submission=listener != "mx"
        )
        size = len(content)
        eight_bit = parameters.eight_bit or not content.isascii()
        inline: bytes | None = content
        chunks = 0
        try:
            if size > INLINE_LIMIT:
                chunks = await self._spool.put(mail_id, content)
                inline = None
                del content
                reached("accept_spooled")
            mail = Mail(
                id=mail_id,
                sender=grant.sender.text,
                recipients=recipients,
                size=size,
                accepted=now,
                content=inline,
                chunks=chunks,
                domain=grant.domain,
                tenant=grant.tenant,
                credential=grant.credential,
                source=submission.source,
                eight_bit=eight_bit,
                smtputf8=parameters.smtputf8,
                ret=parameters.ret,
                envid=parameters.envid,
                priority=submission.priority,
                not_before=parameters.not_before,
                subject=headers.subject,
                message_id=headers.message_id
                or ("" if listener == "mx" or headers.has_message_id else trace.message_id(mail_id, self._hostname)),
            )
            await self._intake.put(mail, pool=grant.pool, lane=self._lane(mail, len(recipients), now))
            reached("accept_committed")
        except (FullError, IntakeFullError) as error:
            log.warning("acceptance.full", mail=mail_id, error=str(error))
            return Replies.STORE_FULL(reason="no room for this mail")
        except (StoreError, IntakeUnavailableError) as error:
            log.warning("acceptance.not_stored", mail=mail_id, error=str(error))
            return Replies.STORE_UNAVAILABLE()
        self._count(listener, size, len(recipients))
        self._events.emit(
            Event(
                id=eventlog.new_id(),
                kind="accepted",
                at=now,
                mail=mail_id,
                tenant=mail.tenant,
                domain=mail.domain,
                pool=grant.pool,
                sender=mail.sender,
                addresses=tuple([recipient.address for recipient in recipients]),
                size=size,
                subject=mail.subject,
                message_id=mail.message_id,
                credential=mail.credential,
                source=mail.source,
                mail_kind="mail",
                worker=self._worker,
            )
        )
        return Replies.QUEUED(id=mail_id)

    def _lane(self, mail: Mail, recipients: int, now: float) -> str:
        """A tenant over its share goes to its bulk lane, whatever priority it asks for: a flood delays itself alone."""
        lane = self._shares.lane(mail.tenant, recipients, now)
        if lane != FAST or mail.priority == 0:
            return lane
        return PRIO if mail.priority > 0 else bulk_lane(mail.tenant)

    # -- counting: added up here and handed over in one go, since a counter costs more than the rest of a small mail

    def _count(self, listener: Listener, size: int, recipients: int) -> None:
        self._mails[listener] = self._mails.get(listener, 0) + 1
        self._octets[listener] = self._octets.get(listener, 0) + size
        self._recipients += recipients

    def flush_metrics(self) -> None:
        """Hands over what was counted since the last call."""
        for listener, mails in self._mails.items():
            ACCEPTED.add(mails, {"listener": listener})
            ACCEPTED_OCTETS.add(self._octets[listener], {"listener": listener})
        if self._recipients:
            ACCEPTED_RECIPIENTS.add(self._recipients)
        self._mails.clear()
        self._octets.clear()
        self._recipients = 0
