"""Pulling from every lane of a pool, in weights, within bounds.

Open pull requests and messages in hand never exceed the slots, over all lanes; each lane always has room for one, the
rest is shared by weight among the lanes that have something. A message that is in hand for more than a few seconds is
accounted apart, so that a slow one doesn't pin its lane. Octets in hand are bounded by pulling no more above the limit.

Each pull request has an inbox of its own: a message must be told from those of a later request, since ownership counts
from the moment at which *its* request was sent (what waited in the socket while the process was stopped is no longer
ours). A pull request dies with its server, so all are made again after a reconnect, a missed heartbeat or a refusal;
before the first pull the lane asks where its consumer stands, since a killed server has forgotten what it delivered
last.
"""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterable

import opentelemetry.metrics
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from . import subjects
from .background import end
from .errors import ApiError, StoreError
from .held import Held
from .store import Store
from .streams import SECOND, Timing

log = structlog.get_logger(__name__)

_meter = opentelemetry.metrics.get_meter("waypost")
PULLED = _meter.create_counter(
    "waypost.queue.pulled", unit="{message}", description="Messages delivered to this worker, by kind (bundle, ticket)."
)

SLOW_AFTER = 5.0  # s in hand, then a message is accounted apart
MAX_BATCH = 256  # messages a pull request
RETRY_CONSUMER = 2.0  # s until a lane without a consumer is looked at again
WEIGHTS = {subjects.PRIO: 16, subjects.FAST: 8}  # a bulk lane has 1


class Lane:
    """One consumer of one shard."""

    __slots__ = (
        "budget",
        "consumer",
        "demanding",
        "epoch",
        "in_hand",
        "kind",
        "maybe_delivered",
        "name",
        "open",
        "pool",
        "retry_at",
        "shard",
        "stored_before",
        "stream",
        "top",
        "weight",
    )

    def __init__(self, budget: "Budget", kind: str, shard: int, pool: str, name: str) -> None:
        self.budget = budget
        self.kind = kind  # "bundle" | "ticket"
        self.shard, self.pool, self.name = shard, pool, name
        self.stream = subjects.intake_stream(shard) if kind == "bundle" else subjects.queue_stream(shard)
        self.consumer = subjects.intake_consumer(pool, name)
        self.weight = WEIGHTS.get(name, 1)
        self.open = 0  # messages that open pull requests may still bring
        self.in_hand = 0
        self.demanding = False
        self.epoch = -1  # the connection for which the consumer's state was read
        self.retry_at = 0.0
        self.maybe_delivered = 0  # consumer sequence up to which a message may have been delivered before
        self.stored_before = 0  # stream sequence of the newest message when that was read
        self.top = 0  # highest consumer sequence seen

    def suspicious(self, held: Held) -> bool:
        """Whether the message may have been delivered before: recovery asks what became of it.

        Consumer state is flushed late: after a kill -9 of the server, what was delivered in its last milliseconds comes
        back with a delivery count of 1. At most `max_ack_pending` can come so, and nothing that was stored since.
        """
        if held.deliveries > 1:
            return True
        if held.consumer_seq <= self.top:  # the consumer went back: its new leader knows less than the old one did
            return True
        self.top = held.consumer_seq
        return held.consumer_seq <= self.maybe_delivered and held.seq <= self.stored_before


class Budget:
    """The slots of all lanes of one kind."""

    def __init__(self, slots: int, slow_slots: int) -> None:
        self.slots = slots
        self.slow_slots = slow_slots
        self.used = 0  # open and in hand, over all lanes
        self.slow = 0
        self.lanes = 0
        self.idle = 0  # lanes with nothing open or in hand: each keeps room for one
        self.demand = 0  # weights of the lanes that have something
        self.starved: dict[Lane, None] = {}

    def want(self, lane: Lane) -> int:
        """How many messages the lane may ask for now."""
        mine = lane.open + lane.in_hand
        free = self.slots - self.used - (self.idle - (mine == 0))
        share = 1
        if lane.demanding:
            share += (self.slots - self.lanes) * lane.weight // max(self.demand, lane.weight)
        want = min(share - mine, free, MAX_BATCH)
        if want <= 0:
            if lane.open == 0:
                self.starved[lane] = None
            return 0
        return want if lane.open < want else 0  # no tiny requests while most of the last one is open

    def take(self, lane: Lane, open_: int = 0, in_hand: int = 0) -> None:
        """Accounts a change of what a lane has open and in hand."""
        before = lane.open + lane.in_hand
        lane.open += open_
        lane.in_hand += in_hand
        after = lane.open + lane.in_hand
        self.used += after - before
        if before == 0 and after > 0:
            self.idle -= 1
        elif before > 0 and after == 0:
            self.idle += 1

    def demands(self, lane: Lane, yes: bool) -> None:
        if lane.demanding != yes:
            lane.demanding = yes
            self.demand += lane.weight if yes else -lane.weight


