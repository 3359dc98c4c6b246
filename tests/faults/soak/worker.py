"""One worker of the soak: the real engine, and a handler that asks the remote.

    python -m tests.faults.soak.worker '<json of Settings>'

Faults happen at named points (`waypost_queue.pause`) by seed: the process exits as by SIGKILL, or is stopped for longer
than `ack_wait`. Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

import asyncio
import contextlib
import contextvars
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import structlog
import uvloop

from tests.faults.soak import broken
from waypost_queue import ids, pause
from waypost_queue.engine import Engine, Slots
from waypost_queue.errors import OwnershipLostError, StoreError
from waypost_queue.held import Held
from waypost_queue.model import Mail, Recipient, Reply, Report, Settled
from waypost_queue.pull import Lane
from waypost_queue.spool import Spool
from waypost_queue.store import Store, StoreOptions
from waypost_queue.streams import Layout, Timing
from waypost_queue.work import Decision, Wait, Work

TIMING = Timing(
    ack_wait=3.0,
    pull_expires=0.9,
    keep_alive=1.0,
    guard_ttl=20.0,
    attempt_limit=19.0,
    retake_delay=0.3,
    duplicate_window=12.0,
)
MAX_ATTEMPTS = 7
ANSWERS = {"ok": "delivered", "perm": "failed"}


class Settings(msgspec.Struct, kw_only=True):
    name: str
    urls: list[str]
    folder: str
    seed: str
    point: str = ""  # where a fault happens
    how: str = "exit"  # or "stop"
    probability: float = 0.02
    broken: str = ""  # the repair to take out
    replicas: int = 1


def layout(replicas: int) -> Layout:
    return Layout(store_bytes=4 << 30, timing=TIMING, replicas=replicas)


# What the engine doesn't tell a handler and the verdict wants to know: which message, and when its fate was looked up.
_message: contextvars.ContextVar[tuple[str, int]] = contextvars.ContextVar("message")
_looked: contextvars.ContextVar[float] = contextvars.ContextVar("looked")


class Watched(Engine):
    async def _run(self, held: Held, lane: Lane, suspicious: bool) -> None:
        _message.set((f"{lane.kind}{held.seq}", held.deliveries))
        await super()._run(held, lane, suspicious)


class Asker:
    """The handler: one line to the remote and one back, over a few connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._socket = settings.folder + "/remote.sock"
        self._dice = random.Random(settings.seed + settings.name)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._places = asyncio.Semaphore(20)

    async def attempt(self, work: Work) -> Decision:
        began = time.monotonic()
        await work.body()
        answers = await self._ask(work, began)
        final = work.attempts_made + 1 >= MAX_ATTEMPTS
        settled, waiting, failed = [], [], []
        for index in work.indexes:
            answer, number = answers.get(str(index), ("temp", 0)) if answers is not None else ("temp", 0)
            if answer == "temp" and not final:
                waiting.append(index)
                continue
            result = ANSWERS.get(answer, "failed")
            settled.append(Settled(index=index, result=result, reply=Reply(code=number)))
            if result == "failed" and work.mail.kind == "mail":
                failed.append(settled[-1])
        owed = ()
        if failed:
            ident = ids.dsn_id(work.mail.id, [one.index for one in failed], "failure")
            owed = (Report(id=ident, kind="failure", recipients=tuple(failed)),)
        wait = None
        if waiting:
            at = work.now + self._dice.uniform(0.5, 3)
            wait = Wait(indexes=tuple(waiting), at=at, pool=work.pool, lane="bulk03", attempt=work.attempts_made + 1)
        return Decision(settled=tuple(settled), owed=owed, wait=wait)

    async def _ask(self, work: Work, began: float) -> dict[str, tuple[str, int]] | None:
        seq, deliveries = _message.get()
        about = json.loads(work.mail.subject) if work.mail.kind == "dsn" else None
        question = {
            "mail": work.mail.id,
            "kind": work.mail.kind,
            "about": about,
            "indexes": work.indexes,
            "worker": self._settings.name,
            "looked": _looked.get(began),
            "message": seq,
            "deliveries": deliveries,
        }
        async with self._places:
            for fresh in (False, True):
                try:
                    if self._free and not fresh:
                        reader, writer = self._free.pop()
                    else:
                        reader, writer = await asyncio.open_unix_connection(self._socket)
                    if not work.owned():
                        raise OwnershipLostError("before the dot")
                    question["began"] = time.monotonic()  # nothing is awaited between the look and the bytes
                    writer.write(json.dumps(question).encode() + b"\n")
                    line = await reader.readline()
                    if not line:
                        writer.close()
                        return None
                    self._free.append((reader, writer))
                    return json.loads(line)
                except OSError:
                    if fresh:
                        return None
        return None

    async def report(self, work: Work, report: Report) -> Mail:
        indexes = [settled.index for settled in report.recipients]
        about = {"mail": work.mail.id, "indexes": indexes, "token": f"{self._dice.getrandbits(48):x}"}
        content = b"a report"
        return Mail(
            id=report.id,
            sender="",
            recipients=(Recipient(address="sender@sender.test", domain="sender.test"),),
            size=len(content),
            accepted=work.now,
            content=content,
            kind="dsn",
            about=work.mail.id,
            subject=json.dumps(about),
        )

    def settled(self, work: Work, decision: Decision) -> None:
        pass

    def lane_for_retry(self, mail: Mail) -> str:
        return "bulk03"


class Faults:
    """The hook of the named points."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._dice = random.Random(settings.seed + settings.name + "faults")
        self._events = os.open(settings.folder + "/events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._calm = Path(settings.folder, "calm")
        self._from = time.monotonic() + 0.3

    def note(self, **what: object) -> None:
        line = json.dumps({"at": time.monotonic(), "worker": self._settings.name, **what})
        os.write(self._events, line.encode() + b"\n")

    def reached(self, point: str) -> None:
        if point in ("after_recv", "rec_between"):
            _looked.set(time.monotonic())
        if point != self._settings.point or self._dice.random() >= self._settings.probability:
            return
        if time.monotonic() < self._from or self._calm.exists():
            return
        if self._settings.how == "exit":
            self.note(event="kill", point=point)
            os._exit(137)
        for_s = TIMING.ack_wait * self._dice.choice([0.8, 1.3, 1.6])
        subprocess.Popen(["sh", "-c", f"sleep {for_s:.1f}; kill -CONT {os.getpid()}"], start_new_session=True)
        self.note(event="stop", point=point)
        os.kill(os.getpid(), signal.SIGSTOP)


async def main(settings: Settings) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))
    faults = Faults(settings)
    pause.hook = faults.reached
    ended = asyncio.Event()  # from before it can have anything in hand
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    if settings.broken:
        broken.take_out(settings.broken)
    store = Store(StoreOptions(servers=tuple(settings.urls), name=settings.name, connect_timeout=1.0))
    while True:
        try:
            await store.connect()
            break
        except StoreError:
            await asyncio.sleep(0.1)
    engine = Watched(
        store,
        layout(settings.replicas),
        Asker(settings),
        pool="default",
        spool=Spool(store),
        marks=lambda mail: None,
        worker=settings.name,
        slots=Slots(bundles=40, tickets=60),
    )
    while True:
        try:
            await engine.start()
            break
        except StoreError:
            await asyncio.sleep(0.1)
    await ended.wait()
    await engine.drain(8.0)
    with contextlib.suppress(StoreError):
        await store.close()


if __name__ == "__main__":
    uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Settings)))
