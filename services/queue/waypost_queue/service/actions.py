"""Hold, release, retry, bounce, delete: what a person does to queued mail.

The queue service alone acts on the queue for others, and only on what no worker can have in hand: a ticket that is
deferred or held becomes, by one fenced publish, a ready ticket that names the verdict (settled by delivery in the
ordinary order) or a hold. If the fence fails it has fired in between. What is about to fire, ready, in hand or still in
its bundle gets a control mark, which its owner heeds (marks.py).
"""

from collections.abc import Callable
from typing import Final

import opentelemetry.metrics
import structlog
from msgspec import structs

from waypost_queue import codec, eventlog, ids, listing, subjects
from waypost_queue.clock import StreamClock
from waypost_queue.errors import FencedError, FullError, StoreError, UnknownFateError
from waypost_queue.events import Event, RecipientResult
from waypost_queue.listing import Found
from waypost_queue.model import Bundle, ControlAnswer, ControlMark, ControlRequest, Hold, groups_of, recipients_by_index
from waypost_queue.store import Store
from waypost_queue.subjects import TicketSubject

from . import moves
from .copies import Copies
from .marks import Marks, find_bundle

log = structlog.get_logger(__name__)
_meter = opentelemetry.metrics.get_meter("waypost")

ACTIONS = _meter.create_counter(
    "waypost.queue.actions",
    unit="{ticket}",
    description="Tickets acted upon by request, by action and by what became of it (acted, in-delivery, nothing)",
)

_TRIES: Final = 5  # looks at one group whose entry changes meanwhile
_MARKED: Final = frozenset({"hold", "bounce", "delete"})  # a retry of what is in delivery is on its way already
_WHY: Final = {
    "hold": "held by request",
    "release": "released by request",
    "retry": "retried by request",
    "bounce": "returned by request",
    "delete": "deleted by request",
}


