"""Requests to the API, and its errors as one line and an exit status."""

import os
from typing import Annotated, Any

import httpx
import typer

from waypost_cli.exits import Exit, fail

DEFAULT_API = "http://127.0.0.1:8080"

ApiOption = Annotated[
    str, typer.Option("--api", envvar="WAYPOST_API", metavar="URL", help="where the API is", show_default=True)
]

_STATUS = {404: Exit.NOT_FOUND, 422: Exit.USAGE, 400: Exit.USAGE, 503: Exit.UNAVAILABLE}


def request(api: str, method: str, path: str, **options: Any) -> httpx.Response:
    """The answer, if it is a success; else ends the command with what the problem details say."""
    token = os.environ.get("WAYPOST_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=api, timeout=30.0, trust_env=False, headers=headers) as client:
            answer = client.request(method, path, **options)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fail(
            Exit.UNAVAILABLE, f"no API at {api}: {error}. Is `waypost dev` running? --api or WAYPOST_API gives another."
        )
    if not answer.is_success:
        fail(_STATUS.get(answer.status_code, Exit.FAILED), f"{_detail(answer)} (HTTP {answer.status_code})")
    return answer


def _detail(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
    except ValueError:
        return answer.text.strip()[:300]
    return str(problem.get("detail") or problem.get("title"))


def get(api: str, path: str, **params: Any) -> Any:
    """The JSON at a path."""
    return request(api, "GET", path, params={k: v for k, v in params.items() if v is not None}).json()
