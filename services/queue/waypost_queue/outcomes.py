"""What SETTLE says about mails: the scan of recovery.

A scan is valid only for whoever asked before it began: the leader's last sequence is read after the question. All that
wait are served by one scan, and only what was asked for is kept, so that memory is bounded by what is in recovery.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

import structlog

from . import codec, subjects
from .background import end
from .errors import ApiError, StoreError
from .model import Report, SettleBatch, Settlement
from .store import Store, Stored

log = structlog.get_logger(__name__)

NO_MESSAGE = 10037  # JetStream's err_code
STALE_TRIES = 5  # scans by Direct Get (of a replica, perhaps behind) before the leader is asked message by message


class Outcomes:
    """The outcomes of some mails, from somewhere in SETTLE up to `upto`."""

    def __init__(self, mails: frozenset[str]) -> None:
        self.mails = mails
        self.upto = 0  # sequence
        self._settlements: dict[str, list[Settlement]] = {}

    def add(self, settlement: Settlement) -> None:
        self._settlements.setdefault(settlement.mail, []).append(settlement)

    def any(self, mail: str) -> bool:
        """Whether any recipient of the mail has an outcome."""
        return mail in self._settlements

    def rest(self, mail: str, indexes: Iterable[int]) -> tuple[int, ...]:
        """Those of the recipients that have no outcome."""
        final = {settled.index for each in self._settlements.get(mail, ()) for settled in each.outcomes}
        return tuple(index for index in indexes if index not in final)

    def owed(self, mail: str, n: int) -> tuple[Report, ...]:
        """The DSNs that the group's settlements owe, each id once."""
        reports: dict[str, Report] = {}
        for settlement in self._settlements.get(mail, ()):
            if settlement.n == n:
                for report in settlement.owed:
                    reports.setdefault(report.id, report)
        return tuple(reports.values())


class _Ask:
    __slots__ = ("after", "done", "outcomes", "since")

    def __init__(self, outcomes: Outcomes, since: float, after: int) -> None:
        self.outcomes, self.since, self.after = outcomes, since, after
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Scanner:
    """Scans the SETTLE of one shard."""

    def __init__(self, store: Store, shard: int) -> None:
        self._store = store
        self._stream = subjects.settle_stream(shard)
        self._subject = subjects.settle(shard)
        self._asks: list[_Ask] = []
        self._task: asyncio.Task[None] | None = None

    async def scan(self, mails: Iterable[str], since: float, after: int = 0) -> Outcomes:
        """All that SETTLE says at this moment about `mails`, from the time `since`, or from sequence `after` + 1."""
        outcomes = Outcomes(frozenset(mails))
        await self._ask(outcomes, since, after)
        return outcomes

    async def refresh(self, outcomes: Outcomes) -> None:
        """Adds what is new since the scan that made `outcomes`."""
        await self._ask(outcomes, 0.0, outcomes.upto)

    async def close(self) -> None:
        if self._task is not None:
            await end([self._task])

    async def _ask(self, outcomes: Outcomes, since: float, after: int) -> None:
        ask = _Ask(outcomes, since, after)
        self._asks.append(ask)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await ask.done

    async def _run(self) -> None:
        try:
            while self._asks:
                asks, self._asks = self._asks, []
                try:
                    found, last = await self._read_until_done(asks)
                except codec.NewerFormatError as error:
                    for ask in asks:
                        if not ask.done.done():
                            ask.done.set_exception(StoreError(f"{self._stream}: {error}"))
                    continue
                for ask in asks:
                    for seq, batch in found:
                        if seq > ask.after:
                            for settlement in batch:
                                if settlement.mail in ask.outcomes.mails:
                                    ask.outcomes.add(settlement)
                    ask.outcomes.upto = max(ask.after, last)
                    if not ask.done.done():
                        ask.done.set_result(None)
        finally:
            self._task = None

    async def _read_until_done(self, asks: list[_Ask]) -> tuple[list[tuple[int, list[Settlement]]], int]:
        while True:
            try:
                return await self._read(asks)
            except StoreError as error:
                log.debug("scan.again", stream=self._stream, error=str(error))
                await asyncio.sleep(0.1)

    async def _read(self, asks: list[_Ask]) -> tuple[list[tuple[int, list[Settlement]]], int]:
        """The settlements that somebody asked for, with their sequences, and the sequence up to which was read."""
        wanted = frozenset[str]().union(*(ask.outcomes.mails for ask in asks))
        state = (await self._store.api("STREAM.INFO." + self._stream))["state"]
        last: int = state["last_seq"]
        starts = [ask.after + 1 for ask in asks if ask.after]
        times = [ask.since for ask in asks if not ask.after]
        if times:
            starts.append(await self._first_since(min(times), last))
        seq = max(min(starts), state["first_seq"], 1)
        found: list[tuple[int, list[Settlement]]] = []

        def take(stored: Stored) -> int:
            try:
                settlements = codec.decode(stored.data, SettleBatch).settlements
            except codec.NewerFormatError:
                raise
            except codec.UndecodableError as error:
                log.error("scan.undecodable", stream=self._stream, seq=stored.seq, error=str(error))
                return stored.seq + 1
            relevant = [each for each in settlements if each.mail in wanted]
            if relevant and stored.seq <= last:
                found.append((stored.seq, relevant))
            return stored.seq + 1

        for _ in range(STALE_TRIES):
            if seq > last:
                return found, last
            async for stored in self._store.direct(self._stream, self._subject, seq):
                seq = take(stored)
            if seq <= last:
                await asyncio.sleep(0.02)
        while seq <= last:
            message = await self._store.next(self._stream, seq, self._subject)
            if message is None:
                break
            seq = take(message)
        return found, last

    async def _first_since(self, since: float, last: int) -> int:
        """The sequence of the first message at or after a time; `last` + 1 when there is none."""
        if since <= 0:
            return 1
        query = {
            "next_by_subj": self._subject,
            "start_time": datetime.fromtimestamp(since, UTC).isoformat().replace("+00:00", "Z"),
        }
        try:
            answer = await self._store.api("STREAM.MSG.GET." + self._stream, query)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return last + 1
            raise
        seq: int = answer["message"]["seq"]
        return seq
