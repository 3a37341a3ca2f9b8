"""What is checked before the body of a request is read: the key, headers that would command Ray's
proxy, and the length of the body.

FastAPI reads the whole body, however long, before it runs any of our code for that request. So this
runs before FastAPI.
"""

import hmac
from collections.abc import Callable

from fastapi.responses import JSONResponse
from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longva_ray.serving.api import ApiError

OPEN_PATHS = ("/health", "/docs", "/redoc", "/openapi.json")
"""What needs no key, because a browser or a load balancer has none."""

PROXY_HEADERS = ("x-request-disconnect-disabled", "x-request-timeout-seconds")
"""By these a client tells Ray's proxy how long to run its request. One that runs on after its
client has left would keep a replica from all others."""


class Gate:
    """ASGI middleware: 401 without the server's key, 400 for a header that commands Ray's proxy,
    413 for a body that is too long."""

    def __init__(
        self, app: ASGIApp, key: Callable[[], str | None], max_bytes: Callable[[], int]
    ) -> None:
        """
        Both are called for each request.

        Args:
            key: the server's key, or None if it has none.
            max_bytes: longest body.
        """
        self._app = app
        self._key = key
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (error := self._refusal(scope)) is not None:
            await JSONResponse(error.body, error.status_code)(scope, receive, send)
            return
        size, most = 0, self._max_bytes()

        async def receive_bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise ApiError(
                    413,
                    "body_too_long",
                    f"the body has {size} bytes or more, this server reads {most}; send less text "
                    "and smaller images, and name videos instead of sending them",
                )
            return message

        await self._app(scope, receive_bounded, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path not in OPEN_PATHS and not self._may_enter(headers):
            return ApiError(
                401, "invalid_api_key", "send this server's API key as `Authorization: Bearer KEY`"
            )
        for name in PROXY_HEADERS:
            if name in headers:
                return ApiError(
                    400,
                    "unsupported_header",
                    f"header {name}: this server decides by itself how long a request runs; leave "
                    "it out",
                )
        return None

    def _may_enter(self, headers: Headers) -> bool:
        key = self._key()
        scheme, given = get_authorization_scheme_param(headers.get("authorization"))
        return key is None or (
            scheme.lower() == "bearer"
            # Headers are decoded as Latin-1, whatever their bytes are.
            and hmac.compare_digest(given.encode("latin-1"), key.encode())
        )
