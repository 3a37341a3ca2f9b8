"""LongVA and the loss over pairs of answers, on the share of one rank of a ring.

    ids_BL + visual tokens -> the policy's log-probability of each answer (A,)
    the reference's, stored or computed now -> loss of the pair, and its slope at the policy's

The loss is no sum over tokens. So the ranks of a ring first add up each answer's log-probability.
The loss's slope at the sum is then what each rank's part is weighted by: log-probabilities add up,
so this is the gradient, exactly.

Where shards hold no log-probabilities of the reference, it is a second language model inside this
module, and so on the same ring, divided by the same engine. Nothing of it is trained. It always
sees the tokens of the store, which are those of the tower before training.

Shapes: L tokens on this rank (B = 1), A answers, S visual tokens in this share, D width.
"""

import dataclasses

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.loss import with_value
from longva_ray.lm.preference import AnswerLogprobs, pair_loss
from longva_ray.lm.splice import embed_text, fill, placeholder_mask
from longva_ray.ring.attention import Ring
from longva_ray.settings.training import PreferConfig
from longva_ray.train.stages.language import ring_hidden
from longva_ray.train.stages.visual_share import VisualShare

_MEASURES = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairFacts:
    """What a pair's loss needs beside its tokens."""

    reference_A: torch.Tensor | None
    """Log-probabilities before training, float64; None, the reference is to be asked."""
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
        *,
        reference: PreTrainedModel | None = None,
        recompute: bool = False,
    ) -> None:
        """
        Args:
            group: all ranks, over which losses are added.
            reference: the frozen language model before training, where shards do not know what it
                says.
            recompute: keep the tower's pixels instead of its activations.
        """
        super().__init__()
        self.model = model
        self.output = AnswerLogprobs(model.get_output_embeddings())
        self.reference = reference
        if reference is not None:
            self.reference_output = AnswerLogprobs(reference.get_output_embeddings())
        self._group = group
        self._config = config
        self._recompute = recompute
        self._sums = torch.zeros(1 + len(_MEASURES), dtype=torch.float64)

    def forward(
        self,
        input_ids_BL: torch.Tensor,
        labels_BL: torch.Tensor,
        answer_BL: torch.Tensor,
        stored_SD: torch.Tensor | None,
        visual: VisualShare | None,
        pair: PairFacts,
        ring: Ring,
        denominator: int,
    ) -> torch.Tensor:
        """Visual tokens are made of `visual` where there is one. `stored_SD`, the store's, are for
        the reference, and where there is none for the policy."""
        if self.reference is not None:
            assert stored_SD is not None, "the reference sees the store's tokens"
            with torch.no_grad():
                hidden_BLD = self._hidden(self.reference, input_ids_BL, stored_SD, ring)
                reference_A = self.reference_output(hidden_BLD, labels_BL, answer_BL)
            pair = dataclasses.replace(pair, reference_A=_summed(reference_A.double(), ring))
        visual_SD = stored_SD
        if visual is not None:
            visual_SD = visual.encode(self.model.frame_encoder, recompute=self._recompute)
        assert visual_SD is not None, "a pair is about something"
        hidden_BLD = self._hidden(self.model.language_model, input_ids_BL, visual_SD, ring)
        part_A = self.output(hidden_BLD, labels_BL, answer_BL)
        loss, slope_A = self._loss(part_A.detach().double(), pair, ring)
        ranks = 1 if self._group is None else dist.get_world_size(self._group)
        share = (part_A * slope_A.to(part_A)).sum() * (ranks / denominator)
        return with_value(share, (loss / denominator).to(share.dtype))

    def _hidden(
        self,
        language_model: PreTrainedModel,
        input_ids_BL: torch.Tensor,
        visual_SD: torch.Tensor,
        ring: Ring,
    ) -> torch.Tensor:
        mask_BL = placeholder_mask(input_ids_BL, self.model.config.placeholder_ids)
        embeds_BLD = embed_text(input_ids_BL, language_model.get_input_embeddings(), mask_BL)
        embeds_BLD = fill(embeds_BLD, mask_BL, [visual_SD])
        return ring_hidden(language_model, ring, inputs_embeds=embeds_BLD)

    def _loss(
        self, part_A: torch.Tensor, pair: PairFacts, ring: Ring
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of all rings' pairs added up, and the slope of this one's at the
        log-probability of each of its answers."""
        assert pair.reference_A is not None, "stored, or computed before"
        with torch.enable_grad():
            policy_A = _summed(part_A, ring).requires_grad_()
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


def _summed(part_A: torch.Tensor, ring: Ring) -> torch.Tensor:
    """The parts of all ranks of a ring added up, in place."""
    if ring.group is not None:
        dist.all_reduce(part_A, group=ring.group)
    return part_A
