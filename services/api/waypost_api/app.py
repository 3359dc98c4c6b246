"""The FastAPI application, assembled from its parts."""

from importlib.metadata import version

from fastapi import FastAPI

from waypost_queue.inbox import Inbox
from waypost_queue.store import Store
from waypost_runtime.health import Health

from . import problems
from .history.database import Database
from .routes import inbox, messages, pages, queue, resources
from .settings import ApiSettings


def create(settings: ApiSettings, store: Store, database: Database, health: Health) -> FastAPI:
    """The application over an open connection and an open history."""
    app = FastAPI(
        title="Waypost",
        version=version("waypost"),
        description="Status and administration of a Waypost relay. Errors are RFC 9457 problem details.",
        docs_url=None,  # its page would load scripts from elsewhere; /openapi.json says it all
        redoc_url=None,
        routes=[*health.routes()],
    )
    app.state.settings = settings
    app.state.store = store
    app.state.database = database
    app.state.inbox = Inbox(store)
    problems.install(app)
    for router in (messages.router, queue.router, inbox.router, resources.router, pages.router):
        app.include_router(router)
    return app
