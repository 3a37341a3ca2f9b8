"""Preference tuning as a stage: a question and two answers -> the loss of the pair (section 5.2).

    prompt + chosen | prompt + rejected    one row of two documents, on the ring like any other
    their answers' log-probabilities (A,), and the reference's from the shards -> loss

The two documents do not see each other, so the language model computes the prompt twice. Sharing it
would need a mask in which the second answer sees the first one's prompt and not its answer, and
rings compute plain causal documents only. What is shared is what costs more to make: visual tokens
come from the embedding store, encoded once for both answers, for the reference and every epoch. A
rank reads the frames that its share shows, each once. Where tower or projector learn too, it
encodes their pixels instead (`visual_share`).

Shapes: T tokens of a row, L tokens on this rank, A answers, S visual tokens in this share, 2 the
grid of one and its number there, D width.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from longva_ray.data.preferences.fit import check_reference, check_store
from longva_ray.data.preferences.seen import MediaTokens
from longva_ray.data.preferences.shards import (
    PreferenceRow,
    PreferenceShardError,
    PreferenceShards,
)
from longva_ray.lm.language_model import load_language_model
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.rope import assert_rope
from longva_ray.lm.splice import placeholder_mask
from longva_ray.lm.weights import check_readable, checkpoint_folder
from longva_ray.ring.hf import NAME
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.settings.training import PreferConfig
from longva_ray.train.order import batches_in_order
from longva_ray.train.speed import training_flops
from longva_ray.train.stage import DTYPES, MicroBatch
from longva_ray.train.stages.longva import LongVAStage
from longva_ray.train.stages.preference_loss import PairFacts, PreferenceLoss
from longva_ray.train.stages.visual_share import VisualShare, encoder_runs


class PreferenceStage(LongVAStage[PreferConfig, PreferenceShards]):
    """Preference tuning of a LongVA checkpoint.

    Raises ValueError for shards that do not fit the model or the settings.
    """

    def __init__(
        self, config: PreferConfig, *, base: str, shards: str, store: str | None = None
    ) -> None:
        """`store`: where the encoded videos are, if no longer where they were."""
        super().__init__(config, base=base, shards=PreferenceShards(shards))
        self._store = store or self.shards.metadata.store
        self._module: PreferenceLoss | None = None

    def check_inputs(self) -> None:
        check_readable(checkpoint_folder(self.base))
        settings = self.config
        check_reference(self.shards, self.base, settings.reference)
        if settings.train == "all" and not self.shards.metadata.row_grids:
            raise PreferenceShardError(
                f"{self.shards.place} holds no pixels, which --prefer.train all encodes anew; "
                "prepare the preferences again with --preferences.pixels"
            )
        if self._reads_store:
            check_store(self._tokens, self.shards)
        self.log_passes()

    @property
    def _reads_store(self) -> bool:
        return self.config.train == "language" or self.config.reference == "live"

    def choose_trained(self, model: LongVAForConditionalGeneration) -> None:
        model.requires_grad_(True)
        model.frame_encoder.projector.requires_grad_(self.config.train == "all")
        model.frame_encoder.tower.requires_grad_(self.config.trains_tower)

    def loss_module(
        self, model: LongVAForConditionalGeneration, group: dist.ProcessGroup | None
    ) -> PreferenceLoss:
        reference = None
        if self.config.reference == "live":
            loaded = load_language_model(
                self.base, dtype=DTYPES[self.config.dtype], attn_implementation=NAME
            )
            reference = loaded.model.requires_grad_(False)
            self.slim(reference)
        self._module = PreferenceLoss(
            model,
            group,
            self.config,
            reference=reference,
            recompute=self.config.checkpoint_activations and self.config.trains_tower,
        )
        return self._module

    def check(self) -> None:
        super().check()
        if self._module is not None and self._module.reference is not None:
            assert_rope(self._module.reference, self._module.reference.config)

    def measured(self) -> dict[str, float]:
        told = self._losses().take()
        del told["loss"]  # the step's own
        return told

    def _losses(self) -> PreferenceLoss:
        assert self._module is not None, "build comes first"
        return self._module

    def identity(self) -> dict[str, Any]:
        settings = self.config
        # Not there with `language`, the only one there was: such runs go on.
        trained = {} if settings.train == "language" else {"train": settings.train}
        return super().identity() | {
            "loss": settings.loss,
            "beta": settings.beta,
            "sft_weight": settings.sft_weight,
            **trained,
        }

    def micro_batches(self, step: int) -> list[MicroBatch]:
        mesh = self.mesh()
        rings = [self.rows(step, data_rank) for data_rank in range(mesh.data_size)]
        return [
            self._micro_batch(self.shards, rows, rows[mesh.data_rank])
            for rows in zip(*rings, strict=True)
        ]

    def validate(self, run: Callable[..., Any]) -> dict[str, float]:
        """Means over the held-out pairs, of the loss and of what `measured` has."""
        shards, mesh = self.held_out(), self.mesh()
        rings = [
            batches_in_order(
                len(shards), rows_per_batch=1, data_rank=data_rank, data_size=mesh.data_size
            )
            for data_rank in range(mesh.data_size)
        ]
        for abreast in zip(*rings, strict=True):
            rows = [row for (row,) in abreast]
            batch = self._micro_batch(shards, rows, rows[mesh.data_rank])
            run(**batch.inputs, denominator=1)
        return self._losses().take()

    def _micro_batch(
        self, shards: PreferenceShards, rows: Sequence[int | None], mine: int | None
    ) -> MicroBatch:
        """This rank's share of a pair.

        Args:
            rows: what all rings read side by side.
            mine: what this one reads; None, a pair that does not count.
        """
        row, mesh = shards[mine or 0], self.mesh()
        lengths = row.document_lengths
        layout = ZigzagLayout(document_lengths=lengths, world_size=mesh.ring_size)
        ids_BT = torch.from_numpy(row.input_ids_T.astype(np.int64))[None]
        answer_BT = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
        answer_BL = layout.split(answer_BT, mesh.ring_rank, dim=1, pad_value=0)
        number_S = self._visual_numbers(row, ids_BT, layout)
        batch = self.micro_batch(
            ids_BT,
            _is_answer(row)[None],
            layout,
            num_tokens=ids_BT.shape[1],
            flops=self._flops(row),
            answer_BL=answer_BL.to(self.device),
            stored_SD=self._stored(row, number_S),
            visual=self._visual_share(shards, [each or 0 for each in rows], row, number_S),
            pair=self._facts(row, counts=mine is not None),
        )
        return dataclasses.replace(batch, num_labels=int(mesh.ring_rank == 0))

    def _facts(self, row: PreferenceRow, *, counts: bool) -> PairFacts:
        reference_A = None
        if self.config.reference == "stored":
            reference_A = torch.tensor(row.reference, dtype=torch.float64, device=self.device)
        tokens_A = torch.tensor(row.answer_lengths, device=self.device)
        return PairFacts(reference_A=reference_A, tokens_A=tokens_A, counts=counts)

    def _visual_numbers(
        self, row: PreferenceRow, ids_BT: torch.Tensor, layout: ZigzagLayout
    ) -> torch.Tensor:
        """Of each of this rank's placeholders, in order, its number in its document: (S,)."""
        mask_T = placeholder_mask(ids_BT, self.model().config.placeholder_ids)[0]
        numbers = [
            torch.where(mask, mask.cumsum(0) - 1, -1) for mask in mask_T.split(row.document_lengths)
        ]
        number_L = layout.split(torch.cat(numbers), self.mesh().ring_rank, dim=0, pad_value=-1)
        return number_L[number_L >= 0]

    def _stored(self, row: PreferenceRow, number_S: torch.Tensor) -> torch.Tensor | None:
        """The store's visual tokens of these numbers, (S, D), on the CPU: all pairs of a step are
        read before the first is computed."""
        if not self._reads_store:
            return None
        return self._tokens.take(row.medium, row.frames_F, number_S)

    def _visual_share(
        self,
        shards: PreferenceShards,
        rows: Sequence[int],
        row: PreferenceRow,
        number_S: torch.Tensor,
    ) -> VisualShare | None:
        """The pixels of this rank's visual tokens, encoded as often as any ring that reads one of
        `rows` has to."""
        if self.config.train == "language":
            return None
        assert row.cut is not None, "check_inputs wants pixels"
        data = shards.metadata
        num_runs = encoder_runs(
            [(data.row_tokens[each], data.row_grids[each]) for each in rows],
            self.model().config.grids,
            ring_size=self.mesh().ring_size,
            grids_per_forward=self.config.grids_per_forward,
        )
        source_S2 = torch.tensor(row.cut.source_S2)[number_S]
        return VisualShare.of(row.cut.grids_GYXC, source_S2, num_runs, self.device)

    def _flops(self, row: PreferenceRow) -> float:
        """Model FLOPs of a pair: a live reference adds a forward pass, a third of a step."""
        flops = training_flops(self.language_model().config, row.document_lengths)
        if self.config.reference == "live":
            flops *= 4 / 3
        if self.config.train == "all" and row.cut is not None:
            flops += self.tower_flops(len(row.cut.grids_GYXC))
        return flops

    @functools.cached_property
    def _tokens(self) -> MediaTokens:
        data = self.shards.metadata
        return MediaTokens(self._store, data.spec, load_longva_config(self.base).grids)


def _is_answer(row: PreferenceRow) -> torch.Tensor:
    """True at the last tokens of each document, which are its answer: (T,)."""
    lengths = zip(row.document_lengths, row.answer_lengths, strict=True)
    places = [torch.arange(length) >= length - answer for length, answer in lengths]
    return torch.cat(places)
