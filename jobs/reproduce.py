"""Make longva-tiny from nothing and test it: every stage of the paper in miniature, by one command.

    python jobs/reproduce.py --out outputs/reproduce

Text, pretraining, extension and the needle test in text; a vision tower; alignment of three models;
the needle test in video. Goes on where it stopped."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from longva_ray.config import AlignConfig, ImageDataConfig
from longva_ray.evaluate.models import Subject
from longva_ray.evaluate.niah_sweep import describe_niah, run_niah
from longva_ray.evaluate.vniah_sweep import (
    average_over_seeds,
    describe_vniah,
    draw_vniah,
    run_vniah,
)
from longva_ray.lm.checkpoint import assemble_longva
from longva_ray.options import absolute, parse, run_job
from longva_ray.recipes import get_recipe
from longva_ray.tiny.images import SAMPLES_FILE, write_captions, write_conversations
from longva_ray.tiny.text import write_corpus, write_essays
from longva_ray.tiny.text_stages import PRETRAINED_TOKENS, TEXT_STAGES, niah_config, write_base
from longva_ray.tiny.tower import TowerTraining, pretrain_tower, save_tower, tower_config
from longva_ray.tiny.videos import NEEDLES_FILE, write_haystack, write_needles
from longva_ray.tiny.vision_stages import (
    CAPTIONS,
    CONVERSATIONS,
    FRAMES,
    NEEDLES,
    SEEDS,
    vniah_config,
)
from longva_ray.train.launch import train
from longva_ray.train.settings import TrainConfig
from longva_ray.train.text_pipeline import prepare_text
from longva_ray.train.text_stage import TextStage
from longva_ray.train.vision_pipeline import prepare_images
from longva_ray.train.vision_stage import VisionStage
from longva_ray.vision.encoding import Encoding


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make longva-tiny from nothing and test it."""

    out: str = "outputs/reproduce"
    """Folder for data, shards, runs, models and results; what is there is not made again."""
    recipe: str = "tiny"
    seed: int = 0
    """Of the texts, images and the tower."""
    images: ImageDataConfig
    align_projector: AlignConfig
    align: AlignConfig


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the models of Figure 4: a language model, and how it was shown images."""

    name: str
    language_model: str
    encoding: Encoding
    training_length: int


EXTENDED_TOKENS = TEXT_STAGES[-1].sequence_length
CONTENDERS = (
    Contender(
        name="LongVA",
        language_model="extend",
        encoding="unires",
        training_length=EXTENDED_TOKENS,
    ),
    Contender(
        name="LongVA (AnyRes)",
        language_model="extend",
        encoding="anyres",
        training_length=EXTENDED_TOKENS,
    ),
    # Last: the RoPE bases are tried on it.
    Contender(
        name="short context",
        language_model="pretrain",
        encoding="unires",
        training_length=PRETRAINED_TOKENS,
    ),
)
ROPE_BASES = (3e4, 1e5, 3e5, 1e6)


class Workshop:
    """The folder in which everything is made, step by step."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._out = Path(absolute(options.out))

    def make_all(self) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        for plan_number in range(len(TEXT_STAGES)):
            self._text_stage(plan_number)
        self._test_text()
        self._images()
        self._tower()
        models = [self._align(contender) for contender in CONTENDERS]
        self._test_video(models)

    def _text_stage(self, number: int) -> None:
        plan, out = TEXT_STAGES[number], self._out
        base = out / "base"
        if number == 0:
            write_base(base)
        else:
            base = self._model(TEXT_STAGES[number - 1].name)
        texts, shards = out / "text" / f"{plan.name}.jsonl", str(out / "shards" / plan.name)
        if not texts.exists():
            texts.parent.mkdir(exist_ok=True)
            write_corpus(plan.corpus, 100 * self._options.seed + number, texts)
        prepare_text([str(texts)], output=shards, checkpoint=str(base), config=plan.text)
        stage = TextStage(plan.training, base=str(base), shards=shards)
        self._train(stage, plan.training, plan.name)

    def _test_text(self) -> None:
        essays = self._out / "essays"
        if not essays.exists():
            write_essays(essays, 100 * self._options.seed + 99, num_essays=4, num_sentences=200)
        subjects = [
            Subject(
                name=name,
                path=str(self._model(run)),
                dtype="float32",
                training_length=length,
            )
            for name, run, length in (
                ("before", "pretrain", PRETRAINED_TOKENS),
                ("after", "extend", EXTENDED_TOKENS),
            )
        ]
        print(describe_niah(run_niah(subjects, niah_config(essays), self._out / "niah")))

    def _images(self) -> None:
        for images, write, name in (
            (CAPTIONS, write_captions, "captions"),
            (CONVERSATIONS, write_conversations, "conversations"),
        ):
            folder = self._out / "images" / name
            if not (folder / SAMPLES_FILE).exists():
                write(images, seed=100 * self._options.seed + 50, folder=folder)

    def _tower(self) -> None:
        if not (self._out / "tower").exists():
            tower = pretrain_tower(tower_config(), TowerTraining(seed=self._options.seed))
            save_tower(tower, tower_config(), self._out / "tower")

    def _align(self, contender: Contender) -> Subject:
        """Both stages of alignment."""
        name = "".join(letter for letter in contender.name.lower() if letter.isalpha())
        model = self._out / "joined" / name
        if not model.exists():
            assemble_longva(
                self._model(contender.language_model),
                self._out / "tower",
                seed=self._options.seed,
                path=model,
                encoding=contender.encoding,
            )
        for images, config in (
            ("captions", self._options.align_projector),
            ("conversations", self._options.align),
        ):
            shards = str(self._out / "shards" / f"{images}-{contender.encoding}")
            samples = str(self._out / "images" / images / SAMPLES_FILE)
            prepare_images(
                [samples], output=shards, checkpoint=str(model), config=self._options.images
            )
            run = f"{name}-{config.train}"
            self._train(VisionStage(config, base=str(model), shards=shards), config, run)
            model = self._model(run)
        return Subject(
            name=contender.name,
            path=str(model),
            dtype="float32",
            training_length=contender.training_length,
        )

    def _test_video(self, subjects: list[Subject]) -> None:
        reports = []
        for seed in SEEDS:
            out = self._out / "vniah" / f"seed-{seed}"
            video, needles = out / "haystack.mp4", out / "needles"
            if not video.exists():
                out.mkdir(parents=True, exist_ok=True)
                write_needles(needles, count=NEEDLES, seed=1000 + seed)
                write_haystack(video, seconds=max(FRAMES), seed=2000 + seed)
            reports.append(
                run_vniah(
                    subjects,
                    [str(video)],
                    store=str(self._out / "shards" / "videos"),
                    config=vniah_config(str(needles / NEEDLES_FILE), rope_bases=ROPE_BASES),
                    encode=get_recipe(self._options.recipe).encode,
                    out=out,
                )
            )
        average = average_over_seeds(reports)
        out = self._out / "vniah"
        (out / "vniah.json").write_text(json.dumps(average, indent=2) + "\n")
        draw_vniah([average], out / "vniah.png")
        print(describe_vniah(average))

    def _model(self, run: str) -> Path:
        return self._out / "runs" / run / "final"

    def _train(self, stage: TextStage | VisionStage, config: TrainConfig, name: str) -> None:
        started = time.perf_counter()
        documents = {"provenance.json": stage.provenance()}
        outcome = train(
            stage, config, storage=str(self._out / "runs"), name=name, documents=documents
        )
        if outcome.status != "finished":
            raise ValueError(
                f"{name}: {outcome.status} after step {outcome.step}. {outcome.message}"
            )
        print(f"{name}: {time.perf_counter() - started:.0f} s, weights in {self._model(name)}")


def main() -> int:
    options = parse(Options)
    ray.init(ignore_reinit_error=True)
    started = time.perf_counter()
    Workshop(options).make_all()
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes; everything is in {options.out}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    run_job(main)