class _Pull:
    __slots__ = ("got", "lane", "left", "over", "seen", "sent", "subscription")

    def __init__(self, lane: Lane, left: int) -> None:
        self.lane = lane
        self.left = left
        self.sent = self.seen = time.monotonic()
        self.got = 0
        self.over = False
        self.subscription: Subscription | None = None


class Puller:
    """Keeps pull requests open for all lanes and hands on what comes to `deliver(held, lane)`."""

    def __init__(
        self,
        store: Store,
        timing: Timing,
        lanes: Iterable[Lane],
        bytes_limit: int,
        paused: Callable[[], bool],
        deliver: Callable[[Held, Lane], None],
    ) -> None:
        self._store = store
        self._timing = timing
        self._heartbeat = timing.pull_expires * 0.45  # below half of the expiry, or the server refuses it
        self.lanes = list(lanes)
        self._bytes_limit = bytes_limit
        self.bytes = 0
        self._paused = paused
        self._deliver = deliver
        self._pulls: set[_Pull] = set()
        self._ended: list[Subscription] = []
        self._dirty: dict[Lane, None] = {}
        self._wake = asyncio.Event()
        self._unprepared = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        for lane in self.lanes:
            lane.budget.lanes += 1
            lane.budget.idle += 1
        for budget in {lane.budget for lane in self.lanes}:
            budget.slots = max(budget.slots, 2 * budget.lanes)

    def start(self) -> None:
        self._store.on_reconnect(self._reconnected)
        streams: dict[str, list[Lane]] = {}
        for lane in self.lanes:
            streams.setdefault(lane.stream, []).append(lane)
        self._unprepared.set()
        self._tasks = [
            asyncio.create_task(self._pump()),
            *(asyncio.create_task(self._prepare(lanes)) for lanes in streams.values()),
        ]

    async def stop(self) -> None:
        """No message comes in any more; what is in hand stays in hand."""
        await end(self._tasks)
        for pull in list(self._pulls):
            self._end(pull)
        await self._unsubscribe()

    # -- what the engine tells

    def finished(self, held: Held, lane: Lane) -> None:
        """The message is no longer in hand."""
        budget = lane.budget
        if held.slow:
            budget.slow -= 1
        else:
            budget.take(lane, in_hand=-1)
        self.bytes -= len(held.data)
        self._freed(lane)

    def slow(self, held: Held, lane: Lane) -> None:
        """The message has been in hand for long: it leaves its lane's slots, as long as there is room for such."""
        budget = lane.budget
        if not held.slow and budget.slow < budget.slow_slots:
            held.slow = True
            budget.slow += 1
            budget.take(lane, in_hand=-1)
            self._freed(lane)

    def ready(self) -> int:
        """How many lanes pull."""
        return sum(lane.epoch == self._store.epoch for lane in self.lanes) if self._store.connected else 0

    def resume(self) -> None:
        """Pulling is no longer paused."""
        self._dirty.update(dict.fromkeys(self.lanes))
        self._wake.set()

    def tick(self, now: float) -> None:
        """Ends pull requests that the server has forgotten."""
        late = self._timing.pull_expires + max(1.0, self._heartbeat)
        silent = 2.5 * self._heartbeat + 0.5
        for pull in list(self._pulls):
            if now - pull.seen > silent:
                log.info("pull.heartbeat_missed", stream=pull.lane.stream, consumer=pull.lane.consumer)
                self._end(pull)
                self._unprepare(pull.lane)
            elif now - pull.sent > late:
                self._end(pull)

    def _freed(self, lane: Lane) -> None:
        self._dirty[lane] = None
        starved = lane.budget.starved
        if starved:
            self._dirty.update(starved)
            starved.clear()
        self._wake.set()

    # -- messages

    async def _on_message(self, pull: _Pull, message: Msg) -> None:
        lane = pull.lane
        if pull.over:
            return  # not known to be ours: it comes back
        pull.seen = time.monotonic()
        if message.reply.startswith("$JS.ACK."):
            pull.left -= 1
            pull.got += 1
            lane.budget.take(lane, open_=-1, in_hand=1)
            lane.budget.demands(lane, True)
            self.bytes += len(message.data)
            self._deliver(Held(self._store, self._timing, message, pull.sent), lane)
            if pull.left == 0:
                self._end(pull)
            self._dirty[lane] = None
            self._wake.set()
            return
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100":
            return  # idle heartbeat
        self._end(pull)
        if status in ("404", "408"):
            if pull.got == 0 and lane.in_hand == 0:
                lane.budget.demands(lane, False)
        else:
            # 409: the consumer or its leader changed, or it has too many requests; 503: nobody is there
            log.info("pull.refused", stream=lane.stream, consumer=lane.consumer, status=status)
            self._unprepare(lane, 0.25)

    def _end(self, pull: _Pull) -> None:
        if pull.over:
            return
        pull.over = True
        self._pulls.discard(pull)
        if pull.left:
            pull.lane.budget.take(pull.lane, open_=-pull.left)
        if pull.subscription is not None:
            self._ended.append(pull.subscription)  # by the pump: a subscription can't end in its own callback
        self._freed(pull.lane)

    async def _unsubscribe(self) -> None:
        ended, self._ended = self._ended, []
        for subscription in ended:
            await self._store.unsubscribe(subscription)

    # -- pull requests

    async def _pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._unsubscribe()
            if self._paused() or self.bytes >= self._bytes_limit:
                continue  # `resume`, or the end of a message in hand, wakes it again
            while self._dirty:
                lane = next(iter(self._dirty))
                del self._dirty[lane]
                if lane.epoch == self._store.epoch and self._store.connected:
                    wanted = lane.budget.want(lane)
                    if wanted:
                        await self._request(lane, wanted)

    async def _request(self, lane: Lane, batch: int) -> None:
        pull = _Pull(lane, batch)
        lane.budget.take(lane, open_=batch)
        self._pulls.add(pull)
        body = {
            "batch": batch,
            "expires": int(self._timing.pull_expires * SECOND),
            "idle_heartbeat": int(self._heartbeat * SECOND),
        }
        try:
            inbox = self._store.nc.new_inbox()
            pull.subscription = await self._store.subscribe(inbox, functools.partial(self._on_message, pull))
            await self._store.nc.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{lane.stream}.{lane.consumer}", json.dumps(body).encode(), reply=inbox
            )
        except (NatsError, StoreError) as error:
            log.debug("pull.unsent", stream=lane.stream, consumer=lane.consumer, error=str(error))
            self._end(pull)
            self._unprepare(lane, 0.25)

    # -- where consumers stand

    async def _reconnected(self) -> None:
        for pull in list(self._pulls):
            self._end(pull)
        self._unprepared.set()

    def _unprepare(self, lane: Lane, delay: float = 0.0) -> None:
        lane.epoch = -1
        lane.retry_at = time.monotonic() + delay
        self._unprepared.set()

    async def _prepare(self, lanes: list[Lane]) -> None:
        """Reads where the consumers of a stream stand, after each connect and before their first pull."""
        while True:
            todo = [lane for lane in lanes if lane.epoch != self._store.epoch]
            if not todo:
                self._unprepared.clear()
                # another stream's task may clear the event just after it was set for this one: look again by itself
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._unprepared.wait()
                continue
            if not self._store.connected:
                await asyncio.sleep(0.05)
                continue
            now = time.monotonic()
            due = [lane for lane in todo if lane.retry_at <= now]
            for lane in due:
                await self._prepare_one(lane)
            if not due:
                await asyncio.sleep(max(0.02, min(lane.retry_at for lane in todo) - now))

    async def _prepare_one(self, lane: Lane) -> None:
        epoch = self._store.epoch
        try:
            info = await self._store.api(f"CONSUMER.INFO.{lane.stream}.{lane.consumer}")
            state = (await self._store.api("STREAM.INFO." + lane.stream))["state"]
        except ApiError as error:
            if lane.retry_at == 0.0:
                log.warning("pull.no_consumer", stream=lane.stream, consumer=lane.consumer, error=str(error))
            lane.retry_at = time.monotonic() + RETRY_CONSUMER
            return
        except StoreError as error:
            log.debug("pull.unprepared", stream=lane.stream, consumer=lane.consumer, error=str(error))
            lane.retry_at = time.monotonic() + 0.25
            return
        if epoch != self._store.epoch:
            return
        lane.maybe_delivered = info["delivered"]["consumer_seq"] + info["config"]["max_ack_pending"]
        lane.stored_before = state["last_seq"]
        lane.top = 0
        lane.epoch = epoch
        self._dirty[lane] = None
        self._wake.set()
