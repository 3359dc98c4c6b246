"""Asking the queue service to act on a mail: it alone touches what is deferred or held."""

import asyncio
from typing import Final

from . import codec, listing, subjects
from .errors import StoreError, UnavailableError
from .model import ControlAnswer, ControlRequest
from .store import Store

TIMEOUT: Final = 10.0  # s
_ATTEMPTS: Final = 3  # while one queue service hands over to the next
_DELAY: Final = 0.5  # s


async def act(store: Store, request: ControlRequest) -> ControlAnswer:
    """Sends the request to the mail's shard; an answer comes in any case.

    Its error is "unavailable" when no queue service is there (503, nothing was done) or none answered (it may have
    been done: asking again is safe, each action is fenced), "not-found" for what is no mail id.
    """
    try:
        subject = subjects.control(listing.shard_of(request.mail))
    except ValueError as error:
        return ControlAnswer(error="not-found", detail=str(error))
    payload = codec.encode(request)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return codec.decode((await store.request(subject, payload, timeout=TIMEOUT)).data, ControlAnswer)
        except UnavailableError as error:
            detail = f"the queue service is not running, nothing was done: {error}"
            if attempt < _ATTEMPTS:
                await asyncio.sleep(_DELAY)
        except StoreError as error:
            detail = f"the queue service did not answer, it may have acted: {error}"
            break
        except codec.UndecodableError as error:
            detail = f"the queue service's answer can't be read: {error}"
            break
    return ControlAnswer(error="unavailable", detail=detail)
