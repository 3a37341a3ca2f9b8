"""A running server, for the tests of a file: a real deployment with a video in its store."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from asking import KEY
from ports import free_port
from ray import serve

from longva_ray.answer.engine import AnswerEngine
from longva_ray.serving.app_args import AppArgs
from longva_ray.serving.run import deploy
from longva_ray.settings.answering import ServeConfig
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.encoded_video import EncodedVideo
from longva_ray.shards.pipeline import encode_videos
from longva_ray.shards.store import ShardStore

ENCODE = EncodeConfig(
    dtype="float32", part_frames=8, encoder_cpus=0.5, encoder_gpus=0, decode_cpus=0.5
)


@pytest.fixture(scope="module")
def store(
    ray_cluster: str,
    counting_video: Path,
    tiny_checkpoint: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> ShardStore:
    store = ShardStore(tmp_path_factory.mktemp("store"))
    encode_videos([str(counting_video)], store=store, checkpoint=tiny_checkpoint, config=ENCODE)
    return store


@pytest.fixture(scope="module")
def video(store: ShardStore) -> EncodedVideo:
    (record,) = store.records()
    return EncodedVideo(record, store.read_part)


@pytest.fixture(scope="module")
def media_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def args(
    ray_cluster: str, store: ShardStore, video: EncodedVideo, media_root: Path, tiny_checkpoint: str
) -> AppArgs:
    config = ServeConfig(
        port=free_port(),
        dtype="float32",
        lm_cpus=0.5,
        prefill_chunk=64,
        max_prompt_tokens=2000,
        max_body_mib=8,
    )
    return AppArgs(
        model_name="tiny",
        checkpoint=tiny_checkpoint,
        store=store.root,
        allowed_roots=(str(media_root),),
        api_key=KEY,
        encode=ENCODE,
        serve=config,
    )


@pytest.fixture(scope="module")
def url(args: AppArgs) -> Iterator[str]:
    yield deploy(args)
    serve.shutdown()


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: str) -> AnswerEngine:
    """The same model in this process: what the server ought to say."""
    return AnswerEngine(tiny_checkpoint, dtype="float32", prefill_chunk=64)
