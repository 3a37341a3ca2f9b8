"""What a server is started with: its key, its address, and the command it tells its clients."""

import dataclasses
import importlib
import shlex
import socket
from pathlib import Path

import pytest
from ray import serve
from ray.serve.config import HTTPOptions
from repository import JOBS

from longva_ray.commands.serve import Options as ServeOptions
from longva_ray.options import find_checkpoint, parse, recipe_defaults
from longva_ray.recipes import get_recipe
from longva_ray.serving.app_args import AppArgs
from longva_ray.serving.encode_command import encode_command
from longva_ray.serving.ray_serve_internals import listening_at
from longva_ray.serving.run import deploy
from longva_ray.settings.answering import ServeConfig
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.workers import describe_encoder


def options(host: str = "127.0.0.1") -> ServeOptions:
    usual = recipe_defaults(ServeOptions, "tiny")
    return dataclasses.replace(usual, serve=ServeConfig(host=host))


def test_an_empty_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGVA_API_KEY", "")
    with pytest.raises(ValueError, match="protects nothing"):
        options().app_args()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "server.example"])
def test_other_machines_need_a_key(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("LONGVA_API_KEY", raising=False)
    with pytest.raises(ValueError, match="LONGVA_API_KEY is not set"):
        options(host).app_args()
    monkeypatch.setenv("LONGVA_API_KEY", "secret")
    assert options(host).app_args().api_key == "secret"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_none(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("LONGVA_API_KEY", raising=False)
    assert options(host).app_args().api_key is None


@pytest.mark.parametrize("name", ["tiny", "a name of somebody's"])
@pytest.mark.parametrize(
    "encode",
    [
        get_recipe("tiny").encode,
        EncodeConfig(sampling="uniform:8", dtype="float32", part_frames=8, micro_batch=4),
    ],
)
def test_the_command_for_clients_encodes_what_the_server_reads(
    tiny_checkpoint: str, monkeypatch: pytest.MonkeyPatch, name: str, encode: EncodeConfig
) -> None:
    monkeypatch.syspath_prepend(JOBS)
    encode_job = importlib.import_module("encode_videos")
    store = "s3://id:secret@bucket/my shards?region=us-east-1&client_secret=hidden"
    args = AppArgs(model_name=name, checkpoint=tiny_checkpoint, store=store, encode=encode)
    command = encode_command(args)
    assert "secret" not in command
    assert "hidden" not in command
    python, job, *arguments = shlex.split(command)
    assert (python, job) == ("python", "jobs/encode_videos.py")
    given = parse(encode_job.Options, arguments)
    assert given.store == "s3://bucket/my shards?region=us-east-1"
    checkpoint = find_checkpoint(given.model, given.recipe)
    expected = describe_encoder(tiny_checkpoint, encode)
    assert describe_encoder(checkpoint, given.encode) == expected


def test_the_command_names_another_checkpoint() -> None:
    args = AppArgs(
        model_name="longva_7b",
        checkpoint="/models/my own",
        store="/data/shards",
        encode=get_recipe("longva_7b").encode,
    )
    assert encode_command(args) == (
        "python jobs/encode_videos.py --videos FILE --store /data/shards --recipe longva_7b "
        "--model '/models/my own'"
    )


def test_an_address_that_would_be_ignored_is_refused(
    ray_cluster: str, tiny_checkpoint: str, tmp_path: Path
) -> None:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        running, wanted = first.getsockname()[1], second.getsockname()[1]
    encode = get_recipe("tiny").encode
    args = AppArgs(
        model_name="tiny", checkpoint=tiny_checkpoint, store=str(tmp_path), encode=encode
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=running))
    try:
        assert listening_at() == ("127.0.0.1", running)
        for config in (ServeConfig(port=wanted), ServeConfig(host="0.0.0.0", port=running)):
            with pytest.raises(
                ValueError, match=f"listens on 127.0.0.1:{running} already"
            ) as error:
                deploy(args.model_copy(update={"serve": config}))
            assert "serve shutdown" in str(error.value)
        assert not serve.status().applications
    finally:
        serve.shutdown()
