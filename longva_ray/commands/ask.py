"""`longva ask`: encode a video unless its shards are there, and answer one question about it."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from longva_ray.cluster.job import start_ray_quietly
from longva_ray.files.places import absolute, check_there
from longva_ray.options import find_checkpoint
from longva_ray.recipes import get_recipe
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.base import Dtype
from longva_ray.settings.encoding import EncodeConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Answer a question about a video. The video is encoded first, unless its shards are there."""

    video: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """A video file: a path or a URI."""
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
    """Print the answer as it is generated. Raises ValueError for a video that cannot be decoded."""
    settings = GenerationSettings(
        max_new_tokens=options.max_new_tokens, temperature=options.temperature
    )
    checkpoint = find_checkpoint(options.model, options.recipe)
    place, store_place = absolute(options.video), absolute(options.store)
    check_there([place])
    import ray

    from longva_ray.answer.engine import AnswerEngine, Question
    from longva_ray.shards.pipeline import encode_videos
    from longva_ray.shards.store import ShardStore

    store = ShardStore(store_place)
    start_ray_quietly()
    report = encode_videos([place], store=store, checkpoint=checkpoint, config=options.encode)
    ray.shutdown()
    if report.failed:
        raise ValueError(f"cannot encode {options.video}: {report.failed[0].error}")
    video = store.open(report.videos[0].video_id, report.spec)
    usual = get_recipe(options.recipe).serve
    engine = AnswerEngine(
        checkpoint,
        dtype=options.dtype or usual.dtype,
        prefill_chunk=usual.prefill_chunk,
        max_prompt_tokens=options.max_prompt_tokens or usual.max_prompt_tokens,
    )
    content = [{"type": "video"}, {"type": "text", "text": options.question}]
    question = Question(messages=[{"role": "user", "content": content}], videos=[video.tokens()])
    for piece in engine.stream(engine.read(question), settings):
        print(piece.text, end="", flush=True)
    print()
    return 0
