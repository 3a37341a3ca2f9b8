"""What a pair of answers costs: log-probabilities of a better and a worse one -> the loss.

    policy_A, reference_A: log-probabilities of A = 2 answers, the chosen one first

Direct preference optimization: the policy is to raise the chosen answer above the rejected one,
more than the reference does, which is the model before training. With h the difference of
log(policy / reference) between the two answers,

    sigmoid   -log sigmoid(beta h)            https://arxiv.org/abs/2305.18290, equation 7
    ipo       (h - 1 / (2 beta))^2            https://arxiv.org/abs/2310.12036, equation 17

In ipo the log-probabilities are means over the tokens of an answer. That is how its authors said it
is meant, and how trl computes it: with sums, h grows with length and the target does not. The SFT
term adds the mean negative log-likelihood of the chosen answer's tokens, as the released code's
`gamma` does.

Shapes: A answers of a pair, L tokens on this rank (after a batch of 1), D width, V words.
"""

import dataclasses
from typing import Literal

import torch

from longva_ray.lm.tiled_loss import tiled_sum

PreferenceKind = Literal["sigmoid", "ipo"]

_IGNORED = -100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairLoss:
    """A pair's loss, and what says whether it is learned. Scalars, in nats."""

    loss: torch.Tensor
    rewards_A: torch.Tensor
    """beta log(policy / reference) of each answer, what the policy is said to be rewarded for."""

    @property
    def margin(self) -> torch.Tensor:
        """By how much the chosen answer is preferred; above 0, the pair is ordered right."""
        return self.rewards_A[0] - self.rewards_A[1]


def pair_loss(
    policy_A: torch.Tensor,
    reference_A: torch.Tensor,
    tokens_A: torch.Tensor,
    *,
    kind: PreferenceKind,
    beta: float,
    sft_weight: float,
) -> PairLoss:
    """The loss of one pair.

    Args:
        policy_A: log-probability of each whole answer under the model that is trained.
        reference_A: under the model before training.
        tokens_A: tokens of each answer.
        beta: how close the policy is kept to the reference.
        sft_weight: of the SFT term.
    """
    ratios_A = policy_A - reference_A
    if kind == "ipo":
        ratios_A = ratios_A / tokens_A
    difference = ratios_A[0] - ratios_A[1]
    if kind == "ipo":
        loss = (difference - 1 / (2 * beta)) ** 2
    else:
        loss = -torch.nn.functional.logsigmoid(beta * difference)
    if sft_weight:
        loss = loss - sft_weight * policy_A[0] / tokens_A[0]
    return PairLoss(loss=loss, rewards_A=beta * ratios_A)


class AnswerLogprobs(torch.nn.Module):
    """The output layer and the log-probability of some answers in one: (1, L, D) -> (A,).

    What it returns is this rank's part; over the ranks of a ring the parts sum to the whole. Shares
    its parameters with the layer that it stands for. Always by `tiled_sum`, which scores labelled
    tokens alone: an answer is short beside its prompt.
    """

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        assert isinstance(head, torch.nn.Linear)
        self.weight, self.bias = head.weight, head.bias

    def forward(
        self,
        hidden_BLD: torch.Tensor,
        labels_BL: torch.Tensor,
        answer_BL: torch.Tensor,
        num_answers: int = 2,
    ) -> torch.Tensor:
        """Labels are shifted already; `answer_BL` says which answer each belongs to -> (A,)."""
        hidden_LD = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])
        parts = [
            tiled_sum(
                hidden_LD,
                self.weight,
                labels_BL.where(answer_BL == answer, _IGNORED).flatten(),
                self.bias,
                _IGNORED,
            )
            for answer in range(num_answers)
        ]
        return -torch.stack(parts)
