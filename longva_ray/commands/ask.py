"""`longva ask`: encode a video or an image unless that was done, and answer one question about it.

A video is encoded by the graph of the batch job, on Ray. An image is encoded in this process: it is
one forward pass.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from longva_ray.cluster.job import start_ray_quietly
from longva_ray.files.places import absolute, check_there, file_name, is_uri, read_file
from longva_ray.options import find_checkpoint
from longva_ray.recipes import get_recipe
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.base import Dtype
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.video.container import VideoError, open_container
from longva_ray.vision.read_image import FORMATS, is_image, is_image_name

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Options:
    """Answer a question about a video or an image. It is encoded first, unless that was done."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A video or an image: a path or a URI."""
    question: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="QUESTION")]
    """What to ask about it, in quotes."""
    recipe: str = "tiny"
    """Named set-up: tiny or longva_7b."""
    model: str | None = None
    """Checkpoint instead of the recipe's: a folder or a Hugging Face id."""
    store: str = "outputs/shards"
    """Folder or URI of the shards."""
    max_new_tokens: int = 256
    temperature: float = 0.0
    dtype: Dtype | None = None
    """Number format of the language model. None: the recipe's."""
    max_prompt_tokens: int | None = None
    """Longest prompt, visual tokens included. None: the checkpoint's own limit."""
    encode: EncodeConfig


def run(options: Options) -> int:
    """Print the answer as it is generated. Raises ValueError for a file that cannot be decoded."""
    settings = GenerationSettings(
        max_new_tokens=options.max_new_tokens, temperature=options.temperature
    )
    checkpoint = find_checkpoint(options.model, options.recipe)
    place, store_place = absolute(options.file), absolute(options.store)
    check_there([place])
    kind = _kind(place)
    encode = _encoded_image if kind == "image" else _encoded_video
    tokens = encode(place, store_place, checkpoint, options.encode)
    from longva_ray.answer.engine import AnswerEngine, Question

    usual = get_recipe(options.recipe).serve
    engine = AnswerEngine(
        checkpoint,
        dtype=options.dtype or usual.dtype,
        prefill_chunk=usual.prefill_chunk,
        max_prompt_tokens=options.max_prompt_tokens or usual.max_prompt_tokens,
    )
    content = [{"type": kind}, {"type": "text", "text": options.question}]
    question = Question(messages=[{"role": "user", "content": content}], items=[tokens])
    for piece in engine.stream(engine.read(question), settings):
        print(piece.text, end="", flush=True)
    print()
    return 0


def _kind(place: str) -> str:
    """Whether it is an "image" or a "video": by the content of a file, and by the name of a URI,
    since what that names may be large.

    Raises ValueError for a file that is neither."""
    if is_uri(place):
        return "image" if is_image_name(file_name(place)) else "video"
    path = Path(place)
    if path.is_file() and is_image(path):
        return "image"
    try:
        with open_container(path):
            return "video"
    except VideoError as error:
        raise ValueError(f"{error}; want a video, or an image ({', '.join(FORMATS)})") from error


def _encoded_image(
    place: str, store_place: str, checkpoint: str, config: EncodeConfig
) -> "torch.Tensor":
    """Tokens SD."""
    from longva_ray.shards.image_encoder import load_image_encoder
    from longva_ray.shards.images import ImageStore

    store = ImageStore(store_place)
    encoder, spec = load_image_encoder(checkpoint, config, store)
    return store.tokens(encoder(read_file(place), place), spec)


def _encoded_video(
    place: str, store_place: str, checkpoint: str, config: EncodeConfig
) -> "torch.Tensor":
    """Tokens FQD."""
    import ray

    from longva_ray.shards.pipeline import encode_videos
    from longva_ray.shards.store import ShardStore

    store = ShardStore(store_place)
    start_ray_quietly()
    report = encode_videos([place], store=store, checkpoint=checkpoint, config=config)
    ray.shutdown()
    if report.failed:
        raise ValueError(f"cannot encode {place}: {report.failed[0].error}")
    return store.open(report.videos[0].video_id, report.spec).tokens()
