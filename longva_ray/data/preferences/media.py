"""What pairs are about -> the embedding store.

    video files, images   -> the graphs that encode them for every other use
    folders of frames     -> actors that hold the encoder (`frame_folders`)

What is in the store already is not encoded again.
"""

import functools
import logging
from collections.abc import Collection, Iterator

from longva_ray.cluster.tasks import run_tasks
from longva_ray.data.images.chat import Item
from longva_ray.data.preferences.frame_folders import EncodeFolder
from longva_ray.data.preferences.seen import Medium, Seen
from longva_ray.data.preferences.shards import PreferenceShardError
from longva_ray.files.videos import list_folder
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.image_pipeline import encode_images
from longva_ray.shards.pipeline import WORKER_MEMORY, describe_on_worker, encode_videos
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore

logger = logging.getLogger(__name__)


def encode_media(
    items: Collection[Item], store: str, checkpoint: str, config: EncodeConfig
) -> Seen:
    """Every item in the store, or why it is not.

    Raises ValueError for no items, or a cluster that is too small.
    """
    if not items:
        raise PreferenceShardError(
            "no pair can be used; want id, video or image, prompt, chosen and rejected"
        )
    images, videos, folders = [], [], []
    for item in sorted(items, key=lambda item: (item.kind, item.place)):
        if item.kind == "image":
            images.append(item.place)
        elif list_folder(item.place) is None:
            videos.append(item.place)
        else:
            folders.append(item.place)
    media: dict[Item, Medium] = {}
    errors: dict[Item, str] = {}

    def note(item: Item, medium: Medium, error: str) -> None:
        if error:
            logger.warning("cannot encode %s: %s", item.place, error)
            errors[item] = error
        else:
            media[item] = medium

    if videos:
        report = encode_videos(
            videos, store=ShardStore(store), checkpoint=checkpoint, config=config
        )
        spec = report.spec
        for video in report.videos:
            item = Item(kind="video", place=video.path)
            note(item, Medium("video", video.video_id), video.error)
    else:
        spec = describe_on_worker(checkpoint, config)
    for place, video_id, error in _encode_folders(folders, store, checkpoint, config, spec):
        note(Item(kind="video", place=place), Medium("frames", video_id), error)
    for image in encode_images(images, store=store, checkpoint=checkpoint, config=config):
        item = Item(kind="image", place=image.path)
        note(item, Medium("image", image.image_id), image.error)
    return Seen(store=store, spec=spec, media=media, errors=errors)


def _encode_folders(
    folders: list[str], store: str, checkpoint: str, config: EncodeConfig, spec: EncodingSpec
) -> Iterator[tuple[str, str, str]]:
    """Place, id and error of each."""
    done = run_tasks(
        functools.partial(EncodeFolder, checkpoint, config, store, spec),
        list(enumerate(folders)),
        cpus=config.encoder_cpus,
        memory=WORKER_MEMORY,
        most=config.max_encoders,
        gpus=config.encoder_gpus,
    )
    return (found for _, found in done)
