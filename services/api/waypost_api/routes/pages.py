"""Plain pages: the inbox, one mail, one message's way. No script, everything escaped, a strict policy."""

import datetime as dt
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..content import headers_of, parts_of
from ..views import EventView, MessageSummary
from .deps import Caller, HistoryDep, InboxDep, MailId, SettingsDep, StoreDep
from .inbox import find, summary
from .messages import message
from .queue import destinations

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def _clock(seconds: float | None) -> str:
    return "" if not seconds else dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent.parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters["clock"] = _clock


def _page(name: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(_environment.get_template(name).render(**values), headers=_HEADERS)


@router.get("/")
async def home(
    caller: Caller, inbox: InboxDep, history: HistoryDep, store: StoreDep, settings: SettingsDep
) -> HTMLResponse:
    return _page(
        "home.html",
        inbox=[summary(mail) for _, mail in await inbox.list(50)],
        messages=[MessageSummary.of(row) for row in await history.recent(50)],
        destinations=await destinations(caller, store, settings, 20),
    )


@router.get("/inbox/{mail}")
async def inbox_mail(_caller: Caller, mail: MailId, inbox: InboxDep) -> HTMLResponse:
    found = await find(inbox, mail)
    text, attachments = parts_of(found.content)
    return _page(
        "mail.html", mail=summary(found), headers=headers_of(found.content), text=text, attachments=attachments
    )


@router.get("/messages/{mail}")
async def message_page(caller: Caller, mail: MailId, store: StoreDep, history: HistoryDep) -> HTMLResponse:
    found = await message(caller, mail, store, history)
    return _page("message.html", message=found, dialogue=_dialogue)


def _dialogue(event: EventView) -> str:
    """An attempt's dialogue as lines of text."""
    sign = {"c": ">>>", "s": "<<<", "-": "---"}
    return "\n".join(f"{line.at:8.3f} {sign.get(line.who, '   ')} {line.text}" for line in event.dialogue)


@router.get("/style.css")
async def style(_request: Request) -> HTMLResponse:
    css = (Path(__file__).parent.parent / "templates" / "style.css").read_text("utf-8")
    return HTMLResponse(css, media_type="text/css", headers={"Cache-Control": "max-age=300"})
