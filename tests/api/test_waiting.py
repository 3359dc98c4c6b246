"""The API before there are streams: it waits, and says so; and when its database fails."""

from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from tests.support.nats import LAYOUT, NatsServer
from tests.support.wait import eventually
from waypost_api.app import create
from waypost_api.history.database import Database
from waypost_api.history.projection import Projection
from waypost_api.settings import ApiSettings
from waypost_queue.service import admin
from waypost_runtime.health import Health

pytestmark = pytest.mark.timeout(120)  # it makes every stream, each with its fsync


async def test_it_is_not_ready_until_the_queue_service_has_made_the_streams(tmp_path: Path):
    async with NatsServer(tmp_path / "nats") as server:
        store = await server.connect()
        database = Database(f"sqlite:///{tmp_path / 'history.db'}")
        projection = Projection(store, database, 30)
        health = Health()
        health.check("history", projection.problem)
        app = create(ApiSettings(allow_anonymous=True, shards=LAYOUT.shards), store, database, health)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        with capture_logs() as logs:
            projection.start()
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                await eventually(lambda: "EVENTS" in projection.problem())
                assert (await client.get("/readyz")).status_code == 503
                early = await client.get("/v1/messages")
                assert early.status_code == 503
                assert early.headers["content-type"] == "application/problem+json"
                await admin.apply(store, LAYOUT)
                await eventually(lambda: projection.problem() == "")
                assert (await client.get("/readyz")).status_code == 200
                assert (await client.get("/v1/messages")).json() == []
        assert [one["event"] for one in logs if one["log_level"] == "warning"] == ["history.waits"]
        await projection.close()
        await database.close()


async def test_a_database_that_can_not_be_opened_is_said_and_tried_again(tmp_path: Path):
    folder = tmp_path / "history"
    async with NatsServer(tmp_path / "nats") as server:
        store = await server.connect()
        await admin.apply(store, LAYOUT)
        database = Database(f"sqlite:///{folder / 'history.db'}")
        projection = Projection(store, database, 30)
        projection.start()
        await eventually(lambda: "database" in projection.problem())
        folder.mkdir()
        await eventually(lambda: projection.problem() == "")
        await projection.close()
        await database.close()
