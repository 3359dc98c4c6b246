"""Durations and quantities as Kubernetes writes them: `1h30m`, `25Mi`.

The same texts mean the same to the API server (CEL `duration()` and `quantity()`) and here.
"""

import re
from decimal import Decimal
from typing import Final

DURATION_PATTERN: Final = r"^([0-9]{1,5}(h|m|s)){1,3}$"
DURATION_LENGTH: Final = 24
QUANTITY_LENGTH: Final = 16

_DURATION = re.compile(r"(?:[0-9]{1,5}[hms]){1,3}")
_PART = re.compile(r"([0-9]+)([hms])")
_SECONDS = {"h": 3600, "m": 60, "s": 1}
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,3})?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def seconds(text: str) -> float:
    """The seconds in a duration such as `5m` or `1h30m`. Raises ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; write hours, minutes and seconds, such as 5m or 1h30m")
    return float(sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(text)))


def quantity(value: int | str) -> Decimal:
    """The number in a Kubernetes quantity such as `25Mi`, `1.5k` or `1e6`. Raises ValueError."""
    found = _QUANTITY.fullmatch(str(value))
    if found is None:
        raise ValueError(f"{value!r} is no quantity; write a number with or without a suffix, such as 25Mi")
    number = Decimal(found[1])
    suffix = found[2] or ""
    if suffix in _BINARY:
        return number * Decimal(2 ** _BINARY[suffix])
    if suffix in _DECIMAL:
        return number.scaleb(_DECIMAL[suffix])
    return number.scaleb(int(suffix[1:])) if suffix else number


def octets(value: int | str) -> int:
    """A quantity of octets, rounded up as the API server's `Value()` does."""
    number = quantity(value)
    whole = int(number)
    return whole if whole == number or number < 0 else whole + 1
