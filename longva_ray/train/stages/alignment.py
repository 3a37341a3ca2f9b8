"""Vision alignment as a stage: packed rows of conversations -> loss over the answers.

    row (T,) + grids -> this rank's zigzag share (L,) of ids, and the grids it shows
    grids -> frame encoder -> the tokens that are shown, spliced into embeddings -> loss

Each rank of a ring encodes what its share shows (`visual_share`).

What it does not do: cut images (`data.images.samples` did), read ahead.
Shapes: T tokens of a row, L tokens on this rank, S visual tokens in this share, 2 the grid of one
and its number there, D width.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from longva_ray.data.images.shards import VisionRow, VisionShards, unlabelled
from longva_ray.lm.base_models import load_tokenizer
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.prompt import add_placeholders
from longva_ray.lm.splice import embed_text, fill, placeholder_mask
from longva_ray.lm.weights import check_readable, checkpoint_folder
from longva_ray.ring.attention import Ring
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.settings.training import AlignConfig
from longva_ray.train.order import batches_in_order
from longva_ray.train.speed import training_flops
from longva_ray.train.stage import MicroBatch
from longva_ray.train.stages.answer_tally import AnswerTally
from longva_ray.train.stages.language import LanguageLoss, ring_hidden
from longva_ray.train.stages.longva import LongVAStage
from longva_ray.train.stages.visual_share import VisualShare, encoder_runs

logger = logging.getLogger(__name__)


class AlignmentLoss(LanguageLoss):
    """LongVA and the loss over its answers."""

    model: LongVAForConditionalGeneration

    def __init__(
        self,
        model: LongVAForConditionalGeneration,
        group: dist.ProcessGroup | None,
        *,
        recompute: bool,
    ) -> None:
        """`recompute`: keep the tower's pixels instead of its activations."""
        super().__init__(model, group)
        self._recompute = recompute

    def forward(
        self,
        input_ids_BL: torch.Tensor,
        labels_BL: torch.Tensor,
        visual: VisualShare,
        ring: Ring,
        denominator: int,
        *,
        judge: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The loss, with `judge` also which tokens are right (`lm.loss.OutputLoss`)."""
        language_model = self.model.language_model
        tokens_SD = visual.encode(self.model.frame_encoder, recompute=self._recompute)
        mask_BL = placeholder_mask(input_ids_BL, self.model.config.placeholder_ids)
        embeds_BLD = embed_text(input_ids_BL, language_model.get_input_embeddings(), mask_BL)
        # Without a visual token too: what every rank runs forward it must also run backward.
        embeds_BLD = fill(embeds_BLD, mask_BL, [tokens_SD])
        hidden_BLD = ring_hidden(language_model, ring, inputs_embeds=embeds_BLD)
        return self.output(hidden_BLD, labels_BL, denominator, judge=judge)


class AlignmentStage(LongVAStage[AlignConfig, VisionShards]):
    """Alignment of a LongVA checkpoint on vision shards.

    Raises ValueError for shards that do not fit the model.
    """

    def __init__(self, config: AlignConfig, *, base: str, shards: str) -> None:
        super().__init__(config, base=base, shards=VisionShards(shards))

    def check_inputs(self) -> None:
        config = load_longva_config(self.base)
        check_readable(checkpoint_folder(self.base))
        tokenizer = load_tokenizer(self.base)
        add_placeholders(tokenizer)
        self.shards.check_model(config.grids, tokenizer)
        self.log_passes()

    def choose_trained(self, model: LongVAForConditionalGeneration) -> None:
        everything = self.config.train == "all"
        learns = everything and self.config.vision_learning_rate != 0
        model.requires_grad_(everything)
        model.frame_encoder.projector.requires_grad_(True)
        model.frame_encoder.tower.requires_grad_(learns)

    def loss_module(
        self, model: LongVAForConditionalGeneration, group: dist.ProcessGroup | None
    ) -> AlignmentLoss:
        # A frozen tower keeps no activations, so there is nothing to save by running it twice.
        recompute = self.config.checkpoint_activations and self.trains_tower()
        return AlignmentLoss(model, group, recompute=recompute)

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"train": self.config.train}

    def micro_batches(self, step: int) -> list[MicroBatch]:
        mesh = self.mesh()
        rows = [self.rows(step, data_rank) for data_rank in range(mesh.data_size)]
        runs = [self._encoder_runs(self.shards, abreast) for abreast in zip(*rows, strict=True)]
        return [
            self._micro_batch(self.shards[row], num_runs)
            for row, num_runs in zip(rows[mesh.data_rank], runs, strict=True)
        ]

    def validate(self, run: Callable[..., Any]) -> dict[str, float]:
        """`loss` of the held-out answers, and how many of them the model would give
        (`answer_tally`)."""
        mesh, shards = self.mesh(), self.held_out()
        tally = AnswerTally(mesh, self.device)
        rings = [
            batches_in_order(
                len(shards), rows_per_batch=1, data_rank=data_rank, data_size=mesh.data_size
            )
            for data_rank in range(mesh.data_size)
        ]
        for abreast in zip(*rings, strict=True):
            rows = [number for (number,) in abreast if number is not None]
            (mine,) = abreast[mesh.data_rank]
            row = unlabelled(shards[rows[0]]) if mine is None else shards[mine]
            batch = self._micro_batch(row, self._encoder_runs(shards, rows))
            loss, right_BL = run(**batch.inputs, denominator=1, judge=True)
            layout = batch.inputs["ring"].layout
            tally.add(float(loss), right_BL, torch.tensor(row.is_label_T), layout)
        return tally.measures()

    def _encoder_runs(self, shards: VisionShards, rows: Sequence[int]) -> int:
        data = shards.metadata
        return encoder_runs(
            [(data.row_tokens[row], data.row_grids[row]) for row in rows],
            data.grids,
            ring_size=self.mesh().ring_size,
            grids_per_forward=self.config.grids_per_forward,
        )

    def _micro_batch(self, row: VisionRow, num_runs: int) -> MicroBatch:
        """This rank's share of a row."""
        lengths, ring_size = row.document_lengths, self.mesh().ring_size
        layout = ZigzagLayout(document_lengths=lengths, world_size=ring_size)
        ids_BT = torch.from_numpy(row.input_ids_T.astype(np.int64))[None]
        return self.micro_batch(
            ids_BT,
            torch.from_numpy(np.array(row.is_label_T))[None],
            layout,
            num_tokens=ids_BT.shape[1],
            flops=self._flops(row),
            visual=self._visual_share(row, ids_BT, layout, num_runs),
        )

    def _visual_share(
        self, row: VisionRow, ids_BT: torch.Tensor, layout: ZigzagLayout, num_runs: int
    ) -> VisualShare:
        """The grids that this rank's tokens come from, in `num_runs` batches, and which token of
        them stands at each of its placeholders."""
        mask_T = placeholder_mask(ids_BT, self.model().config.placeholder_ids)[0]
        assert int(mask_T.sum()) == len(row.source_S2), "shards hold what they show"
        number_T = torch.where(mask_T, mask_T.cumsum(0) - 1, -1)
        number_L = layout.split(number_T, self.mesh().ring_rank, dim=0, pad_value=-1)
        source_S2 = torch.tensor(row.source_S2)[number_L[number_L >= 0]]
        return VisualShare.of(row.grids_GYXC, source_S2, num_runs, self.device)

    def _flops(self, row: VisionRow) -> float:
        """Model FLOPs of a row: two for each weight and token forward, two more for each gradient
        that is computed, of activations and of weights."""
        language = training_flops(self.language_model().config, row.document_lengths)
        if self.config.train == "projector":
            language *= 2 / 3  # no gradients of weights
        return language + self.tower_flops(len(row.grids_GYXC))
