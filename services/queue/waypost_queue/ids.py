"""Mail ids: a lower-case ULID and one shard character, accepted in any case.

A mail id is 27 characters: 10 of time (milliseconds, Crockford base 32), 16 of randomness, and the shard (a hexadecimal
digit) whose streams hold the mail. The id of a DSN is derived, so that two workers that report the same thing make the
same id (see `dsn_id`).
"""

import hashlib
import os
import re
from collections.abc import Iterable

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford, https://github.com/ulid/spec
MAX_SHARDS = 16
_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]
_ID = re.compile(rf"[0-7][{ALPHABET}]{{25}}[0-9a-f]\Z")


def _base32(value: int, pairs: int) -> str:
    out = []
    for _ in range(pairs):
        out.append(_PAIRS[value & 1023])
        value >>= 10
    out.reverse()
    return "".join(out)


def ulid(now: float) -> str:
    """A new lower-case ULID (26 characters) for the time `now` in Unix seconds."""
    return _base32(int(now * 1000), 5) + _base32(int.from_bytes(os.urandom(10)), 8)


def mail_id(now: float, shard: int) -> str:
    """A new mail id (27 characters) in `shard`, accepted at `now` in Unix seconds."""
    return f"{ulid(now)}{shard:x}"


def dsn_id(mail: str, indexes: Iterable[int], kind: str) -> str:
    """The id of the DSN of `kind` about the recipients of `mail` with these indexes.

    Equal inputs give equal ids, in the shard of the mail, so that a DSN stored twice is refused by its fence. All
    indexes count: two owners of a group may have had different answers, and neither's report may pass for the other's.
    """
    about = ",".join(str(index) for index in sorted(indexes))
    digest = hashlib.sha256(f"{mail}/{about}/{kind}".encode()).digest()
    return mail[:10] + _base32(int.from_bytes(digest[:10]), 8) + mail[26]


def parse_mail_id(text: str) -> str:
    """The canonical form of a mail id in any case. Raises ValueError for what is none."""
    canonical = text.strip().lower()
    if not _ID.match(canonical):
        raise ValueError(f"{text[:64]!r} is not a mail id: 27 characters of [0-9a-hjkmnp-tv-z], as after 'queued as'")
    return canonical


def shard_of(mail: str) -> int:
    """The shard whose streams hold the mail."""
    return int(mail[26], 16)


def time_of(mail: str) -> float:
    """The time in a mail id, Unix seconds to the millisecond."""
    value = 0
    for character in mail[:10]:
        value = value * 32 + ALPHABET.index(character)
    return value / 1000
