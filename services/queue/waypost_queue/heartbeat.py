"""Heartbeats on core NATS (`hb.<service>.<incarnation>`): which processes live, and which configuration each runs."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final

import structlog

from . import codec
from .background import end
from .errors import StoreError
from .model import Wire
from .store import Store

log = structlog.get_logger(__name__)

EVERY: Final = 3.0  # s


class Beat(Wire, frozen=True):
    """One sign of life."""

    service: str
    incarnation: str
    config_generation: int = 0


class Heartbeat:
    """Tells every 3 s, and at once when `beat` is called, that this process lives and what `generation` it runs."""

    def __init__(self, store: Store, service: str, generation: Callable[[], int]) -> None:
        self._store = store
        self._service = service
        self._incarnation = os.urandom(8).hex()
        self._generation = generation
        self._now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="heartbeat")

    def beat(self) -> None:
        """The configuration has changed: tell it now."""
        self._now.set()

    async def close(self) -> None:
        if self._task is not None:
            await end([self._task])

    async def _run(self) -> None:
        while True:
            self._now.clear()
            beat = Beat(service=self._service, incarnation=self._incarnation, config_generation=self._generation())
            try:
                await self._store.send(f"hb.{self._service}.{self._incarnation}", codec.encode(beat))
            except StoreError as error:
                log.debug("heartbeat.not_sent", reason=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._now.wait(), EVERY)
