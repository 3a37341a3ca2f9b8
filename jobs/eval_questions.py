"""A file of questions about videos and images, for one or several models: accuracy by any field.

    ray job submit --working-dir . -- python jobs/eval_questions.py --recipe longva_7b \\
        --models LongVA=lmms-lab/LongVA-7B --file /data/videomme.jsonl --by duration category \\
        --questions.frames 128 --store s3://bucket/shards --out /shared/videomme

A line of the file: {"id": ..., "video": ..., "question": ..., "options": [...], "answer": "B"}, or
"image" in place of "video", and any further fields. Writes questions.json and questions.png to
--out. Start it again to continue where it stopped. With
`--questions.frame-counts 8 16 32 64 128 384` they show accuracy by number of frames."""

from dataclasses import dataclass

from longva_ray.cluster.job import run_job
from longva_ray.evaluate.subjects import named_subjects
from longva_ray.files.places import absolute, local_path
from longva_ray.options import parse
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.questions import QuestionsConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Questions about videos and images in bulk."""

    models: tuple[str, ...] = ()
    """LongVA checkpoints as name=path, or running servers as name=http://..., in the order of the
    table's columns."""
    file: str
    """JSON Lines: id, video or image, question, options (or none), answer. A video is a path, also
    relative to the file, a URI, or the id of an encoded one; an image is a path or a URI."""
    by: tuple[str, ...] = ()
    """Fields of the file by which accuracy is shown."""
    store: str = "outputs/shards"
    """Folder or URI of the embedding shards."""
    out: str = "outputs/questions"
    """Folder for the report, the figure and the ledgers of answered questions."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    encode: EncodeConfig
    questions: QuestionsConfig


def main(options: Options) -> int:
    out = local_path(options.out)
    subjects = named_subjects(options.models, (), options.questions.dtype, servers=True)
    from longva_ray.evaluate.questions.records import read_questions

    records = read_questions(options.file)
    from longva_ray.evaluate.questions.frames import describe_frames
    from longva_ray.evaluate.questions.report import describe_questions
    from longva_ray.evaluate.questions.run import run_questions

    report = run_questions(
        subjects,
        records,
        by=options.by,
        store=absolute(options.store),
        config=options.questions,
        encode=options.encode,
        out=out,
    )
    describe = describe_frames if options.questions.frame_counts else describe_questions
    print(describe(report))
    print(f"report and figure: {out}")
    return 1 if any(model["not_asked"] for model in report["models"]) else 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
