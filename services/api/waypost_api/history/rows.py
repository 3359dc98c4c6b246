"""Events to rows. Pure.

Events of one mail come from several services and in any order, so that every row is made by whichever event comes
first, and a recipient's state moves only forward: by rank (queued < deferred, held < an end), then by time. What a
batch says of one recipient is one row.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from waypost_queue.events import Event

RANK = {
    "queued": 0,
    "deferred": 1,
    "held": 1,
    "delivered": 2,
    "relayed": 2,
    "failed": 2,
    "expired": 2,
    "deleted": 2,
}

END = RANK["delivered"]

_encode = msgspec.msgpack.Encoder().encode


Row = dict[str, Any]


@dataclass
class Rows:
    """What a batch of events adds or moves."""

    events: dict[tuple[str, str], Row] = field(default_factory=dict)  # (mail, id)
    messages: dict[str, Row] = field(default_factory=dict)
    recipients: dict[tuple[str, int], Row] = field(default_factory=dict)  # (mail, index)


def rows_of(batch: Iterable[Event]) -> Rows:
    """The rows of a batch of events."""
    rows = Rows()
    for event in batch:
        mail = event.mail
        if not mail:
            continue
        rows.events[mail, event.id] = {"mail": mail, "id": event.id, "at": event.at, "payload": _encode(event)}
        if event.kind == "accepted":
            _accepted(rows, event)
        elif event.kind == "attempt" or event.kind in RANK:
            _moved(rows, event)
    return rows


def _accepted(rows: Rows, event: Event) -> None:
    rows.messages[event.mail] = {
        "id": event.mail,
        "accepted": event.at,
        "sender": event.sender,
        "domain": event.domain,
        "tenant": event.tenant,
        "kind": event.mail_kind or "mail",
        "about": event.about,
        "size": event.size,
        "subject": event.subject[:200],
        "message_id": event.message_id[:998],
        "credential": event.credential,
        "source": event.source,
    }
    for index, address in enumerate(event.addresses):
        _keep(rows, _state(event, index, address, "queued"))


def _moved(rows: Rows, event: Event) -> None:
    for one in event.recipients:
        state = event.kind if event.kind in RANK else one.result
        if state not in RANK:
            continue
        row = _state(event, one.index, one.address, state)
        row["attempts"] = event.attempt
        row["next_attempt"] = event.next_attempt
        if one.reply is not None:
            row |= {
                "code": one.reply.code,
                "enhanced": one.reply.enhanced,
                "text": one.reply.text[:1000],
                "mta": one.reply.mta,
            }
        _keep(rows, row)


def _keep(rows: Rows, row: Row) -> None:
    """Keeps the later of what is said of one recipient; the first end stays, as it does in the database."""
    key = (row["mail"], row["idx"])
    known = rows.recipients.get(key)
    if known is None or (known["rank"] < END and (row["rank"], row["at"]) >= (known["rank"], known["at"])):
        rows.recipients[key] = row


def _state(event: Event, index: int, address: str, state: str) -> Row:
    return {
        "mail": event.mail,
        "idx": index,
        "address": address,
        "destination": event.destination or address.rpartition("@")[2].lower(),
        "state": state,
        "rank": RANK[state],
        "at": event.at,
        "attempts": 0,
        "next_attempt": 0.0,
        "code": 0,
        "enhanced": "",
        "text": "",
        "mta": "",
    }
