"""`/v1/inbox`: mail that was kept inside instead of leaving."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from waypost_queue.events import InboxMail
from waypost_queue.inbox import Inbox

from ..content import headers_of, parts_of
from ..problems import ProblemError
from ..views import InboxSummary, InboxView
from .deps import Caller, InboxDep, MailId

router = APIRouter(prefix="/v1/inbox", tags=["inbox"])


@router.get("")
async def mails(
    _caller: Caller, inbox: InboxDep, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> list[InboxSummary]:
    """The newest mails in the inbox."""
    return [summary(mail) for _, mail in await inbox.list(limit)]


@router.get("/{mail}")
async def mail(_caller: Caller, mail: MailId, inbox: InboxDep) -> InboxView:
    """One mail: headers, text, attachments' names."""
    found = await find(inbox, mail)
    text, attachments = parts_of(found.content)
    return InboxView(
        **summary(found).model_dump(), headers=headers_of(found.content), text=text, attachments=attachments
    )


@router.get("/{mail}/source", response_class=Response)
async def source(_caller: Caller, mail: MailId, inbox: InboxDep) -> Response:
    """The very bytes, as plain text that no browser runs."""
    found = await find(inbox, mail)
    return Response(
        found.content,
        media_type="text/plain; charset=utf-8",
        headers={"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"},
    )


async def find(inbox: Inbox, mail: str) -> InboxMail:
    """One mail of the inbox; 404 if it is not there."""
    found = await inbox.get(mail)
    if found is None:
        raise ProblemError(404, "Not in the inbox", f"No mail {mail} is in the inbox (the newest 10,000 of 7 days).")
    return found


def summary(mail: InboxMail) -> InboxSummary:
    return InboxSummary(
        id=mail.mail,
        sender=mail.sender,
        recipients=list(mail.recipients),
        subject=mail.subject,
        accepted=mail.accepted,
        delivered=mail.delivered,
        size=len(mail.content),
    )
