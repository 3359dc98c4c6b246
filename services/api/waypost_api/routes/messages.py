"""`/v1/messages`: one message with all that happened to it, and what can be done with what waits of it."""

from typing import Annotated

from fastapi import APIRouter, Query

from waypost_queue import control, listing
from waypost_queue.model import ControlRequest
from waypost_queue.subjects import TicketSubject

from ..problems import ProblemError
from ..views import ActionRequest, ActionResult, EventView, MessageSummary, MessageView, TicketView
from .deps import Caller, HistoryDep, MailId, SettingsDep, StoreDep

router = APIRouter(prefix="/v1/messages", tags=["messages"])


@router.get("")
async def recent(
    _caller: Caller, history: HistoryDep, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> list[MessageSummary]:
    """The newest messages."""
    return [MessageSummary.of(row) for row in await history.recent(limit)]


@router.get("/{mail}")
async def message(_caller: Caller, mail: MailId, store: StoreDep, history: HistoryDep) -> MessageView:
    """One message: recipients, what waits now (from the queue itself), events with each attempt's SMTP dialogue."""
    row = await history.message(mail)
    tickets = await listing.tickets_of(store, mail)
    if row is None and not tickets:
        raise ProblemError(
            404, "Unknown message", f"No message {mail} in the history or the queue; a new one appears within a second."
        )
    if row is None:
        row = {"id": mail, "recipients": []}
    return MessageView(
        **MessageSummary.of(row).model_dump(),
        waiting=[TicketView.of(TicketSubject(one.subject).state, one.ticket) for one in tickets],
        events=[EventView.of(event) for event in await history.events(mail)],
        reports=await history.reports_about(mail),
    )


@router.post("/{mail}/actions")
async def act(
    who: Caller, mail: MailId, body: ActionRequest, store: StoreDep, history: HistoryDep, settings: SettingsDep
) -> ActionResult:
    """Hold, release, retry now, bounce now or delete what waits of a message; who asked is noted."""
    if int(mail[-1], 16) >= settings.shards:
        raise ProblemError(404, "Unknown message", f"No message {mail}: there is no shard {mail[-1]}.")
    request = ControlRequest(action=body.action, mail=mail, by=who, domain=body.domain.lower(), reason=body.reason)  # type: ignore[arg-type]
    answer = await control.act(store, request)
    if answer.error == "not-found":
        row = await history.message(mail)
        detail = f"Nothing of {mail} waits{': it has come to its end' if row is not None else ''}."
        raise ProblemError(404 if row is None else 409, "Nothing waits", answer.detail or detail)
    if answer.error == "unavailable":
        raise ProblemError(
            503, "Queue service away", "No queue service is active; mail flows on, try again in a moment."
        )
    if answer.error:
        raise ProblemError(409, "Not possible", answer.detail or answer.error)
    return ActionResult(acted=answer.acted, in_delivery=answer.in_delivery, detail=answer.detail)
