"""Errors as RFC 9457 problem details: `application/problem+json`, whose detail says what would be right."""

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from waypost_queue.errors import StoreError

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """What a route raises: becomes the answer."""

    def __init__(self, status: int, title: str, detail: str, **extra: object) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.extra = extra


def response(
    status: int, title: str, detail: str, extra: dict[str, object] | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **(extra or {})}
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Every error of the application becomes a problem; an unexpected one shows no text of its own."""

    @app.exception_handler(ProblemError)
    async def _problem(_request: Request, error: ProblemError) -> JSONResponse:
        return response(error.status, error.title, error.detail, error.extra)

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        detail = (
            "There is nothing at this address; /openapi.json lists what there is." if error.status_code == 404 else ""
        )
        return response(
            error.status_code, str(error.detail), detail or str(error.detail), headers=dict(error.headers or {})
        )

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        fields = [
            {"field": ".".join(str(part) for part in item["loc"][1:]), "message": item["msg"]}
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['field']}: {item['message']}" for item in fields)
        return response(422, "Invalid request", detail, {"errors": fields})

    @app.exception_handler(StoreError)
    async def _store(_request: Request, error: StoreError) -> JSONResponse:
        log.warning("api.store_unavailable", error=str(error))
        return response(
            503, "Queue unavailable", "NATS JetStream does not answer; mail is safe, try again in a moment."
        )

    @app.exception_handler(SQLAlchemyError)
    async def _history(_request: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("api.history_unavailable", error=str(error))
        return response(503, "History unavailable", "The history's database does not answer; the log says why.")

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("api.unexpected", path=request.url.path, exc_info=error)
        return response(500, "Internal error", "This is a fault of Waypost; its log has the traceback.")
