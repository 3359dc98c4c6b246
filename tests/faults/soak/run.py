"""One run: a server (or three), a producer, three workers, and what kills them.

Faults by mode: `workers` SIGKILL of workers; `server` SIGKILL of a server, `servers` of all at once; `stops` SIGSTOP
past `ack_wait`; `terms` SIGTERM; `all` of these; `none` only what the named points do; `pausew` those and SIGKILL of
workers.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tests.faults.soak.verdict import Key, Verdict, judge
from tests.faults.soak.worker import TIMING, Settings, layout
from waypost_queue import codec, ids, subjects
from waypost_queue.errors import StoreError
from waypost_queue.model import INLINE_LIMIT, Bundle, Mail, Recipient, SettleBatch
from waypost_queue.service import admin
from waypost_queue.spool import Spool
from waypost_queue.store import Store, StoreOptions

ROOT = Path(__file__).parents[3]
SERVER = Path(sys.prefix) / "bin" / "nats-server"
WORKERS = 3
MAILS = (1, 1, 2, 3, 4, 6, 8, 12, 20, 64)  # a bundle
DOMAINS = ("a.test", "b.test", "c.test")
KINDS = {
    "workers": "w",
    "server": "s",
    "servers": "S",
    "stops": "t",
    "terms": "e",
    "all": "wste",
    "none": "",
    "pausew": "w",
}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What happens in a run; `text` is `mode[:point:exit|stop:probability]`."""

    mode: str
    point: str = ""
    how: str = "exit"
    probability: float = 0.0
    broken: str = ""
    slow: float = 0.0  # share of attempts that take longer than ack_wait
    replicas: int = 1
    seconds: float = 9.0
    rate: float = 9.0  # bundles a second

    def __str__(self) -> str:
        point = f":{self.point}:{self.how}:{self.probability:g}" if self.point else ""
        extras = f"{f' R{self.replicas}' if self.replicas > 1 else ''}{f' slow {self.slow:g}' if self.slow else ''}"
        return f"{self.mode}{point}{extras}{f' without {self.broken}' if self.broken else ''}"


