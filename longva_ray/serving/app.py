"""The Ray Serve application: an HTTP API, with the language model and an encoder behind it.

    POST /v1/chat/completions   an answer about images and videos, whole or streamed
    POST /v1/score              teacher-forced scores of given answers
    GET  /v1/models, /v1/videos what can be asked, and about what; /v1/models/{name} says more
    GET  /health

`build_app` is a Serve application builder: pass it to `serve.run`, or name it in a Serve config
file as `import_path: longva_ray.serving.app:build_app` with the fields of `AppArgs` under `args`.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from fastapi.sse import EventSourceResponse, format_sse_event
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from longva_ray.answer.generate import AnswerPiece
from longva_ray.serving.allowed_files import AllowedFiles
from longva_ray.serving.api import (
    ApiError,
    ChatRequest,
    CompletionBody,
    PromptUsage,
    ScoreRequest,
    StreamOptions,
    usage,
)
from longva_ray.serving.app_args import AppArgs
from longva_ray.serving.encode_command import encode_command
from longva_ray.serving.gate import Gate
from longva_ray.serving.image_source import ImageSource
from longva_ray.serving.items import ItemRef, VideoRef
from longva_ray.serving.media import MediaLibrary
from longva_ray.serving.refusals import REFUSALS
from longva_ray.serving.replicas import LanguageModel, MediaEncoder
from longva_ray.serving.request_log import Asked, RequestLog, asked_of
from longva_ray.serving.understand import Understanding
from longva_ray.settings.answering import ServeConfig
from longva_ray.shards.images import ImageSpec, image_spec
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import describe_encoder

UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers of a streamed answer, so that no proxy on the way holds it back."""


Pieces = DeploymentResponseGenerator[tuple[PromptUsage, AnswerPiece]]


AskedNow = Annotated[Asked, Depends(asked_of)]
"""Parameter of a route: the record of its request for the log."""


def _server() -> "Api":
    """The server in whose replica this runs."""
    return cast("Api", serve.get_replica_context().servable_object)


routes = FastAPI(
    title="longva_ray",
    description="Questions about images and very long videos.",
    # Tells readers of /docs that there is a key, and where to put it; `Gate` asks for it.
    dependencies=[Depends(HTTPBearer(auto_error=False))],
    exception_handlers=REFUSALS,
)


routes.add_middleware(
    Gate, key=lambda: _server().api_key, max_bytes=lambda: _server().max_body_bytes
)
routes.add_middleware(RequestLog)  # outside of the gate: what it refuses is logged, too


