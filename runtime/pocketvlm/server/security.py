"""Knows which requests are let in: by the host that they name, the page that they come from, and
their key.

A web page elsewhere must not drive a server on this machine. Browsers name the page in ``Origin``;
one that had its own name point here (DNS rebinding) still sends that name as ``Host``.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import traceback

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pocketvlm.server.errors import Refusal, internal, new_reference
from pocketvlm.server.responses import refused
from pocketvlm.server.service import Service

_log = logging.getLogger(__name__)

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
# What needs the key. The rest says only that a server is there: its health, its page.
_KEYED = ("/v1/", "/metrics", "/using.json")
_PATHS = frozenset(
    {"/", "/health", "/metrics", "/openapi.json", "/v1/chat/completions", "/v1/models"}
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "frame-ancestors 'none'",
    # For threads in the page: only documents that are isolated have them.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Checks every request before any other part sees it, and counts it. What fails behind it
    becomes a 500 with a reference; the reason is for the log alone."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update(HEADERS)
                self._service.metrics.requested(_route(scope), message["status"])
            await send(message)

        try:
            check(self._service, scope)
            await self._app(scope, receive, sending)
        except Refusal as refusal:
            await refused(refusal)(scope, receive, sending)
        except Exception:  # noqa: BLE001 - whatever it is, it is not for strangers
            reference = new_reference()
            _log.error("%s: %s", reference, traceback.format_exc())
            if not begun:
                await refused(internal(reference))(scope, receive, sending)


def check(service: Service, scope: Scope) -> None:
    """Raise `Refusal` for a request that is not let in."""
    headers, options = Headers(scope=scope), service.options
    host = headers.get("host", "")
    if len(headers.getlist("host")) != 1 or not _is_ours(service, host, scope):
        raise Refusal(
            403,
            f"the host {host[:100]!r} is not this server's: --allow-host lets it in",
            code="host_not_allowed",
        )
    origin = headers.get("origin")
    allowed = {f"http://{host}", f"https://{host}", *options.origins}
    if origin is not None and origin not in allowed and "*" not in options.origins:
        raise Refusal(
            403,
            f"pages of {origin[:100]!r} may not ask this server: --cors lets them in",
            code="origin_not_allowed",
        )
    is_preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
    if options.api_key is not None and scope["path"].startswith(_KEYED) and not is_preflight:
        _check_key(headers.get("authorization", ""), options.api_key)


def _is_ours(service: Service, host: str, scope: Scope) -> bool:
    """Whether a ``Host`` is a name of this server, whatever its port.

    An address is ours where the connection came in at it. No name can be made to point at a page
    that has an address for its origin.
    """
    name = _name(host)
    options = service.options
    own = {*_LOCAL, options.host.lower(), *map(str.lower, options.hosts)}
    if name in own or "*" in own:
        return bool(name)
    server = scope.get("server") or ("", None)
    return _is_address(name) and name == str(server[0]).lower()


def _name(host: str) -> str:
    """The name or address in a ``Host``, without its port; empty where it is none."""
    name, bracket, rest = host.lower().partition("]")
    if bracket:
        return name.removeprefix("[") if name.startswith("[") and _is_port(rest) else ""
    name, colon, port = name.partition(":")
    return name if _is_port(colon + port) else ""


def _is_port(text: str) -> bool:
    return not text or (text.startswith(":") and text[1:].isdecimal())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_key(stated: str, key: str) -> None:
    scheme, _, given = stated.partition(" ")
    # Of digests, so that neither the length nor the place of a difference shows in the time.
    digests = [hashlib.sha256(each.encode()).digest() for each in (given.strip(), key)]
    if scheme.lower() != "bearer" or not hmac.compare_digest(*digests):
        raise Refusal(
            401,
            "this server needs its key: Authorization: Bearer KEY",
            code="invalid_api_key",
        )


def _route(scope: Scope) -> str:
    """The path of the route that answered, so that strangers cannot invent label values."""
    path: str = scope["path"]
    return path if path in _PATHS else "other"
