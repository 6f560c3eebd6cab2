"""Knows the routes of a server."""

from __future__ import annotations

import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

import pocketvlm
from pocketvlm.errors import EngineError
from pocketvlm.server.bodies import ClientGone
from pocketvlm.server.completions import complete
from pocketvlm.server.errors import Refusal
from pocketvlm.server.metrics import CONTENT_TYPE
from pocketvlm.server.openapi import describe
from pocketvlm.server.process import Engine
from pocketvlm.server.responses import JSONAnswer, on_gone, on_http_error, on_refusal
from pocketvlm.server.security import Guard
from pocketvlm.server.service import ServerOptions, Service
from pocketvlm.web import SERVER, SITE, page_files, site_facts

_NO_PAGE = (
    "This is `pocketvlm serve`. It speaks OpenAI's protocol under /v1; there is no page in this "
    "installation.\n"
)
_STARTED = int(time.time())


def make_app(options: ServerOptions, engine: Engine) -> Starlette:
    """The application of one server.

    Args:
        options: how it is set up.
        engine: what answers; whoever made it starts and closes it.
    """
    service = Service(options, engine)
    middleware = [Middleware(Guard, service=service)]
    if options.origins:
        cross_origin = Middleware(
            CORSMiddleware,
            allow_origins=options.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # the clients of others send their own
        )
        middleware.insert(0, cross_origin)  # so that a page may read why it is refused
    app = Starlette(
        routes=_routes(options),
        middleware=middleware,
        exception_handlers={
            Refusal: on_refusal,
            ClientGone: on_gone,
            HTTPException: on_http_error,
        },
    )
    app.state.service = service
    return app


def _routes(options: ServerOptions) -> list[BaseRoute]:
    routes: list[BaseRoute] = [
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/v1/models", _models),
        Route("/v1/models/{name:path}", _model),
        Route("/health", _health),
        Route("/metrics", _metrics),
        Route("/openapi.json", _openapi),
    ]
    if options.using is not None:
        routes.append(_file("using.json", Path(options.using)))
    try:
        page = page_files()
    except EngineError:
        return [*routes, Route("/", _no_page)]
    index = page["index.html"]
    pages = [_file("", index), *(_file(name, path) for name, path in page.items())]
    return [*routes, Route(f"/{SITE}", _site), *pages]


def _file(name: str, path: Path) -> Route:
    """A file that is served, and nothing else of its folder."""

    async def send(_request: Request) -> Response:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return Route(f"/{name}", send)


async def _site(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONAnswer(site_facts(SERVER, [{"name": service.options.name}]))


async def _models(request: Request) -> Response:
    return JSONAnswer({"object": "list", "data": [_described(request)]})


async def _model(request: Request) -> Response:
    service: Service = request.app.state.service
    service.check_model(request.path_params["name"])
    return JSONAnswer(_described(request))


def _described(request: Request) -> dict[str, object]:
    service: Service = request.app.state.service
    return {
        "id": service.options.name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "pocketvlm",
        "pocketvlm": dict(service.engine.facts),
    }


async def _health(request: Request) -> Response:
    service: Service = request.app.state.service
    state = service.engine.state
    body = {
        "status": "ok" if state == "ready" else state,
        "server": "pocketvlm",
        "version": pocketvlm.__version__,
        "running": service.queue.running,
        "waiting": service.queue.waiting,
    }
    return JSONAnswer(body, 200 if state == "ready" else 503)


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def _openapi(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONAnswer(describe(service.options, keyed=service.options.api_key is not None))


async def _no_page(_request: Request) -> Response:
    return PlainTextResponse(_NO_PAGE)
