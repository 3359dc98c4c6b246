"""The service's own removals."""

import pytest

from waypost_queue.errors import ApiError
from waypost_queue.service import moves
from waypost_queue.store import Store


async def test_deleting_what_has_gone_already_is_no_error(store: Store) -> None:
    seq = (await store.publish("q0.hold.default.fast.far_test.m.0", b"x")).seq
    await moves.delete(store, "QUEUE-0", seq)
    await moves.delete(store, "QUEUE-0", seq)
    await moves.delete(store, "QUEUE-0", 4711)
    assert await store.at("QUEUE-0", seq) is None


async def test_deleting_from_a_stream_that_is_not_there_is_one(store: Store) -> None:
    with pytest.raises(ApiError):
        await moves.delete(store, "QUEUE-9", 1)