class Run:
    """Everything that one run starts; `ports` are its servers'."""

    def __init__(self, case: Case, seed: str, folder: Path, ports: list[int]) -> None:
        self.case, self.seed, self.folder, self.ports = case, seed, folder, ports
        self.urls = [f"nats://127.0.0.1:{port}" for port in ports]
        self.dice = random.Random(f"{seed}{case}")
        self.servers: list[subprocess.Popen[bytes]] = []
        self.workers: dict[int, tuple[subprocess.Popen[bytes], str]] = {}
        self.generation: dict[int, int] = defaultdict(int)
        self.accepted: list[Key] = []
        self.verdict = Verdict(case=str(case), seed=seed)
        self.ending = False
        self.over = False
        self._events = os.open(folder / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        # the server's wall clock against the monotonic one of the ledger
        self.ahead = time.time() - time.monotonic()

    def note(self, worker: str, event: str, began: float | None = None) -> None:
        """A fault took effect somewhen between `began` and now."""
        now = time.monotonic()
        row = {"at": now if began is None else began, "end": now, "worker": worker, "event": event}
        os.write(self._events, json.dumps(row).encode() + b"\n")

    # -- processes

    def start_server(self, place: int) -> subprocess.Popen[bytes]:
        cluster = ""
        if len(self.ports) > 1:
            routes = ", ".join(f'"nats://127.0.0.1:{port + 1000}"' for port in self.ports)
            listen = f"127.0.0.1:{self.ports[place] + 1000}"
            cluster = f'server_name: n{place}\ncluster {{ name: soak, listen: "{listen}", routes: [{routes}] }}\n'
        conf = self.folder / f"nats{place}.conf"
        conf.write_text(
            f"listen: 127.0.0.1:{self.ports[place]}\nmax_payload: 8MB\nping_interval: 10s\nping_max: 2\n{cluster}"
            f'jetstream {{ store_dir: "{self.folder}/js{place}", sync_interval: always, max_mem: 256MB, max_file: 8GB\n'
            "  limits { batch { max_inflight_per_stream: 500, max_inflight_total: 4000 } } }\n"
        )
        with (self.folder / f"nats{place}.log").open("ab") as log:
            return subprocess.Popen([str(SERVER), "-c", str(conf)], stdout=log, stderr=log)

    def start_worker(self, place: int) -> None:
        self.generation[place] += 1
        name = f"w{place}.{self.generation[place]}"
        case = self.case
        settings = Settings(
            name=name,
            urls=self.urls,
            folder=str(self.folder),
            seed=self.seed,
            point=case.point,
            how=case.how,
            probability=case.probability,
            broken=case.broken,
            replicas=case.replicas,
        )
        argument = msgspec.json.encode(settings).decode()
        with (self.folder / "workers.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.soak.worker", argument], cwd=ROOT, stdout=log, stderr=log
            )
        self.workers[place] = process, name

    async def keep_workers(self) -> None:
        while not self.over:
            for place, (process, name) in list(self.workers.items()):
                code = process.poll()
                if code is not None:
                    if code not in (137, -9, 0, -signal.SIGTERM):  # SIGTERM: while it was still being loaded
                        self.note(name, "crash")
                    self.start_worker(place)
            await asyncio.sleep(0.05)

    # -- load

    async def produce(self, store: Store) -> None:
        bundles = []
        number = 0
        while not self.ending:
            number += 1
            bundles.append(asyncio.create_task(self.bundle(store, random.Random(f"{self.seed}/{number}"))))
            await asyncio.sleep(self.dice.expovariate(self.case.rate))
        await asyncio.gather(*bundles)

    async def bundle(self, store: Store, dice: random.Random) -> None:
        """One bundle, sent again with the same id until it is acknowledged, as ingress does."""
        mails = []
        for _ in range(dice.choice(MAILS)):
            to = [dice.choice(DOMAINS) for _ in range(dice.choice((1, 1, 1, 2, 3, 5)))]
            large = dice.random() < 0.02
            content = b"x" * (INLINE_LIMIT + 1 if large else 200)
            mail = Mail(
                id=ids.mail_id(time.time(), 0),
                sender="sender@sender.test",
                recipients=tuple(Recipient(address=f"r@{domain}", domain=domain) for domain in to),
                size=len(content),
                accepted=time.time(),
                content=content,
            )
            if large:
                chunks = await Spool(store).put(mail.id, content)
                mail = msgspec.structs.replace(mail, content=None, chunks=chunks)
            mails.append(mail)
        ident, deadline, tries = ids.ulid(time.time()), time.monotonic() + 20, 0
        while time.monotonic() < deadline:
            payload = codec.encode(Bundle(mails=tuple(mails), marked=tries > 0))
            tries += 1
            try:
                await store.publish(
                    subjects.intake(0, "default", subjects.FAST, ident), payload, {"Nats-Msg-Id": ident}, timeout=2.0
                )
            except StoreError:
                await asyncio.sleep(0.1)
                continue
            self.accepted += [(mail.id, index) for mail in mails for index in range(len(mail.recipients))]
            self.verdict.mails += len(mails)
            return

    # -- faults

    async def kill_things(self) -> None:
        await asyncio.sleep(1.5)
        kinds = KINDS[self.case.mode]
        background = []
        while not self.ending and kinds:
            kind = self.dice.choice(kinds)
            place = self.dice.randrange(WORKERS)
            process, name = self.workers[place]
            if kind == "w":
                began = time.monotonic()
                process.kill()
                await asyncio.to_thread(process.wait)
                self.note(name, "kill", began)
                await asyncio.sleep(self.dice.uniform(0.4, 1.5))
            elif kind == "e":
                process.terminate()
                await asyncio.sleep(self.dice.uniform(0.4, 1.5))
            elif kind == "t":
                background.append(asyncio.create_task(self.stop_worker(process, name)))
                await asyncio.sleep(self.dice.uniform(0.3, 1.5))
            else:
                every = range(len(self.ports))
                await self.kill_servers(every if kind == "S" else [self.dice.choice(every)])
        await asyncio.gather(*background)

    async def stop_worker(self, process: subprocess.Popen[bytes], name: str) -> None:
        if process.poll() is None:
            began = time.monotonic()
            process.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self.note(name, "stop", began)
            await asyncio.sleep(TIMING.ack_wait * self.dice.choice((0.8, 1.2, 1.5, 2.1)))
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)

    async def kill_servers(self, places: "list[int] | range") -> None:
        began = time.monotonic()
        for place in places:
            self.servers[place].kill()
        for place in places:
            await asyncio.to_thread(self.servers[place].wait)
        self.note("server", "kill", began)
        await asyncio.sleep(self.dice.choice((0, 0.1, 0.5, 1.5, 3.5)))
        for place in places:
            self.servers[place] = self.start_server(place)
        await asyncio.sleep(self.dice.uniform(1.0, 2.5) if len(self.ports) == 1 else self.dice.uniform(4, 8))

    # -- the whole

    async def go(self) -> Verdict:
        self.servers = [self.start_server(place) for place in range(len(self.ports))]
        store = Store(StoreOptions(servers=tuple(self.urls), name="soak", connect_timeout=1.0))
        remote = None
        try:
            await _until(store.connect)
            if any(server.poll() is not None for server in self.servers):
                raise RuntimeError(
                    f"a server of the run has ended: see {self.folder}; is a port of {self.ports} taken?"
                )
            await _until(lambda: admin.apply(store, layout(self.case.replicas)))
            remote = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.faults.soak.remote", str(self.folder / "remote.sock")),
                    *(str(self.folder / "ledger.jsonl"), self.seed, str(self.case.slow)),
                ],
                cwd=ROOT,
            )
            for place in range(WORKERS):
                self.start_worker(place)
            keeper = asyncio.create_task(self.keep_workers())
            load = asyncio.gather(self.produce(store), self.kill_things())
            await asyncio.sleep(self.case.seconds)
            self.ending = True
            await load
            (self.folder / "calm").touch()
            await self.wait_until_empty(store)
            self.verdict.recipients = len(self.accepted)
            self.verdict.orphans = (await self.api(store, "STREAM.INFO.SPOOL-0"))["state"].get("num_subjects", 0)
            settled = await self.read_outcomes(store)
            self.over = True
            await keeper
        finally:
            for process in (*(p for p, _ in self.workers.values()), *([remote] if remote else []), *self.servers):
                process.kill()
                process.wait()
            await store.close()
        judge(self.verdict, self.folder, self.accepted, settled)
        return self.verdict

    async def api(self, store: Store, subject: str, body: object = None) -> dict:
        return await _until(lambda: store.api(subject, body))

    async def wait_until_empty(self, store: Store) -> None:
        deadline = time.monotonic() + 60 * len(self.ports)
        while True:
            intake = (await self.api(store, "STREAM.INFO.INTAKE-0"))["state"]["messages"]
            state = (await self.api(store, "STREAM.INFO.QUEUE-0", {"subjects_filter": "q0.>"}))["state"]
            queued = [s for s in state.get("subjects") or {} if not s.startswith("q0.guard.")]
            held = [s for s in queued if s.startswith("q0.hold.")]
            if held:
                self.verdict.without_body = len(held)
            if not intake and not queued:
                return
            if time.monotonic() > deadline or (held and len(held) == len(queued)):
                self.verdict.stuck = f"INTAKE {intake}, QUEUE {queued[:20]}"
                return
            await asyncio.sleep(0.3)

    async def read_outcomes(self, store: Store) -> dict[Key, list[tuple[float, str, int, str]]]:
        """Per recipient: when (monotonic), result, the remote's count, worker."""
        found: dict[Key, list[tuple[float, str, int, str]]] = defaultdict(list)
        last = (await self.api(store, "STREAM.INFO.SETTLE-0"))["state"]["last_seq"]
        seq = 1
        while seq <= last:
            async for stored in store.direct("SETTLE-0", "settle0", seq):
                seq = stored.seq + 1
                batch = codec.decode(stored.data, SettleBatch)
                for settlement in batch.settlements:
                    for each in settlement.outcomes:
                        number = each.reply.code if each.reply is not None else 0
                        row = (stored.time - self.ahead, each.result, number, batch.worker)
                        found[settlement.mail, each.index].append(row)
        return found


async def _until(call):
    """`call()` until the store answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return await call()
        except StoreError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


def stamp() -> str:
    return datetime.now(UTC).strftime("%H:%M:%S")
