"""The needle test on video, for one or several models: Figure 4 of the paper.

    ray job submit --working-dir . -- python jobs/eval_vniah.py --recipe longva_7b \\
        --models LongVA=lmms-lab/LongVA-7B --videos /data/film.mp4 \\
        --vniah.needles /data/v_niah_needles --store s3://bucket/shards --out /shared/vniah

Without --videos a haystack is drawn, and without --vniah.needles these are, too; the recipe says in
which world (--vniah.world). Every needle is first asked about alone. Writes vniah.json and
vniah.png to --out. Start it again to continue where it stopped. `--combine a/vniah.json
b/vniah.json` runs nothing and draws the models of earlier reports in one figure."""

import json
from dataclasses import dataclass
from pathlib import Path

from longva_ray.cluster.job import run_job
from longva_ray.evaluate.subjects import named_subjects
from longva_ray.files.places import absolute, check_there, local_path
from longva_ray.files.videos import find_videos
from longva_ray.options import parse
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.needles import VniahConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """The visual needle-in-a-haystack test (section 4 of the paper)."""

    models: tuple[str, ...] = ()
    """LongVA checkpoints as name=path, in the order of the figure's panels."""
    videos: tuple[str, ...] = ()
    """Videos that make up the haystack, one after another. None: one is drawn from the seed."""
    store: str = "outputs/shards"
    """Folder or URI of the embedding shards."""
    out: str = "outputs/vniah"
    """Folder for the report, the figure and the ledgers of finished trials."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    combine: tuple[str, ...] = ()
    """Reports (vniah.json) whose models are drawn in one figure; nothing is run."""
    training_lengths: tuple[int, ...] = ()
    """Tokens that each language model was trained on, for the dotted lines; default: what its
    configuration says."""
    encode: EncodeConfig
    vniah: VniahConfig


def main(options: Options) -> int:
    out = local_path(options.out)
    if options.combine:
        from longva_ray.evaluate.video.report import draw_vniah

        out.mkdir(parents=True, exist_ok=True)
        reports = [json.loads(Path(path).read_text()) for path in options.combine]
        draw_vniah(reports, out / "vniah.png")
        print(f"figure: {out / 'vniah.png'}")
        return 0
    subjects = named_subjects(options.models, options.training_lengths, options.vniah.dtype)
    videos = find_videos(options.videos)
    check_there(videos)
    from longva_ray.evaluate.video.drawn import make_haystack
    from longva_ray.evaluate.video.report import describe_vniah
    from longva_ray.evaluate.video.run import check_sight, run_vniah

    check_sight(subjects)  # before minutes of video are drawn
    report = run_vniah(
        subjects,
        videos or [make_haystack(options.vniah, out)],
        store=absolute(options.store),
        config=options.vniah,
        encode=options.encode,
        out=out,
    )
    print(describe_vniah(report))
    print(f"report and figure: {out}")
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
