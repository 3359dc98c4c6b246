"""The server configuration that Waypost renders is one that the server takes and that keeps mail."""

from tests.support.nats import NatsServer, connected
from waypost_queue.store import Store


async def test_a_server_takes_what_is_rendered_and_jetstream_answers(store: Store) -> None:
    info = await store.api("STREAM.INFO.INTAKE-0")
    assert info["config"]["retention"] == "workqueue"


async def test_a_stored_message_survives_kill_9_and_the_same_connection_comes_back(
    store: Store, nats_server: NatsServer
) -> None:
    ack = await store.publish("settle0", b"kept")
    port = nats_server.port
    await nats_server.restart()
    await connected(store)
    assert nats_server.port == port
    found = await store.at("SETTLE-0", ack.seq)
    assert found is not None
    assert found.data == b"kept"
