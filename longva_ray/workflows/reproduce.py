"""How longva-tiny is made and tested: every stage of the paper in miniature, in one folder.

    text/ -> shards/ -> runs/{induction,pretrain,extend}            language models (section 3.1)
    niah/                                                           needles in text (Appendix A)
    tower/, images/ -> shards/ -> runs/*-{projector,all}            three aligned models (3.2)
    vniah/                                                          needles in video (Figure 4)

LongVA (AnyRes) goes on from LongVA's first stage of alignment. It differs in how it is shown images
in the second, and therefore in which ones: only images of few cells. The model in the style of
LLaVA-NeXT differs in its language model alone, which was not extended. The RoPE bases are tried on
that one, without training. How stages are trained is not decided here (`tiny.curriculum`,
`tiny.image_sets` and the recipe do).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

from longva_ray.data.images.pipeline import prepare_images
from longva_ray.data.text.pipeline import prepare_text
from longva_ray.evaluate.baselines import (
    LLAVA_NEXT,
    LONGVA,
    LONGVA_ANYRES,
    TRAINING_FREE,
    Baseline,
)
from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.text.report import describe_niah
from longva_ray.evaluate.text.run import run_niah
from longva_ray.evaluate.video.drawn import make_haystack
from longva_ray.evaluate.video.report import average_over_seeds, describe_vniah, draw_vniah
from longva_ray.evaluate.video.run import run_vniah
from longva_ray.files.folder import write_once
from longva_ray.lm.join import assemble_longva
from longva_ray.settings.recipe import Recipe
from longva_ray.settings.training import TrainConfig
from longva_ray.tiny.base_model import write_base
from longva_ray.tiny.corpus import write_corpus
from longva_ray.tiny.curriculum import (
    EXTENDED_TOKENS,
    LESSONS,
    PRETRAINED_TOKENS,
    niah_config,
)
from longva_ray.tiny.essays import write_essays
from longva_ray.tiny.image_sets import (
    CAPTIONS,
    CONVERSATIONS,
    SEEDS,
    SMALL_CONVERSATIONS,
    vniah_config,
)
from longva_ray.tiny.images import SAMPLES_FILE, write_captions, write_conversations
from longva_ray.tiny.tower import (
    TowerTraining,
    accuracy,
    draw_pictures,
    pretrain_tower,
    save_tower,
    tower_config,
)
from longva_ray.train.run.launch import train_to_end
from longva_ray.train.stages.alignment import AlignmentStage
from longva_ray.train.stages.text import TextStage
from longva_ray.vision.encoding import Encoding
from longva_ray.vision.tower_config import grid_and_patch_side

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the models of Figure 4: a language model, and how it was shown images."""

    baseline: Baseline
    run: str
    """What the names of its runs begin with."""
    language_model: str
    encoding: Encoding
    conversations: str
    """Images of the second stage."""
    training_length: int
    first_stage_of: str | None = None
    """Whose run of the first stage it goes on from; None, it has its own."""


CONTENDERS = (
    Contender(
        baseline=LONGVA,
        run="longva",
        language_model="extend",
        encoding="unires",
        conversations="conversations",
        training_length=EXTENDED_TOKENS,
    ),
    Contender(
        baseline=LONGVA_ANYRES,
        run="anyres",
        language_model="extend",
        encoding="anyres",
        conversations="small-conversations",
        training_length=EXTENDED_TOKENS,
        # As in the released code, whose first stage cuts no image into grids. From a fresh
        # projector, patches learn words whose average, which is what a video shows, says nothing.
        first_stage_of="longva",
    ),
    # Last: the RoPE bases are tried on it.
    Contender(
        baseline=LLAVA_NEXT,
        run="shortcontext",
        language_model="pretrain",
        encoding="unires",
        conversations="conversations",
        training_length=PRETRAINED_TOKENS,
    ),
)


ROPE_BASES = (1e5, 1e6)


IMAGES = (
    (CAPTIONS, write_captions, "captions"),
    (CONVERSATIONS, write_conversations, "conversations"),
    (SMALL_CONVERSATIONS, write_conversations, "small-conversations"),
)


