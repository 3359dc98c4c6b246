"""The requests that the active queue service answers: `ctl.<shard>` (actions) and `ctl.stats`.

It alone subscribes, so while no instance is active a request is answered 503 at once ("no responders"). Requests about
one mail are done in the order in which they came; those about others run beside them.
"""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from waypost_queue import codec, listing, subjects
from waypost_queue.listing import QueueStatistics
from waypost_queue.model import ControlAnswer, ControlRequest
from waypost_queue.store import Store

from .actions import Actions

log = structlog.get_logger(__name__)

WORKERS: Final = 8
WAITING: Final = 500  # requests a worker lets wait; more are answered "unavailable" at once


class Control:
    """Answers from `start` to `close`."""

    def __init__(self, store: Store, actions: Mapping[int, Actions], statistics: Callable[[], QueueStatistics]) -> None:
        self._store = store
        self._actions = actions
        self._statistics = statistics
        self._queues: list[asyncio.Queue[tuple[int, ControlRequest, str]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        self._queues = [asyncio.Queue(WAITING) for _ in range(WORKERS)]
        self._tasks = [asyncio.create_task(self._work(queue), name="control") for queue in self._queues]
        for shard in self._actions:
            self._subscriptions.append(await self._store.subscribe(subjects.control(shard), self._request))
        self._subscriptions.append(await self._store.subscribe(listing.STATISTICS, self._statistics_request))

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await self._store.unsubscribe(subscription)
        self._subscriptions.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _request(self, message: Msg) -> None:
        try:
            request = codec.decode(message.data, ControlRequest)
        except codec.UndecodableError as error:
            await self._answer(message.reply, ControlAnswer(error="refused", detail=str(error)))
            return
        queue = self._queues[zlib.crc32(request.mail.lower().encode()) % WORKERS]
        try:
            queue.put_nowait((int(message.subject.rpartition(".")[2]), request, message.reply))
        except asyncio.QueueFull:
            await self._answer(message.reply, ControlAnswer(error="unavailable", detail="too many requests wait"))

    async def _statistics_request(self, message: Msg) -> None:
        await self._store.nc.publish(message.reply, codec.encode(self._statistics()))

    async def _work(self, queue: asyncio.Queue[tuple[int, ControlRequest, str]]) -> None:
        while True:
            shard, request, reply = await queue.get()
            try:
                answer = await self._actions[shard].act(request)
            except Exception:
                log.exception("control.failed", action=request.action, mail=request.mail)
                answer = ControlAnswer(error="unavailable", detail="a fault of the queue service; its log says more")
            await self._answer(reply, answer)

    async def _answer(self, reply: str, answer: ControlAnswer) -> None:
        if reply and self._store.connected:
            await self._store.nc.publish(reply, codec.encode(answer))