def build_app(args: AppArgs) -> serve.Application:
    """Wire the deployments.

    Reads the encoder's weights once, to know which shards belong to this model.
    """
    spec = describe_encoder(args.checkpoint, args.encode)
    image_encoding = image_spec(args.checkpoint, spec.encoder_fingerprint, args.encode)
    config = args.serve
    language_model = (
        _deployment(LanguageModel)
        .options(
            num_replicas=config.lm_replicas,
            max_ongoing_requests=config.max_ongoing_requests,
            max_queued_requests=config.max_queued_requests,
            request_router_config=_router(config),
            ray_actor_options={"num_cpus": config.lm_cpus, "num_gpus": config.lm_gpus},
            # An answer in progress may finish when the application is taken down. `serve.delete`
            # waits a minute for everything together.
            graceful_shutdown_timeout_s=45,
        )
        .bind(args.checkpoint, args.store, config)
    )
    encoder = (
        _deployment(MediaEncoder)
        .options(
            max_ongoing_requests=1,
            max_queued_requests=config.max_queued_requests,
            ray_actor_options={
                "num_cpus": args.encode.encoder_cpus,
                "num_gpus": config.encoder_gpus,
            },
        )
        .bind(
            args.checkpoint,
            args.store,
            spec,
            image_encoding,
            args.encode,
            config.max_image_megapixels * 10**6,
        )
    )
    api = _deployment(Api).options(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
    return api.bind(args, spec, image_encoding, language_model, encoder)


def _router(config: ServeConfig) -> RequestRouterConfig:
    """Several replicas: what is asked about the same goes to the one that has its KV
    (`answer.sessions`), or to another while that one is busy."""
    if config.lm_replicas == 1:
        return RequestRouterConfig()
    place: Any = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
    return RequestRouterConfig(request_router_class=place)


def _deployment(replica: Callable[..., Any]) -> serve.Deployment:
    """`serve.deployment` without its decorator form, which hides the result's type."""
    return cast(serve.Deployment, serve.deployment(replica))


# `serve.ingress` copies the routes at this point, so what they use must be defined above.


async def _events(
    first: AnswerPiece,
    pieces: Pieces,
    body: CompletionBody,
    options: StreamOptions | None,
    asked: Asked,
) -> AsyncIterator[bytes]:
    """Server-sent events of one answer. Cancels the model when the client goes away."""
    piece, asked.outcome = first, "client left"
    try:
        yield _event(body.chunk({"role": "assistant", "content": piece.text}, piece.finish_reason))
        async for _, piece in pieces:
            asked.answer_tokens = piece.num_tokens
            yield _event(body.chunk({"content": piece.text}, piece.finish_reason))
        if options is not None and options.include_usage:
            assert asked.prompt is not None
            yield _event(body.final_usage(usage(asked.prompt, piece.num_tokens)))
        yield format_sse_event(data_str="[DONE]")
        asked.outcome = str(piece.finish_reason)
    finally:
        pieces.cancel()


def _event(content: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(content))


@serve.ingress(routes)
class Api:
    """Checks requests, finds or encodes what they show, and asks the language model."""

    def __init__(
        self,
        args: AppArgs,
        spec: EncodingSpec,
        image_encoding: ImageSpec,
        language_model: DeploymentHandle[Any],
        encoder: DeploymentHandle[Any],
    ) -> None:
        self._model_name = args.model_name
        self._spec, self._config = spec, args.serve
        files = AllowedFiles(args.allowed_roots)
        self._library = MediaLibrary(ShardStore(args.store), spec, files, encode_command(args))
        self._understand = Understanding(
            self._library,
            ImageSource(files, args.serve.max_image_mib * 2**20),
            args.store,
            spec,
            image_encoding,
            encoder,
            max_images=args.serve.max_images,
            max_bytes=args.serve.max_body_mib * 2**20,
        )
        self._language_model = language_model
        self.api_key: str | None = args.api_key
        self.max_body_bytes: int = args.serve.max_body_mib * 2**20
        self._started = int(time.time())

    @routes.get("/health")
    @routes.head("/health", include_in_schema=False)
    async def health(self) -> dict[str, str]:
        """200 as long as this process answers. Serve watches the other replicas and replaces
        them."""
        return {"status": "ok"}

    @routes.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        """The one model of this server."""
        return {"object": "list", "data": [self._model()]}

    @routes.get("/v1/models/{name}")
    async def model(self, name: str) -> dict[str, Any]:
        """The model of that name with all that decides its answers, so that a client who keeps them
        knows which are of the same model. The first time, all weights are read."""
        self._check_model(name)
        fingerprint = await self._language_model.fingerprint.remote()
        return self._model() | {
            "fingerprint": fingerprint,
            "encoder_fingerprint": self._spec.encoder_fingerprint,
            "encoding": self._spec.key,
            "dtype": self._config.dtype,
            "prefill_chunk": self._config.prefill_chunk,
        }

    @routes.get("/v1/videos")
    async def videos(self) -> dict[str, Any]:
        """Every encoded video that this model can be asked about."""
        return {"object": "list", "data": await asyncio.to_thread(self._library.listing)}

    @routes.post("/v1/chat/completions", response_model=None)
    async def chat(
        self, request: ChatRequest, asked: AskedNow
    ) -> dict[str, Any] | EventSourceResponse:
        """An answer in OpenAI's shape; server-sent events if `stream` is set."""
        self._check_model(request.model)
        messages, items = await self._understand(request)
        pieces = cast(
            Pieces,
            self._near(items, asked)
            .options(stream=True)
            .chat.remote(messages, items, request.settings(), request.answer_tokens or 1),
        )
        body = CompletionBody(self._model_name, asked.id)
        # The first piece is awaited here, so that a bad prompt is still a plain 400. A method that
        # yields events, FastAPI's own form, would have answered 200 by then.
        read, piece = await anext(pieces)
        asked.prompt, asked.answer_tokens = read, piece.num_tokens
        if request.stream:
            events = _events(piece, pieces, body, request.stream_options, asked)
            return EventSourceResponse(events, headers=UNBUFFERED)
        text = piece.text
        async for _, piece in pieces:
            text += piece.text
        asked.answer_tokens, asked.outcome = piece.num_tokens, str(piece.finish_reason)
        return body.whole(text, piece.finish_reason, usage(read, piece.num_tokens))

    @routes.post("/v1/score")
    async def score(self, request: ScoreRequest, asked: AskedNow) -> dict[str, Any]:
        """Scores of every answer, and the index of the likeliest by mean log-probability."""
        self._check_model(request.model)
        messages, items = await self._understand(request)
        language_model = self._near(items, asked)
        read, scored = await language_model.score.remote(messages, items, request.answers)
        asked.prompt = read
        about = {"id": f"score-{asked.id}", "object": "score", "model": self._model_name}
        return about | scored | {"usage": usage(read, 0)}

    def _near(self, items: Sequence[ItemRef], asked: Asked) -> DeploymentHandle[Any]:
        """The language model, for what is asked about these. Without any, any replica will do, and
        never one that a header of the client chooses."""
        names = [ref.video_id if isinstance(ref, VideoRef) else ref.image_id for ref in items]
        return self._language_model.options(session_id="+".join(names) or asked.id)

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._model_name,
            "object": "model",
            "created": self._started,
            "owned_by": "longva_ray",
        }

    def _check_model(self, name: str) -> None:
        if name != self._model_name:
            raise ApiError(
                404, "model_not_found", f"this server has model {self._model_name!r}, not {name!r}"
            )
