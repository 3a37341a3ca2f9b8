"""Preference tuning as a stage: a question and two answers -> the loss of the pair (section 5.2).

    prompt + chosen | prompt + rejected    one row of two documents, on the ring like any other
    their answers' log-probabilities (A,), and the reference's from the shards -> loss

The two documents do not see each other, so the language model computes the prompt twice. Sharing it
would need a mask in which the second answer sees the first one's prompt and not its answer, and
rings compute plain causal documents only. What is shared is what costs more to make: visual tokens
come from the embedding store, encoded once for both answers, for the reference and every epoch. So
the frame encoder is frozen. A rank reads the frames that its share shows, each once.

The loss is no sum over tokens. So the ranks of a ring first add up each answer's log-probability.
The loss's slope at the sum is then what each rank's part is weighted by: log-probabilities add up,
so this is the gradient, exactly.

What it does not do: hold the reference model (`data.preferences` asked it), or train on frames.
Shapes: T tokens of a row, L tokens on this rank, A answers, S visual tokens in this share, D
width.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from longva_ray.data.preferences.seen import MediaTokens
from longva_ray.data.preferences.shards import (
    PreferenceRow,
    PreferenceShardError,
    PreferenceShards,
)
from longva_ray.lm.fingerprints import fingerprint_checkpoint
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.loss import with_value
from longva_ray.lm.preference import AnswerLogprobs, pair_loss
from longva_ray.lm.splice import embed_text, fill, placeholder_mask
from longva_ray.lm.weights import check_readable, checkpoint_folder
from longva_ray.ring.attention import Ring
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.settings.training import PreferConfig
from longva_ray.shards.schema import ShardError
from longva_ray.train.order import batches_in_order
from longva_ray.train.speed import training_flops
from longva_ray.train.stage import MicroBatch
from longva_ray.train.stages.language import ring_hidden
from longva_ray.train.stages.longva import LongVAStage

_MEASURES = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairFacts:
    """What a pair's loss needs beside its tokens."""

    reference_A: torch.Tensor
    """Log-probabilities before training, float64."""
    tokens_A: torch.Tensor
    counts: bool
    """False for a pair that only keeps this ring busy while others measure one more."""


