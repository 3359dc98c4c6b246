"""What routes are given: the connection, the history, the inbox, the caller."""

from typing import Annotated

from fastapi import Depends, Path, Request

from waypost_queue import ids
from waypost_queue.inbox import Inbox
from waypost_queue.store import Store

from ..auth import caller
from ..history.database import Database
from ..problems import ProblemError
from ..settings import ApiSettings

Caller = Annotated[str, Depends(caller)]


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _history(request: Request) -> Database:
    database: Database = request.app.state.database
    if not database.opened:
        raise ProblemError(
            503,
            "History not open",
            "The history waits for the queue service to make its streams; try again in a moment.",
        )
    return database


def _inbox(request: Request) -> Inbox:
    inbox: Inbox = request.app.state.inbox
    return inbox


def _settings(request: Request) -> ApiSettings:
    settings: ApiSettings = request.app.state.settings
    return settings


def _mail_id(mail: Annotated[str, Path(description="a mail id, in any case", max_length=64)]) -> str:
    try:
        return ids.parse_mail_id(mail)
    except ValueError as error:
        raise ProblemError(400, "No mail id", str(error)) from error


StoreDep = Annotated[Store, Depends(_store)]
HistoryDep = Annotated[Database, Depends(_history)]
InboxDep = Annotated[Inbox, Depends(_inbox)]
SettingsDep = Annotated[ApiSettings, Depends(_settings)]
MailId = Annotated[str, Depends(_mail_id)]
