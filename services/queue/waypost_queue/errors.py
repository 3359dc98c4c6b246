"""What can go wrong between a service and the store.

StoreError
+-- UnavailableError     no leader, no responder, disconnected: nothing was stored; try again
+-- UnknownFateError     no answer in time: it may be stored, or may yet be
+-- FencedError          an expected sequence did not match (10071): someone else owns it
+-- FullError            the store or a stream is full (10023, 10077, 10047): nothing was stored
+-- BatchRefusedError    an atomic batch was refused whole (10176, 10210): nothing was stored, publish each singly
+-- ApiError             any other answer with an error
OwnershipLostError       the message may be another worker's by now: no ack, no ticket, no DSN
"""


class StoreError(Exception):
    """Base of what the store answers or fails to answer."""


class UnavailableError(StoreError):
    """No leader, no responder, or no connection: nothing was stored."""


class UnknownFateError(StoreError):
    """No answer in time: the message may be stored, or may yet be."""


class ApiError(StoreError):
    """An answer with an error; `code` is HTTP-like, `err_code` NATS' own."""

    def __init__(self, subject: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{subject}: {description} ({err_code or code})")
        self.code = code
        self.err_code = err_code
        self.description = description


class FencedError(ApiError):
    """Wrong last sequence (10071): someone else owns the group."""


class FullError(ApiError):
    """No room: nothing was stored."""


class BatchRefusedError(ApiError):
    """An atomic batch was refused whole by a limit or a leader change: nothing was stored."""


class OwnershipLostError(Exception):
    """The worker's time with a message is over; the message comes back by itself."""


_FENCED = frozenset({10071})
_FULL = frozenset({10023, 10047, 10077, 10122})
_BATCH = frozenset({10176, 10199, 10210, 10211})


def api_error(subject: str, code: int, err_code: int, description: str) -> ApiError:
    """The error class of an answer."""
    if err_code in _FENCED:
        return FencedError(subject, code, err_code, description)
    if err_code in _FULL:
        return FullError(subject, code, err_code, description)
    if err_code in _BATCH:
        return BatchRefusedError(subject, code, err_code, description)
    return ApiError(subject, code, err_code, description)
