"""The history database: one writer thread, any number of readers, all bounded in rows and time."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection, Engine, bindparam, create_engine, delete, event, func, inspect, select
from sqlalchemy.dialects import postgresql, sqlite

from waypost_queue.events import Event

from .rows import END, Rows
from .schema import VERSION, cursor, events, messages, metadata, recipients

log = structlog.get_logger(__name__)

T = TypeVar("T")
_READERS = 4
MAX_EVENTS_SHOWN = 500
_MOVED = ("state", "rank", "at", "attempts", "next_attempt", "code", "enhanced", "text", "mta", "destination")
_SET_CURSOR = cursor.update().values(seq=bindparam("reached"))


class Database:
    """Blocking SQL on threads; `url` is SQLAlchemy's (SQLite or PostgreSQL)."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = create_engine(
            url,
            pool_size=_READERS + 1,
            max_overflow=0,
            hide_parameters=True,  # mail, in errors, logs and /readyz
        )
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _sqlite_pragmas)
        self._writer = ThreadPoolExecutor(1, "history-writer")
        self._readers = ThreadPoolExecutor(_READERS, "history-reader")
        self._decode = msgspec.msgpack.Decoder(Event)
        self.opened = False  # before that there are no tables to read
        # Made once: making a statement costs more than running it on a small batch.
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        self._add_events = insert(events).on_conflict_do_nothing()
        self._add_messages = insert(messages).on_conflict_do_nothing()
        statement = insert(recipients)
        new = statement.excluded
        self._move_recipients = statement.on_conflict_do_update(
            index_elements=["mail", "idx"],
            set_={name: new[name] for name in _MOVED},
            where=(recipients.c.rank < END)
            & ((new.rank > recipients.c.rank) | ((new.rank == recipients.c.rank) & (new.at >= recipients.c.at))),
        )

    async def open(self, stream_created: str) -> int:
        """Creates what is missing; returns the EVENTS sequence up to which it is projected.

        A database of another version, or of a stream that was made anew, is emptied and projected from the start.
        """
        seq = await self._write(lambda connection: self._prepare(connection, stream_created))
        self.opened = True
        return seq

    def _prepare(self, connection: Connection, stream_created: str) -> int:
        if inspect(connection).has_table("cursor"):
            row = connection.execute(select(cursor.c.version, cursor.c.stream_created, cursor.c.seq)).first()
            if row is not None and row.version == VERSION and row.stream_created == stream_created:
                return int(row.seq)
            log.info("history.rebuild", reason="another version or another EVENTS stream")
            metadata.drop_all(connection)
        metadata.create_all(connection)
        connection.execute(cursor.insert().values(id=1, version=VERSION, stream_created=stream_created, seq=0))
        return 0

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        self._engine.dispose()

    # -- write

    async def apply(self, rows: Rows, seq: int) -> None:
        """Adds a batch and moves the cursor, in one transaction."""
        await self._write(lambda connection: self._apply(connection, rows, seq))

    def _apply(self, connection: Connection, rows: Rows, seq: int) -> None:
        if rows.events:
            connection.execute(self._add_events, list(rows.events.values()))
        if rows.messages:
            connection.execute(self._add_messages, list(rows.messages.values()))
        if rows.recipients:
            connection.execute(self._move_recipients, list(rows.recipients.values()))
        connection.execute(_SET_CURSOR, {"reached": seq})

    async def prune(self, before: float, limit: int = 5000) -> int:
        """Deletes at most `limit` messages that were accepted before a time, with their recipients and events.

        So goes what is older and was told of a message whose acceptance never was: events may be lost.
        """
        return await self._write(lambda connection: self._prune(connection, before, limit))

    def _prune(self, connection: Connection, before: float, limit: int) -> int:
        old = [
            row.id for row in connection.execute(select(messages.c.id).where(messages.c.accepted < before).limit(limit))
        ]
        if not old:
            known = select(messages.c.id)
            connection.execute(delete(events).where(events.c.at < before, events.c.mail.not_in(known)))
            connection.execute(delete(recipients).where(recipients.c.at < before, recipients.c.mail.not_in(known)))
        for start in range(0, len(old), 500):
            some = old[start : start + 500]
            connection.execute(delete(events).where(events.c.mail.in_(some)))
            connection.execute(delete(recipients).where(recipients.c.mail.in_(some)))
            connection.execute(delete(messages).where(messages.c.id.in_(some)))
        return len(old)

    # -- read

    async def message(self, mail: str) -> dict[str, Any] | None:
        """One message with its recipients (in order), or None."""

        def query(connection: Connection) -> dict[str, Any] | None:
            row = connection.execute(select(messages).where(messages.c.id == mail)).mappings().first()
            rcpts = connection.execute(select(recipients).where(recipients.c.mail == mail).order_by(recipients.c.idx))
            found = [dict(one) for one in rcpts.mappings()]
            if row is None and not found:
                return None
            return {**(dict(row) if row is not None else {"id": mail}), "recipients": found}

        return await self._read(query)

    async def events(self, mail: str) -> list[Event]:
        """The events of a message in order of time, at most 500: the newest when there are more."""

        def query(connection: Connection) -> Sequence[bytes]:
            newest = (
                select(events.c.payload, events.c.at)
                .where(events.c.mail == mail)
                .order_by(events.c.at.desc(), events.c.id.desc())
                .limit(MAX_EVENTS_SHOWN)
            )
            return [row.payload for row in connection.execute(newest)]

        return [self._decode.decode(payload) for payload in reversed(await self._read(query))]

    async def recent(self, limit: int) -> list[dict[str, Any]]:
        """The newest messages, each with the states of its recipients."""

        def query(connection: Connection) -> list[dict[str, Any]]:
            statement = select(messages).order_by(messages.c.accepted.desc()).limit(limit)
            found = [dict(row) for row in connection.execute(statement).mappings()]
            ids = [row["id"] for row in found]
            states: dict[str, list[dict[str, Any]]] = {}
            for row in connection.execute(
                select(recipients).where(recipients.c.mail.in_(ids)).order_by(recipients.c.mail, recipients.c.idx)
            ).mappings():
                states.setdefault(row["mail"], []).append(dict(row))
            return [{**row, "recipients": states.get(row["id"], [])} for row in found]

        return await self._read(query)

    async def reports_about(self, mail: str) -> list[str]:
        """Ids of the DSNs about a message."""

        def query(connection: Connection) -> list[str]:
            return [
                row.id for row in connection.execute(select(messages.c.id).where(messages.c.about == mail).limit(100))
            ]

        return await self._read(query)

    async def count(self) -> int:
        def query(connection: Connection) -> int:
            return int(connection.execute(select(func.count()).select_from(messages)).scalar_one())

        return await self._read(query)

    # -- threads

    async def _read(self, query: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._engine.connect() as connection:
                return query(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def _write(self, change: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._engine.begin() as connection:
                return change(connection)

        return await asyncio.get_running_loop().run_in_executor(self._writer, run)


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    """WAL with synchronous=NORMAL: a power cut may undo the last batches, which are then projected again."""
    pragmas = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000", "cache_size=-16384"):
        pragmas.execute(f"PRAGMA {pragma}")
    pragmas.close()