class Reproduction:
    """The folder in which everything is made, step by step."""

    def __init__(self, out: Path, recipe: Recipe, seed: int) -> None:
        """
        Args:
            out: absolute; what is there is not made again.
            recipe: how to align and to encode.
            seed: of texts, images, tower and projector.
        """
        self._out = out
        self._recipe = recipe
        self._seed = seed

    def make_all(self) -> None:
        """Every stage in order. Raises ValueError for a stage that does not finish."""
        self._check_settings()
        for plan_number in range(len(LESSONS)):
            self._text_stage(plan_number)
        self._test_text()
        self._images()
        self._tower()
        models = [self._align(contender) for contender in CONTENDERS]
        raised = dataclasses.replace(models[-1], name=TRAINING_FREE.title, try_bases=ROPE_BASES)
        self._test_video([*models, raised])

    def _check_settings(self) -> None:
        """Write down the settings that decide the data, or compare them with those written down."""
        settings = {
            "seed": self._seed,
            "corpora": [dataclasses.asdict(plan.corpus) for plan in LESSONS],
            "images": [dataclasses.asdict(images) for images, _, _ in IMAGES],
            "tower": tower_config().to_diff_dict(),
            "tower_training": dataclasses.asdict(TowerTraining(seed=self._seed)),
        }
        text = json.dumps(settings, indent=2) + "\n"
        file = self._out / "settings.json"
        write_once(file, lambda path: path.write_text(text))
        if file.read_text() != text:
            raise ValueError(
                f"{file} has other settings than these, so the data in {self._out} does not fit; "
                "give another folder, or delete this one"
            )

    def _text_stage(self, number: int) -> None:
        plan, out = LESSONS[number], self._out
        base = out / "base"
        if number == 0:
            write_base(base)
        else:
            base = self._model(LESSONS[number - 1].name)
        texts, shards = out / "text" / f"{plan.name}.jsonl", str(out / "shards" / plan.name)
        write_once(texts, lambda path: write_corpus(plan.corpus, 100 * self._seed + number, path))
        prepare_text([str(texts)], output=shards, checkpoint=str(base), config=plan.text)
        stage = TextStage(plan.training, base=str(base), shards=shards)
        self._train(stage, plan.training, plan.name)

    def _test_text(self) -> None:
        essays = self._out / "essays"
        write_once(essays, lambda path: write_essays(path, 100 * self._seed + 99))
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
        report = run_niah(subjects, niah_config(str(essays)), self._out / "niah")
        logger.info("needles in text:\n%s", describe_niah(report))

    def _images(self) -> None:
        for images, write, name in IMAGES:
            folder = self._out / "images" / name
            if not (folder / SAMPLES_FILE).exists():
                write(images, seed=100 * self._seed + 50, folder=folder)

    def _tower(self) -> None:
        def make(path: Path) -> None:
            config = tower_config()
            tower = pretrain_tower(config, TowerTraining(seed=self._seed))
            size, _ = grid_and_patch_side(config)
            unseen = draw_pictures(2000, size=size, seed=100 * self._seed + 60)
            logger.info("the tower names of 2000 new frames: %s", accuracy(tower, unseen))
            save_tower(tower, config, path)

        write_once(self._out / "tower", make)

    def _align(self, contender: Contender) -> Subject:
        """Both stages of alignment, or the second one."""
        model = self._out / "joined" / contender.run
        shared = contender.first_stage_of
        if not model.exists():
            assemble_longva(
                self._model(contender.language_model),
                self._out / "tower",
                seed=self._seed,
                path=model,
                encoding=contender.encoding,
                projector="align",
                projector_of=self._model(f"{shared}-projector") if shared else None,
            )
        stages = [
            (("captions", contender.conversations), self._recipe.align_projector),
            ((contender.conversations,), self._recipe.align),
        ]
        for data, config in stages[1:] if shared else stages:
            shards = str(self._out / "shards" / "-".join([*data, contender.encoding]))
            samples = [str(self._out / "images" / each / SAMPLES_FILE) for each in data]
            prepare_images(
                samples, output=shards, checkpoint=str(model), config=self._recipe.images
            )
            run = f"{contender.run}-{config.train}"
            self._train(AlignmentStage(config, base=str(model), shards=shards), config, run)
            model = self._model(run)
        return Subject(
            name=contender.baseline.title,
            path=str(model),
            dtype="float32",
            training_length=contender.training_length,
        )

    def _test_video(self, subjects: list[Subject]) -> None:
        out = self._out / "vniah"
        average = average_over_seeds([self._test_seed(subjects, seed) for seed in SEEDS])
        (out / "vniah.json").write_text(json.dumps(average, indent=2) + "\n")
        draw_vniah([average], out / "vniah.png")
        logger.info("needles in video:\n%s", describe_vniah(average))

    def _test_seed(self, subjects: list[Subject], seed: int) -> dict[str, Any]:
        out = self._out / "vniah" / f"seed-{seed}"
        config = vniah_config(seed=seed)
        return run_vniah(
            subjects,
            [make_haystack(config, out)],
            store=str(self._out / "shards" / "videos"),
            config=config,
            encode=self._recipe.encode,
            out=out,
        )

    def _model(self, run: str) -> Path:
        return self._out / "runs" / run / "final"

    def _train(self, stage: TextStage | AlignmentStage, config: TrainConfig, name: str) -> None:
        started = time.perf_counter()
        documents = {"provenance.json": stage.provenance()}
        result = train_to_end(
            stage, config, storage=str(self._out / "runs"), name=name, documents=documents
        )
        seconds = time.perf_counter() - started
        logger.info("%s: %.0f s, weights in %s", name, seconds, result)
