"""Answers counted as right: over every ring, against a plain look at the whole row."""

import pytest
import torch
import torch.distributed as dist
from worker_pool import WorkerPool

from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout
from longva_ray.ring.mesh import make_mesh
from longva_ray.train.stages.answer_tally import AnswerTally, number_answers

CPU = torch.device("cpu")

# Two documents with two answers and one answer, the last token of each document being labelled.
ROW = (0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1)
DOCUMENTS = (9, 4)
WRONG = ((), (3,), (2, 7), (12,), (2, 3, 4, 7, 8, 12))
"""Tokens of a row that the model does not say, in five rows; one answer over several ranks."""


def counted(group: dist.ProcessGroup | None, ring_size: int) -> dict[str, float]:
    """Job: all rows as one rank; a ring reads every other one where there are two."""
    mesh = make_mesh(ring_size=ring_size)
    tally = AnswerTally(mesh, CPU)
    is_label_T = torch.tensor(ROW, dtype=torch.bool)
    layout = ZigzagLayout(document_lengths=DOCUMENTS, world_size=ring_size)
    for number in range(mesh.data_rank, len(WRONG) + len(WRONG) % mesh.data_size, mesh.data_size):
        is_read = number < len(WRONG)
        labelled_T = is_label_T if is_read else torch.zeros_like(is_label_T)
        right_T = labelled_T.clone()
        right_T[list(WRONG[number]) if is_read else []] = False
        # What says token t + 1 stands at t.
        right_BT = torch.cat([right_T[1:], torch.zeros(1, dtype=torch.bool)])[None]
        right_BL = layout.split(right_BT, mesh.ring_rank, dim=1, pad_value=False)
        tally.add(3.0, right_BL, labelled_T, layout)
    return tally.measures()


@pytest.mark.parametrize("ring_size", [4, 2])
def test_rings_count_what_one_process_counts(pool: WorkerPool, ring_size: int) -> None:
    tokens, wrong = len(WRONG) * sum(ROW), sum(map(len, WRONG))
    expected = {
        "token_accuracy": (tokens - wrong) / tokens,
        "answer_accuracy": (3 + 2 + 1 + 2 + 0) / 15,
    }
    alone = counted(None, 1)
    assert alone == {"loss": 3.0 * len(WRONG) / tokens, **expected}
    for found in pool.run(counted, 4, ring_size):
        assert {name: found[name] for name in expected} == expected


def test_answers_are_numbered_in_order() -> None:
    numbers = number_answers(torch.tensor(ROW, dtype=torch.bool))
    no = IGNORE_INDEX
    assert numbers.tolist() == [no, no, 0, 0, 0, no, no, 1, 1, no, no, no, 2]
