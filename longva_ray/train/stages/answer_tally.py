"""How well a model gives answers that it was not trained on, counted over rows and ranks.

    for each row: which labelled tokens are right -> loss, token accuracy, answer accuracy

An answer is right when each of its tokens, the one that ends it included, is the likeliest given
all before it. That is when the model's greedy answer would be this one, word for word; an answer of
the same meaning in other words is not. It takes no more than the forward pass of the loss.

Shapes: B batch of 1, T tokens of a row, L tokens on this rank, A answers in a row.
"""

import torch
import torch.distributed as dist

from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout, next_token_labels
from longva_ray.ring.mesh import RingMesh
from longva_ray.train.sums import sum_over_ranks


class AnswerTally:
    """Sums over the rows that were added on this rank, and their means over all ranks."""

    def __init__(self, mesh: RingMesh, device: torch.device) -> None:
        self._mesh = mesh
        self._device = device
        self._loss = 0.0
        self._tokens = self._right_tokens = self._answers = self._right_answers = 0

    def add(
        self, loss: float, right_BL: torch.Tensor, is_label_T: torch.Tensor, layout: ZigzagLayout
    ) -> None:
        """Count this rank's share of a row; all ranks of a ring add the same row.

        Args:
            loss: sum over the labelled tokens of all ranks.
            right_BL: where the token that follows is labelled and the likeliest.
            is_label_T: tokens of the row that belong to an answer.
        """
        answer_BT = number_answers(is_label_T)[None]
        labels_BT = next_token_labels(answer_BT, layout)
        answer_BL = layout.split(labels_BT, self._mesh.ring_rank, dim=1, pad_value=IGNORE_INDEX).to(
            right_BL.device
        )
        is_labelled_BL = answer_BL != IGNORE_INDEX
        num_answers = int(answer_BT.max()) + 1
        wrong_A = torch.bincount(
            answer_BL[is_labelled_BL & ~right_BL], minlength=max(num_answers, 0)
        )
        if self._mesh.ring_group is not None:
            dist.all_reduce(wrong_A, group=self._mesh.ring_group)
        self._loss += loss
        self._tokens += int(is_labelled_BL.sum())
        self._right_tokens += int(right_BL.sum())
        if self._mesh.ring_rank == 0:
            self._answers += len(wrong_A)
            self._right_answers += int((wrong_A == 0).sum())

    def measures(self) -> dict[str, float]:
        """`loss`, `token_accuracy` and `answer_accuracy`; every rank calls it."""
        counts = [self._tokens, self._right_tokens, self._answers, self._right_answers]
        tokens, right_tokens, answers, right_answers = sum_over_ranks(counts, self._device).tolist()
        return {
            "loss": self._loss / tokens,
            "token_accuracy": right_tokens / tokens,
            "answer_accuracy": right_answers / answers,
        }


def number_answers(is_label_T: torch.Tensor) -> torch.Tensor:
    """For each token of a row the number of the answer that it belongs to, in order from 0: (T,)
    int64, `IGNORE_INDEX` for a token of none. Between two answers stands the header of a turn."""
    before_T = torch.cat([is_label_T.new_zeros(1), is_label_T[:-1]])
    number_T = (is_label_T & ~before_T).cumsum(0) - 1
    return number_T.where(is_label_T, IGNORE_INDEX)
