"""`longva show`: ask several videos several questions, and write answers and frames as a page."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from longva_ray.cluster.job import start_ray_quietly
from longva_ray.files.places import absolute, check_there, file_name, local_file, local_path
from longva_ray.options import find_checkpoint
from longva_ray.recipes import get_recipe
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.encoding import EncodeConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from longva_ray.answer.engine import AnswerEngine
    from longva_ray.answer.page import ShownAnswer, ShownFrame, ShownVideo
    from longva_ray.shards.encoded_video import EncodedVideo

LOOKED_AT = 4
"""Frames below an answer."""

THUMBNAIL = 224
"""Pixels of a side, twice those on the page."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Ask videos questions and write a page of frames, questions and answers (Figure 6 of the
    paper). Every question is asked about every video."""

    videos: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """Video files: paths or URIs."""
    ask: tuple[str, ...]
    """What to ask, each in quotes."""
    out: str = "outputs/show.html"
    """The page: one file, with the pictures in it."""
    recipe: str = "tiny"
    """Named set-up: tiny or longva_7b."""
    model: str | None = None
    """Checkpoint instead of the recipe's: a folder or a Hugging Face id."""
    store: str = "outputs/shards"
    """Folder or URI of the shards."""
    frames: int | None = None
    """Read at most so many frames of a video, spread evenly. None: all."""
    shown: int = 8
    """Frames of each video on the page, spread evenly over those that are read."""
    max_new_tokens: int = 256
    encode: EncodeConfig


def run(options: Options) -> int:
    """Write the page. Raises ValueError for a video that cannot be decoded."""
    for name in ("frames", "shown"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if not options.videos or not options.ask:
        raise ValueError("give at least one video, and --ask with at least one question")
    checkpoint = find_checkpoint(options.model, options.recipe)
    places, out = [absolute(video) for video in options.videos], local_path(options.out)
    check_there(places)
    import ray

    from longva_ray.answer.page import write_page
    from longva_ray.shards.pipeline import encode_videos
    from longva_ray.shards.store import ShardStore

    store = ShardStore(absolute(options.store))
    start_ray_quietly()
    report = encode_videos(places, store=store, checkpoint=checkpoint, config=options.encode)
    ray.shutdown()
    if report.failed:
        raise ValueError(f"cannot encode {report.failed[0].path}: {report.failed[0].error}")
    ids = {video.path: video.video_id for video in report.videos}
    encoded = {place: store.open(ids[place], report.spec) for place in places}
    shown = _ask(options, checkpoint, encoded)
    out.parent.mkdir(parents=True, exist_ok=True)
    page = write_page("What the videos show", f"model: {checkpoint}", shown)
    out.write_text(page, encoding="utf-8")
    print(f"page: {out}")
    return 0


def _ask(
    options: Options, checkpoint: str, encoded: "dict[str, EncodedVideo]"
) -> "list[ShownVideo]":
    """Every question about every video; what is read of a video is read once."""
    import numpy as np

    from longva_ray.answer.engine import AnswerEngine
    from longva_ray.answer.page import ShownVideo

    usual = get_recipe(options.recipe).serve
    engine = AnswerEngine(
        checkpoint,
        dtype=usual.dtype,
        prefill_chunk=usual.prefill_chunk,
        max_prompt_tokens=usual.max_prompt_tokens,
        reuse_prefix=True,
    )
    found = []
    for place, video in encoded.items():
        rows = video.evenly(options.frames)
        shown = rows[np.linspace(0, len(rows) - 1, min(options.shown, len(rows)), dtype=int)]
        answered = list(_answers(options, engine, video, rows))
        looked_at = [most for _, most in answered]
        # The file is opened once, whatever is shown of it.
        frames = _frames(place, video, np.unique(np.concatenate([shown, *looked_at])))
        found.append(
            ShownVideo(
                name=file_name(place),
                frames=[frames[row] for row in shown],
                num_read=len(rows),
                num_frames=video.num_frames,
                answers=[
                    dataclasses.replace(answer, looked_at=[frames[row] for row in most])
                    for answer, most in answered
                ],
            )
        )
    return found


def _answers(
    options: Options, engine: "AnswerEngine", video: "EncodedVideo", rows: "npt.NDArray[np.int64]"
) -> "Iterator[tuple[ShownAnswer, npt.NDArray[np.int64]]]":
    """Every question about these frames of a video; and the rows that its answer looked at most."""
    from longva_ray.answer.engine import Question
    from longva_ray.answer.page import ShownAnswer

    settings = GenerationSettings(max_new_tokens=options.max_new_tokens)
    tokens_FQD = video.tokens(rows)
    for text in options.ask:
        content = [{"type": "video"}, {"type": "text", "text": text}]
        question = Question(messages=[{"role": "user", "content": content}], items=[tokens_FQD])
        prompt = engine.read(question)
        answer = engine.answer(prompt, settings)
        attention = engine.attention(question, prompt, answer)
        if attention is None:
            yield ShownAnswer(question=text, answer=answer), rows[:0]
            continue
        share_F = attention[0].sum(1).numpy()
        shown = ShownAnswer(question=text, answer=answer, attention_R=share_F.tolist())
        yield shown, rows[sorted(share_F.argsort()[-LOOKED_AT:])]


def _frames(
    place: str, video: "EncodedVideo", rows: "npt.NDArray[np.int64]"
) -> "dict[int, ShownFrame]":
    """Rows of a video's shards as pictures of its file, by row."""
    from longva_ray.answer.page import ShownFrame

    pictures_FYXC = _pictures(place, video.frame_index_F[rows])
    seconds_F = video.timestamp_s_F[rows].tolist()
    return {
        row: ShownFrame(frame_YXC=frame_YXC, seconds=seconds)
        for row, frame_YXC, seconds in zip(rows.tolist(), pictures_FYXC, seconds_F, strict=True)
    }


def _pictures(place: str, frame_index_F: "npt.NDArray[np.int64]") -> "npt.NDArray[np.uint8]":
    """Frames F Y X C of a file, as they are shown on the page."""
    import numpy as np

    from longva_ray.video.decode import decode_frames

    with local_file(place) as path:
        chunks = decode_frames(
            path, frame_index_F, size=THUMBNAIL, fitting="letterbox", chunk_frames=16
        )
        return np.concatenate([chunk.frames_FYXC for chunk in chunks])
