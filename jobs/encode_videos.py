"""Encode videos into embedding shards.

    ray job submit --working-dir . -- python jobs/encode_videos.py --videos /data/videos --store s3://bucket/shards

Writes the shards to --store and prints a line for each video. Start it again to continue where it
stopped: a video that is already there costs one look at the store. Exit status 1 if any failed."""

import json
from dataclasses import asdict, dataclass

from longva_ray.cluster.job import run_job
from longva_ray.files.places import absolute, local_path
from longva_ray.files.videos import check_any_is_there, find_videos
from longva_ray.options import find_checkpoint, parse
from longva_ray.settings.encoding import EncodeConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Encode videos into embedding shards."""

    videos: tuple[str, ...]
    """Video files, and folders of them."""
    store: str = "outputs/shards"
    """URI of the shards, or a folder on a disk that all nodes share."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from: tiny or longva_7b."""
    model: str | None = None
    """Checkpoint instead of the recipe's: a folder or a Hugging Face id."""
    report: str | None = None
    """Local file for the full report as JSON."""
    encode: EncodeConfig


def main(options: Options) -> int:
    videos = find_videos(options.videos)
    check_any_is_there(videos)
    checkpoint = find_checkpoint(options.model, options.recipe)
    store_place = absolute(options.store)
    report_file = local_path(options.report) if options.report else None
    if report_file:
        report_file.parent.mkdir(parents=True, exist_ok=True)
    from longva_ray.shards.pipeline import encode_videos
    from longva_ray.shards.store import ShardStore

    store = ShardStore(store_place)
    report = encode_videos(videos, store=store, checkpoint=checkpoint, config=options.encode)
    for video in report.videos:
        outcome = f"FAILED: {video.error}" if video.error else f"{video.num_frames} frames"
        print(f"{video.video_id or '-':32}  {video.path}  {outcome}")
    print(
        f"{len(report.videos) - len(report.failed)} of {len(report.videos)} videos are in "
        f"{store.root}; encoded {report.frames_encoded} frames in {report.wall_s:.1f} s "
        f"({report.frames_encoded / report.wall_s:.1f} frames/s)"
    )
    if report_file:
        report_file.write_text(json.dumps(asdict(report), indent=2) + "\n")
    return 1 if report.failed else 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
