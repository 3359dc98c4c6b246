"""`/v1/queue`: what waits, by destination."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from waypost_queue import listing
from waypost_queue.subjects import TicketState, TicketSubject

from ..views import DestinationView, TicketView
from .deps import Caller, SettingsDep, StoreDep

router = APIRouter(prefix="/v1/queue", tags=["queue"])

_STATES: dict[str, TicketState] = {"ready": "ready", "deferred": "sched", "held": "hold"}


@router.get("")
async def destinations(
    _caller: Caller, store: StoreDep, settings: SettingsDep, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> list[DestinationView]:
    """Destinations with something waiting, the largest first."""
    counts = await listing.destinations(store, settings.shards)
    counts.sort(key=lambda one: (-(one.waiting + one.deferred + one.held), one.domain))
    return [
        DestinationView(
            domain=one.domain, waiting=one.waiting, deferred=one.deferred, held=one.held, oldest=one.oldest or None
        )
        for one in counts[:limit]
    ]


@router.get("/{domain}")
async def tickets(
    _caller: Caller,
    store: StoreDep,
    settings: SettingsDep,
    domain: Annotated[str, Path(max_length=255)],
    state: Annotated[Literal["ready", "deferred", "held"] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[TicketView]:
    """What waits for one destination domain; `-` lists every domain."""
    wanted = _STATES[state] if state else None
    found = await listing.tickets(
        store, settings.shards, domain=None if domain == "-" else domain.lower(), state=wanted, limit=limit
    )
    return [TicketView.of(TicketSubject(one.subject).state, one.ticket) for one in found]
