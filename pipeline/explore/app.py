"""The page and its JSON over HTTP, for this machine only."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import InputError, RunError
from pipeline.explore.browse import Browser, UnknownError
from pipeline.explore.look import MOST_BYTES
from pipeline.report.contact_sheet import NoPictureError

HOST = "127.0.0.1"
_HOSTS = (HOST, "localhost")
_PAGE = Path(__file__).parent / "page"
_MOST = 500
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_KEPT = {"Cache-Control": "private, max-age=3600"}


class ParameterError(RunError):
    """A parameter of a request is missing or wrong."""

    exit_code = 2


class TooLargeError(RunError):
    """More bytes were sent than a picture may have."""

    exit_code = 2


class _LocalOnly:
    """Answers requests for names of this machine only, so that no other site's name can be made to lead here (DNS
    rebinding), and of no other page, even of this machine; and tells browsers to run nothing but the page's files."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        request = Request(scope)
        if _name(request.headers.get("host", "")) not in _HOSTS:
            answer = PlainTextResponse("this page is for the machine that it runs on\n", 421)
            await answer(scope, receive, send_with_headers)
        elif request.url.path.startswith("/api/") and _is_of_another_page(request):
            await PlainTextResponse("asked for by another site\n", 403)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def _is_of_another_page(request: Request) -> bool:
    """By what browsers say of where a request comes from; programs say nothing."""
    origin = request.headers.get("origin")
    own = origin is None or origin == f"http://{request.headers['host']}"
    return not own or request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rsplit(":", 1)[0].lower() if ":" in host else host.lower()


def make_app(browser: Browser) -> Starlette:
    """The application. It changes nothing of the run; answers are worked out on threads, as they wait for files."""
    one_picture = asyncio.Semaphore(1)

    async def look(request: Request) -> Response:
        # So that pictures that wait do not fill the memory.
        async with one_picture:
            data = await _picture(request)
            return JSONResponse(await run_in_threadpool(browser.look, data, _number(request, "limit", 12, 100)))

    def get(path: str, answer: Callable[[Request], Response]) -> Route:
        return Route(f"/api/{path}", answer, methods=["GET"])

    routes = [
        get("run", lambda _: JSONResponse(browser.about())),
        get("search", lambda request: JSONResponse(_search(browser, request))),
        get("facets", lambda request: JSONResponse(_facets(browser, request))),
        get("complete", lambda request: JSONResponse(_complete(browser, request))),
        get("image", lambda request: JSONResponse(browser.image(_text(request, "id")))),
        get("neighbours", lambda request: JSONResponse(_neighbours(browser, request))),
        get("thumbnail", lambda request: _jpeg(browser.thumbnail(_text(request, "id")))),
        get("rejects", lambda request: JSONResponse(_rejects(browser, request))),
        get("threshold", lambda request: JSONResponse(_threshold(browser, request))),
        get("news", lambda _: JSONResponse(browser.news())),
        Route("/api/renew", lambda _: JSONResponse(browser.renew()), methods=["POST"]),
        Route("/api/look", look, methods=["POST"]),
        Mount("/", StaticFiles(directory=_PAGE, html=True)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_LocalOnly)],
        exception_handlers={RunError: _refuse, Exception: _failed},
    )


def _refuse(request: Request, error: Exception) -> Response:
    """One line that says what is wrong."""
    missing = isinstance(error, UnknownError | NoPictureError)
    asked_wrong = isinstance(error, RunError) and error.exit_code == 2 and not isinstance(error, InputError)
    status = 413 if isinstance(error, TooLargeError) else 404 if missing else 400 if asked_wrong else 500
    return JSONResponse({"error": str(error)}, status)


def _failed(request: Request, error: Exception) -> Response:
    """What nobody foresaw, in the form of other answers. It goes past `_LocalOnly`, and is then raised for the log."""
    said = f"{type(error).__name__}: {error}; is the run still as it was? The terminal says more"
    return JSONResponse({"error": said}, 500, headers=_HEADERS)


async def _picture(request: Request) -> bytes:
    """The body, which is the picture's file. Raises TooLargeError as soon as it is too large."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise TooLargeError(f"the picture has more than {MOST_BYTES // 10**6} MB: give a smaller one")
    return bytes(data)


def _search(browser: Browser, request: Request) -> dict[str, Any]:
    query = _text(request, "q", "*").strip() or "*"
    return browser.search(query, _number(request, "limit", 48, _MOST), _number(request, "offset", 0, None))


def _facets(browser: Browser, request: Request) -> list[dict[str, Any]]:
    query = _text(request, "q", "*").strip() or "*"
    return browser.facets(query, _number(request, "limit", 24, _MOST))


def _complete(browser: Browser, request: Request) -> list[dict[str, Any]]:
    return browser.completions(_text(request, "start"), _number(request, "limit", 10, 100))


def _neighbours(browser: Browser, request: Request) -> list[dict[str, Any]]:
    return browser.neighbours(_text(request, "id"), _number(request, "limit", 12, 100))


def _rejects(browser: Browser, request: Request) -> Any:
    if "kind" not in request.query_params:
        return browser.reject_kinds()
    limit, offset = _number(request, "limit", 50, _MOST), _number(request, "offset", 0, None)
    return browser.rejects(_text(request, "kind"), limit, offset)


def _threshold(browser: Browser, request: Request) -> dict[str, Any]:
    given = _text(request, "threshold")
    try:
        threshold = float(given)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold <= 1:
        raise ParameterError(f"threshold={given}: give a number from 0 to 1")
    return browser.tried(_number(request, "tag_id", None, None), threshold, _number(request, "limit", 12, 100))


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg", headers=_KEPT)


def _text(request: Request, name: str, default: str | None = None) -> str:
    value = request.query_params.get(name, default)
    if value is None:
        raise ParameterError(f"{name} is missing: give ?{name}=…")
    return value


def _number(request: Request, name: str, default: int | None, most: int | None) -> int:
    text = _text(request, name, None if default is None else str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 16) or (most is not None and int(text) > most):
        raise ParameterError(f"{name}={text}: give a whole number from 0{'' if most is None else f' to {most}'}")
    return int(text)
