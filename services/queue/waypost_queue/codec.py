"""Wire format: a two-octet header (magic, format) and msgpack.

`FORMAT` is raised only for a change that an older reader must not ignore. What a service writes is the format that all
running services can read (the queue service decides it from their heartbeats); it reads any format up to its own.
"""

from typing import Final, TypeVar

import msgspec

MAGIC: Final = 0x57  # 'W'
FORMAT: Final = 1
_HEADER: Final = bytes((MAGIC, FORMAT))

T = TypeVar("T", bound=msgspec.Struct)
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder[msgspec.Struct]] = {}


class UndecodableError(ValueError):
    """The bytes are not of this wire format, or of another type."""


class NewerFormatError(UndecodableError):
    """Written by a newer version than this one can read."""

    def __init__(self, found: int) -> None:
        super().__init__(f"format {found} is newer than {FORMAT}, which this version reads; upgrade this service")
        self.found = found


def encode(value: msgspec.Struct) -> bytes:
    """Header and msgpack of a wire struct."""
    return _HEADER + _encoder.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """The struct in `data`. Raises UndecodableError or NewerFormatError: the message is then held, with the reason."""
    if len(data) < 2 or data[0] != MAGIC:
        raise UndecodableError("no Waypost message: the first octet is not 'W'")
    if data[1] > FORMAT:
        raise NewerFormatError(data[1])
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(memoryview(data)[2:])  # type: ignore[return-value]
    except msgspec.DecodeError as error:
        raise UndecodableError(f"{kind.__name__}: {error}") from error
