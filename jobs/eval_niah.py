"""The needle test on text, for one or several models, with the training-free baseline.

    ray job submit --working-dir . -- python jobs/eval_niah.py --recipe longva_7b \\
        --models before=Qwen/Qwen2-7B-Instruct after=/checkpoints/qwen2-7b-224k \\
        --niah.rope-bases 3e6 1e7 3e7 1e8 3e8 1e9 --out /shared/niah

Models are folders or hub names of causal language models, GGUF files, or LongVA checkpoints. Writes
niah.json, niah.png and perplexity.png to --out. Start it again to continue where it stopped."""

from dataclasses import dataclass

from longva_ray.cluster.job import run_job
from longva_ray.evaluate.subjects import named_subjects
from longva_ray.files.places import local_path
from longva_ray.options import parse
from longva_ray.settings.needles import NiahConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """The needle-in-a-haystack test on text (appendix A of the paper)."""

    models: tuple[str, ...]
    """Models as name=path, in the order of the figure's panels."""
    out: str = "outputs/niah"
    """Folder for the report, the figures and the ledgers of finished trials."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    training_lengths: tuple[int, ...] = ()
    """Tokens that each model was trained on, for the dotted lines; default: what its
    configuration says."""
    niah: NiahConfig


def main(options: Options) -> int:
    out = local_path(options.out)
    subjects = named_subjects(options.models, options.training_lengths, options.niah.dtype)
    from longva_ray.evaluate.text.report import describe_niah
    from longva_ray.evaluate.text.run import run_niah

    report = run_niah(subjects, options.niah, out)
    print(describe_niah(report))
    print(f"report and figures: {out}")
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
