"""What the server says when it does not answer: errors -> OpenAI's shape.

FastAPI(exception_handlers=REFUSALS)
"""

import logging
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from starlette.exceptions import HTTPException

from longva_ray.serving.api import ApiError
from longva_ray.serving.request_log import asked_of
from longva_ray.shards.schema import ShardError

logger = logging.getLogger(__name__)


async def _refuse(request: Request, error: ApiError) -> JSONResponse:
    asked_of(request).outcome = error.code
    return JSONResponse(error.body, error.status_code)


async def _no_route(request: Request, error: HTTPException) -> JSONResponse:
    """A path or method that the server does not have, as FastAPI tells it."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    what = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists what there is"
    response = await _refuse(request, ApiError(error.status_code, code, what))
    response.headers.update(error.headers or {})
    return response


async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    problems = "; ".join(
        f"{'.'.join(str(step) for step in problem['loc'][1:])}: {problem['msg']}"
        for problem in error.errors()
    )
    return await _refuse(request, ApiError(400, "malformed_request", problems))


async def _mistake(request: Request, error: ValueError) -> JSONResponse:
    """A user's mistake that only the model or the decoder can notice. Its text says what is wrong
    and how to mend it. A damaged shard is not the user's mistake."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ShardError):
        logger.error("%s", cause)
        return await _refuse(request, ApiError(500, "damaged_shard", str(cause)))
    logger.info("refused a request", exc_info=error)
    return await _refuse(request, ApiError(400, "invalid_request", str(cause)))


async def _broken_weights(request: Request, error: FloatingPointError) -> JSONResponse:
    """Logits that are not finite: the weights are at fault, and whoever asks should know."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    logger.error("%s", cause)
    return await _refuse(request, ApiError(500, "broken_weights", str(cause)))


async def _overloaded(request: Request, error: BackPressureError) -> JSONResponse:
    waiting = ApiError(503, "overloaded", "too many requests are waiting; try again soon")
    response = await _refuse(request, waiting)
    response.headers["Retry-After"] = "5"
    return response


REFUSALS: dict[Any, Any] = {
    ApiError: _refuse,
    HTTPException: _no_route,
    RequestValidationError: _malformed,
    ValueError: _mistake,
    FloatingPointError: _broken_weights,
    BackPressureError: _overloaded,
}
"""The handler of each kind of error."""