class Actions:
    """The actions on one shard."""

    def __init__(
        self,
        store: Store,
        shard: int,
        *,
        marks: Marks,
        copies: Copies,
        clock: StreamClock,
        emit: Callable[[Event], None],
    ) -> None:
        self._store = store
        self._shard = shard
        self._stream = subjects.queue_stream(shard)
        self._marks = marks
        self._copies = copies
        self._clock = clock
        self._emit = emit

    async def act(self, request: ControlRequest) -> ControlAnswer:
        """Does what the request asks; every outcome is an answer. Raises nothing of the store."""
        if not request.by:
            return ControlAnswer(
                error="refused", detail="`by` must name who acts: every action is noted with its author"
            )
        try:
            if request.mail.startswith(listing.HELD_BUNDLE):
                answer = await self._held_bundle(request)
            else:
                mail = ids.parse_mail_id(request.mail)
                answer = await self._mail(structs.replace(request, mail=mail))
        except ValueError as error:
            return ControlAnswer(error="not-found", detail=str(error))
        except FullError:
            return ControlAnswer(error="unavailable", detail="the store is full; mail must leave it first")
        except StoreError as error:
            log.warning("actions.failed", action=request.action, mail=request.mail, error=str(error))
            return ControlAnswer(error="unavailable", detail=f"the store did not answer; ask again ({error})")
        log.info(
            "actions.done",
            action=request.action,
            mail=request.mail,
            by=request.by,
            acted=answer.acted,
            in_delivery=answer.in_delivery,
            error=answer.error,
        )
        return answer

    async def heed(self, mark: ControlMark, subject: str) -> bool:
        """Applies a mark to the group of `subject`; whether nothing remains to be done there (marks.Act)."""
        request = ControlRequest(action=mark.action, mail=mark.mail, by=mark.by, domain=mark.domain, reason=mark.reason)
        outcome = await self._group(request, moves.group_of(subject))
        # a verdict is heeded once the mail has gone; a hold as soon as it stands
        return outcome == "acted" and mark.action == "hold"

    # -- one mail

    async def _mail(self, request: ControlRequest) -> ControlAnswer:
        mail = request.mail
        found = await listing.tickets_of(self._store, mail)
        if found:
            sequence = max(f.ticket.bundle for f in found)
            there = sequence and await self._store.at(subjects.intake_stream(self._shard), sequence) is not None
            in_bundle: int | None = sequence if there else 0
        else:
            in_bundle = await find_bundle(self._store, mail)
            if in_bundle == 0:  # it may have become tickets since the first look: mail only ever moves that way
                found = await listing.tickets_of(self._store, mail)
        if not found and in_bundle == 0:
            return ControlAnswer(
                error="not-found", detail=f"nothing of {mail} is queued: it has left, or never was here"
            )
        return await self._apply(request, found, in_bundle)

    async def _apply(self, request: ControlRequest, found: list[Found], in_bundle: int | None) -> ControlAnswer:
        held = self._marks.get(request.mail)
        if held is not None and held.domain not in ("", request.domain) and request.action in _MARKED:
            return ControlAnswer(
                error="unavailable",
                detail=f"{held.action} of the recipients at {held.domain} is still under way; ask again in a second",
            )
        if held is not None and held.action == "hold" and request.action in ("release", "retry"):
            await self._marks.drop(request.mail)  # before the release: else the mark would hold it again
        concerned = [f for f in found if request.domain in ("", f.ticket.domain)]
        if request.action == "bounce" and any(f.problem for f in concerned):
            return _UNREADABLE
        groups = {moves.group_of(f.subject) for f in concerned}
        outcomes = {group: await self._group(request, group) for group in groups}
        in_delivery = sum(outcome == "in-delivery" for outcome in outcomes.values())
        if in_bundle != 0:
            in_delivery += await self._groups_in_bundle(request, found, in_bundle)
        acted = sum(outcome == "acted" for outcome in outcomes.values())
        if not acted and not in_delivery and not any(outcome == "nothing" for outcome in outcomes.values()):
            detail = (
                f"no recipient at {request.domain} of {request.mail} is queued" if request.domain else "it has left"
            )
            return ControlAnswer(error="not-found", detail=detail)
        if in_delivery and request.action in ("hold", "bounce", "delete"):
            mark = ControlMark(
                mail=request.mail,
                action=request.action,
                by=request.by,
                at=self._clock.now(),
                reason=request.reason,
                domain=request.domain,
            )
            await self._marks.put(mark, in_bundle)
        for outcome in ("acted", "in-delivery", "nothing"):
            number = in_delivery if outcome == "in-delivery" else sum(o == outcome for o in outcomes.values())
            if number:
                ACTIONS.add(number, {"action": request.action, "outcome": outcome})
        self._note(request, found, acted, in_delivery)
        detail = "" if acted or in_delivery else "nothing to do: it is not held"
        return ControlAnswer(acted=acted, in_delivery=in_delivery, detail=detail)

    async def _groups_in_bundle(self, request: ControlRequest, found: list[Found], seq: int | None) -> int:
        """How many groups that have no ticket the mail's bundle may still hold; at least 1 if it can't be seen."""
        if found:
            have = {(f.ticket.domain, f.ticket.n) for f in found}
            rest = [group for group in found[-1].ticket.groups if group not in have]
            return sum(request.domain in ("", domain) for domain, _ in rest)
        stored = None if seq is None else await self._store.at(subjects.intake_stream(self._shard), seq)
        if stored is None:
            return 1
        mails = codec.decode(stored.data, Bundle).mails
        domains = next((list(groups_of(mail)) for mail in mails if mail.id == request.mail), [])
        return sum(request.domain in ("", domain) for domain in domains)

    # -- one group

    async def _group(self, request: ControlRequest, group: str) -> str:
        """acted | in-delivery | nothing | gone. Each try looks anew: the entry may fire or be settled in between."""
        for _ in range(_TRIES):
            stored = await self._store.last(self._stream, group)
            if stored is None:
                return "gone"
            found = listing.read(stored)
            state = TicketSubject(found.subject).state
            if state in ("ready", "guard"):
                ours = found.ticket.verdict == request.action and found.ticket.verdict_by == request.by
                return "acted" if ours else "in-delivery"
            if state == "sched" and found.due - self._clock.now() < moves.NEAR:
                return "in-delivery"  # it fires now: its owner heeds the mark
            if (request.action == "release" and state == "sched") or (request.action == "hold" and found.problem):
                return "nothing"
            if request.action == "hold" and found.ticket.hold is not None and found.ticket.hold.cause == "person":
                return "acted"
            move = self._move(request, found)
            try:
                if move is None:
                    await moves.delete(self._store, self._stream, found.seq)
                else:
                    await moves.publish(self._store, move)
            except (FencedError, UnknownFateError):
                continue
            self._tell(request, found, state)
            return "acted"
        return "in-delivery"

    def _move(self, request: ControlRequest, found: Found) -> moves.Move | None:
        """The publish that does it; None: the entry is deleted by its sequence.

        What can't be decoded can carry no verdict: it is tried again as it is, or taken away.
        """
        now = self._clock.now()
        if found.problem:
            return None if request.action == "delete" else moves.to_ready(found.subject, found.seq, found.data)
        ticket = moves.unheld(found.ticket, now)
        if request.action == "hold":
            hold = Hold(cause="person", reason=request.reason or _WHY["hold"], since=now, by=request.by)
            return moves.to_hold(found.subject, found.seq, structs.replace(ticket, hold=hold))
        verdict = structs.replace(
            ticket, verdict=request.action, verdict_by=request.by, verdict_reason=request.reason, due=now
        )
        return moves.to_ready(found.subject, found.seq, verdict)

    # -- a bundle that is held whole

    async def _held_bundle(self, request: ControlRequest) -> ControlAnswer:
        if listing.shard_of(request.mail) != self._shard:
            raise ValueError(f"{request.mail} is not of shard {self._shard}")
        bundle = request.mail.rpartition("-")[0]
        found = await listing.entries_at(self._store, self._shard, f"q{self._shard}.hold.*.*.=.{bundle}.0")
        if not found:
            return ControlAnswer(error="not-found", detail=f"no {request.mail} is held in shard {self._shard}")
        if request.action == "bounce":
            return _UNREADABLE
        if request.action == "delete":
            await moves.delete(self._store, self._stream, found[0].seq)
        elif request.action != "hold":
            await self._copies.release(found[0])
        self._note(request, found, 1, 0)
        ACTIONS.add(1, {"action": request.action, "outcome": "acted"})
        return ControlAnswer(acted=1)

    # -- what the world is told

    def _tell(self, request: ControlRequest, found: Found, state: str) -> None:
        """A hold or the end of one, per group; what a verdict leads to is told by delivery."""
        if found.problem or (request.action != "hold" and state != "hold"):
            return
        ticket = found.ticket
        self._emit(
            Event(
                id=eventlog.new_id(),
                kind="held" if request.action == "hold" else "released",
                at=self._clock.now(),
                mail=ticket.mail.id,
                tenant=ticket.mail.tenant,
                domain=ticket.mail.domain,
                destination=ticket.domain,
                pool=ticket.pool,
                recipients=tuple(
                    RecipientResult(index=index, address=recipient.address, result="deferred")
                    for index, recipient in recipients_by_index(ticket).items()
                ),
                by=request.by,
                text=request.reason or _WHY[request.action],
            )
        )

    def _note(self, request: ControlRequest, found: list[Found], acted: int, in_delivery: int) -> None:
        """Who did what: one a request."""
        mail = found[0].ticket.mail if found else None
        where = f" for {request.domain}" if request.domain else ""
        reason = f": {request.reason}" if request.reason else ""
        self._emit(
            Event(
                id=eventlog.new_id(),
                kind="action",
                at=self._clock.now(),
                mail=request.mail,
                tenant=mail.tenant if mail else "",
                domain=mail.domain if mail else "",
                destination=request.domain,
                by=request.by,
                text=f"{request.action}{where}{reason} (queued {acted}, in delivery {in_delivery})",
            )
        )


_UNREADABLE = ControlAnswer(
    error="refused",
    detail="it can't be decoded, so its sender is unknown and it can't be returned: release or delete it",
)
