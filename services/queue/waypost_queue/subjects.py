"""Subjects, lanes and tokens: where each message of the queue lives.

    intake<s>.<pool>.<lane>.<id>                                    bundles; DSNs; `heal-<seq>`
    q<s>.{ready,sched,hold,guard}.<pool>.<lane>.<domain>.<mail>.<n> tickets; n is the group's lowest recipient index
    spool<s>.<mail>.<chunk>                                         bodies over 128 KiB, and those of tickets
    settle<s>                                                       outcomes
    events.<service>                                                history
    inbox.<mail>.<n>.<part>                                         what must not leave

All four states of a ticket have equal depth, so that `q<s>.*.*.*.<domain>.<mail>.<n>` is one fence and one look-up.
"""

import hashlib
from functools import lru_cache
from typing import Final, Literal

TicketState = Literal["ready", "sched", "hold", "guard"]

PRIO: Final = "prio"
FAST: Final = "fast"
BULK: Final = tuple(f"bulk{i:02d}" for i in range(16))
LANES: Final = (PRIO, FAST, *BULK)

_MAX_TOKEN = 200
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-")


@lru_cache(maxsize=65536)
def token(text: str) -> str:
    """`text` as one subject token that is also a legal KV key; injective.

    Lower-case letters, digits and `-` are kept, `.` becomes `_`, any other byte `=XX`, the empty string `=`, and what
    is longer than 200 characters `=h` and its SHA-256. Domains come in as lower-case A-labels; a local part never does.
    """
    if not text:
        return "="
    out = "".join(chr(b) if b in _SAFE else "_" if b == 0x2E else f"={b:02X}" for b in text.encode())
    if len(out) > _MAX_TOKEN:
        return "=h" + hashlib.sha256(text.encode()).hexdigest()
    return out


def untoken(encoded: str) -> str:
    """The text of a token; a hashed one (`=h…`) is returned as it is, since its text is not in it."""
    if encoded == "=":
        return ""
    if encoded.startswith("=h"):
        return encoded
    out = bytearray()
    i = 0
    while i < len(encoded):
        if encoded[i] == "=":
            out.append(int(encoded[i + 1 : i + 3], 16))
            i += 3
        else:
            out.append(0x2E if encoded[i] == "_" else ord(encoded[i]))
            i += 1
    return out.decode()


def bulk_lane(tenant: str) -> str:
    """The bulk lane of a tenant (by hash), for its retries and for what exceeds its token bucket."""
    return BULK[hashlib.blake2b(tenant.encode(), digest_size=1).digest()[0] % len(BULK)]


def intake_stream(shard: int) -> str:
    return f"INTAKE-{shard}"


def queue_stream(shard: int) -> str:
    return f"QUEUE-{shard}"


def spool_stream(shard: int) -> str:
    return f"SPOOL-{shard}"


def settle_stream(shard: int) -> str:
    return f"SETTLE-{shard}"


EVENTS_STREAM: Final = "EVENTS"
INBOX_STREAM: Final = "INBOX"
INBOX_SUBJECT: Final = "inbox"


def intake(shard: int, pool: str, lane: str, ident: str) -> str:
    return f"intake{shard}.{pool}.{lane}.{ident}"


def intake_any(shard: int, ident: str) -> str:
    """The bundle `ident` whatever its pool and lane: the fence of a DSN."""
    return f"intake{shard}.*.*.{ident}"


def ticket(state: TicketState, shard: int, pool: str, lane: str, domain: str, mail: str, n: int) -> str:
    """A ticket's subject; `domain` is the destination domain as text, not as a token."""
    return f"q{shard}.{state}.{pool}.{lane}.{token(domain)}.{mail}.{n}"


def group_any(shard: int, domain: str, mail: str, n: int) -> str:
    """The group (mail, domain) in whatever state, pool and lane: its fence and look-up."""
    return f"q{shard}.*.*.*.{token(domain)}.{mail}.{n}"


def held_bundle(shard: int, pool: str, lane: str, seq: int) -> str:
    """Where a bundle that can't be decoded is held whole."""
    return f"q{shard}.hold.{pool}.{lane}.=.bundle-{seq}.0"


def spool(shard: int, mail: str, chunk: int) -> str:
    return f"spool{shard}.{mail}.{chunk}"


def spool_all(shard: int, mail: str) -> str:
    return f"spool{shard}.{mail}.>"


def settle(shard: int) -> str:
    return f"settle{shard}"


def events(service: str) -> str:
    return f"events.{service}"


def inbox(mail: str, n: int, part: int) -> str:
    """A part of what was kept of the group whose lowest recipient index is `n`."""
    return f"{INBOX_SUBJECT}.{mail}.{n}.{part}"


def control(shard: int) -> str:
    """Where the queue service takes requests to act on the queue."""
    return f"ctl.{shard}"


def intake_consumer(pool: str, lane: str) -> str:
    return f"{pool}-{lane}"


def intake_filter(shard: int, pool: str, lane: str) -> str:
    return f"intake{shard}.{pool}.{lane}.>"


def ready_filter(shard: int, pool: str, lane: str) -> str:
    return f"q{shard}.ready.{pool}.{lane}.>"


class TicketSubject:
    """The parts of a ticket's subject."""

    __slots__ = ("domain_token", "lane", "mail", "n", "pool", "shard", "state")

    def __init__(self, subject: str) -> None:
        shard, self.state, self.pool, self.lane, self.domain_token, self.mail, n = subject.split(".")
        self.shard = int(shard[1:])
        self.n = int(n)