class PreferenceLoss(torch.nn.Module):
    """LongVA and the loss over pairs of answers."""

    def __init__(
        self,
        model: LongVAForConditionalGeneration,
        group: dist.ProcessGroup | None,
        config: PreferConfig,
    ) -> None:
        """`group`: all ranks, over which losses are added."""
        super().__init__()
        self.model = model
        self.output = AnswerLogprobs(model.get_output_embeddings())
        self._group = group
        self._config = config
        self._sums = torch.zeros(1 + len(_MEASURES), dtype=torch.float64)

    def forward(
        self,
        input_ids_BL: torch.Tensor,
        labels_BL: torch.Tensor,
        answer_BL: torch.Tensor,
        visual_SD: torch.Tensor,
        pair: PairFacts,
        ring: Ring,
        denominator: int,
    ) -> torch.Tensor:
        language_model = self.model.language_model
        mask_BL = placeholder_mask(input_ids_BL, self.model.config.placeholder_ids)
        embeds_BLD = embed_text(input_ids_BL, language_model.get_input_embeddings(), mask_BL)
        embeds_BLD = fill(embeds_BLD, mask_BL, [visual_SD])
        hidden_BLD = ring_hidden(language_model, ring, inputs_embeds=embeds_BLD)
        part_A = self.output(hidden_BLD, labels_BL, answer_BL)
        loss, slope_A = self._loss(part_A.detach().double(), pair, ring)
        ranks = 1 if self._group is None else dist.get_world_size(self._group)
        share = (part_A * slope_A.to(part_A)).sum() * (ranks / denominator)
        return with_value(share, (loss / denominator).to(share.dtype))

    def _loss(
        self, part_A: torch.Tensor, pair: PairFacts, ring: Ring
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of all rings' pairs added up, and the slope of this one's at the
        log-probability of each of its answers."""
        if ring.group is not None:
            dist.all_reduce(part_A, group=ring.group)
        with torch.enable_grad():
            policy_A = part_A.requires_grad_()
            settings = self._config
            found = pair_loss(
                policy_A,
                pair.reference_A,
                pair.tokens_A,
                kind=settings.loss,
                beta=settings.beta,
                sft_weight=settings.sft_weight,
            )
            (slope_A,) = torch.autograd.grad(found.loss, policy_A)
        margin, right = found.margin.detach(), (found.margin > 0).double()
        told = [found.loss.detach(), right, margin, *found.rewards_A.detach()]
        # One rank speaks for its ring.
        speaks = float(pair.counts and ring.rank == 0)
        sums = torch.stack([torch.ones_like(margin), *told]) * speaks
        if self._group is not None:
            dist.all_reduce(sums, group=self._group)
        self._sums = self._sums.to(sums) + sums
        return sums[1], slope_A

    def take(self) -> dict[str, float]:
        """Means over all pairs since the last call."""
        count, *sums = self._sums.tolist()
        self._sums.zero_()
        assert count > 0, "a forward pass comes first"
        return dict(zip(_MEASURES, (value / count for value in sums), strict=True))


class PreferenceStage(LongVAStage[PreferConfig, PreferenceShards]):
    """Preference tuning of the language model of a LongVA checkpoint.

    Raises ValueError for shards whose log-probabilities are those of another model.
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
        if fingerprint_checkpoint(self.base) != self.shards.metadata.reference:
            raise PreferenceShardError(
                f"the log-probabilities in {self.shards.place} are not those of {self.base}, which "
                "training would start from; train the model that prepared them, or prepare the "
                "preferences again with this one"
            )
        first = self.shards[0]
        try:
            self._tokens.take(first.medium, first.frames_F, torch.zeros(1, dtype=torch.int64))
        except (KeyError, ShardError) as error:
            raise PreferenceShardError(
                f"{error.args[0]}; say where the videos of these pairs are encoded (--store), or "
                "prepare the preferences again"
            ) from error
        self.log_passes()

    def choose_trained(self, model: LongVAForConditionalGeneration) -> None:
        model.requires_grad_(True)
        model.frame_encoder.requires_grad_(False)

    def loss_module(
        self, model: LongVAForConditionalGeneration, group: dist.ProcessGroup | None
    ) -> PreferenceLoss:
        self._module = PreferenceLoss(model, group, self.config)
        return self._module

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.language_model().parameters()), "lr_factor": 1.0}]

    def measured(self) -> dict[str, float]:
        told = self._losses().take()
        del told["loss"]  # the step's own
        return told

    def _losses(self) -> PreferenceLoss:
        assert self._module is not None, "build comes first"
        return self._module

    def identity(self) -> dict[str, Any]:
        settings = self.config
        return super().identity() | {
            "loss": settings.loss,
            "beta": settings.beta,
            "sft_weight": settings.sft_weight,
        }

    def micro_batches(self, step: int) -> list[MicroBatch]:
        rows = self.rows(step, self.mesh().data_rank)
        return [self._micro_batch(self.shards[row], counts=True) for row in rows]

    def validate(self, run: Callable[..., Any]) -> dict[str, float]:
        """Means over the held-out pairs, of the loss and of what `measured` has."""
        shards, mesh = self.held_out(), self.mesh()
        for (row,) in batches_in_order(
            len(shards), rows_per_batch=1, data_rank=mesh.data_rank, data_size=mesh.data_size
        ):
            batch = self._micro_batch(shards[row or 0], counts=row is not None)
            run(**batch.inputs, denominator=1)
        return self._losses().take()

    def _micro_batch(self, row: PreferenceRow, *, counts: bool) -> MicroBatch:
        """This rank's share of a pair."""
        mesh, lengths = self.mesh(), row.document_lengths
        layout = ZigzagLayout(document_lengths=lengths, world_size=mesh.ring_size)
        ids_BT = torch.from_numpy(row.input_ids_T.astype(np.int64))[None]
        answer_BT = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
        answer_BL = layout.split(answer_BT, mesh.ring_rank, dim=1, pad_value=0)
        batch = self.micro_batch(
            ids_BT,
            _is_answer(row)[None],
            layout,
            num_tokens=ids_BT.shape[1],
            flops=training_flops(self.language_model().config, lengths),
            answer_BL=answer_BL.to(self.device),
            visual_SD=self._visual_share(row, ids_BT, layout),
            pair=PairFacts(
                reference_A=torch.tensor(row.reference, dtype=torch.float64, device=self.device),
                tokens_A=torch.tensor(row.answer_lengths, device=self.device),
                counts=counts,
            ),
        )
        return dataclasses.replace(batch, num_labels=int(mesh.ring_rank == 0))

    def _visual_share(
        self, row: PreferenceRow, ids_BT: torch.Tensor, layout: ZigzagLayout
    ) -> torch.Tensor:
        """The visual tokens of this rank's placeholders, in order, (S, D)."""
        mask_T = placeholder_mask(ids_BT, self.model().config.placeholder_ids)[0]
        numbers = [
            torch.where(mask, mask.cumsum(0) - 1, -1) for mask in mask_T.split(row.document_lengths)
        ]
        number_L = layout.split(torch.cat(numbers), self.mesh().ring_rank, dim=0, pad_value=-1)
        number_S = number_L[number_L >= 0]
        return self._tokens.take(row.medium, row.frames_F, number_S).to(self.device)

    @functools.cached_property
    def _tokens(self) -> MediaTokens:
        data = self.shards.metadata
        return MediaTokens(self._store, data.spec, load_longva_config(self.base).grids)


def _is_answer(row: PreferenceRow) -> torch.Tensor:
    """True at the last tokens of each document, which are its answer: (T,)."""
    lengths = zip(row.document_lengths, row.answer_lengths, strict=True)
    places = [torch.arange(length) >= length - answer for length, answer in lengths]
    return torch.cat(places)
