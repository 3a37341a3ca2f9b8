"""The loss of a pair against its published formulas in plain math, and log-probabilities against
torch's own."""

import math

import pytest
import torch
from torch.nn import functional as F

from longva_ray.lm.preference import AnswerLogprobs, PreferenceKind, pair_loss

POLICY, REFERENCE, TOKENS = (-12.5, -9.75), (-13.0, -9.0), (5, 4)

BETA = 0.1


def pair(
    kind: PreferenceKind = "sigmoid",
    policy: tuple[float, float] = POLICY,
    sft_weight: float = 0.0,
    beta: float = BETA,
) -> tuple[float, float, list[float], list[float]]:
    """Loss, margin, rewards, and the loss's gradient at both log-probabilities."""
    policy_A = torch.tensor(policy, dtype=torch.float64, requires_grad=True)
    reference_A = torch.tensor(REFERENCE, dtype=torch.float64)
    found = pair_loss(
        policy_A,
        reference_A,
        torch.tensor(TOKENS),
        kind=kind,
        beta=beta,
        sft_weight=sft_weight,
    )
    (gradient_A,) = torch.autograd.grad(found.loss, policy_A)
    return float(found.loss), float(found.margin), found.rewards_A.tolist(), gradient_A.tolist()


def test_sigmoid_is_equation_7_of_the_dpo_paper() -> None:
    """log(policy / reference) is +0.5 for the chosen answer and -0.75 for the rejected one."""
    loss, margin, rewards, gradient = pair()
    assert loss == pytest.approx(-math.log(1 / (1 + math.exp(-BETA * 1.25))), rel=1e-12)
    assert rewards == pytest.approx([BETA * 0.5, BETA * -0.75], rel=1e-12)
    assert margin == pytest.approx(BETA * 1.25, rel=1e-12)
    # The paper's gradient: beta sigmoid(-margin), down for the chosen one and up for the other.
    pull = BETA / (1 + math.exp(BETA * 1.25))
    assert gradient == pytest.approx([-pull, pull], rel=1e-12)


def test_ipo_is_equation_17_of_its_paper_with_means_over_tokens() -> None:
    loss, margin, _, gradient = pair("ipo")
    difference = 0.5 / 5 - -0.75 / 4
    assert loss == pytest.approx((difference - 1 / (2 * BETA)) ** 2, rel=1e-12)
    assert margin == pytest.approx(BETA * difference, rel=1e-12)
    pull = 2 * (difference - 1 / (2 * BETA))
    assert gradient == pytest.approx([pull / 5, -pull / 4], rel=1e-12)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_the_sft_term_is_the_chosen_answer_alone(kind: PreferenceKind) -> None:
    plain, with_term = pair(kind), pair(kind, sft_weight=0.5)
    assert with_term[0] - plain[0] == pytest.approx(0.5 * 12.5 / 5, rel=1e-12)
    assert with_term[3][0] - plain[3][0] == pytest.approx(-0.5 / 5, rel=1e-9)
    assert with_term[3][1] == plain[3][1]
    assert with_term[1:3] == plain[1:3], "margins say what is preferred, not what is likely"


def test_a_policy_that_is_its_reference_prefers_nothing() -> None:
    loss, margin, _, _ = pair(policy=REFERENCE)
    assert loss == pytest.approx(math.log(2), rel=1e-12)
    assert margin == 0


def test_a_large_margin_does_not_overflow() -> None:
    """exp(1000) is no number; the loss is 0 on one side and the margin on the other."""
    right, wrong = (REFERENCE[0] + 10_000, REFERENCE[1]), (REFERENCE[0] - 10_000, REFERENCE[1])
    assert pair(policy=right)[0] == 0
    assert pair(policy=wrong)[0] == pytest.approx(1000, rel=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_log_probabilities_of_two_answers_are_those_of_torch(bias: bool) -> None:
    """Two documents of a row; the second answer has more labels. Each gets its own gradient."""
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 23, bias=bias, dtype=torch.float64)
    hidden_BLD = torch.randn(1, 12, 6, dtype=torch.float64, requires_grad=True)
    labels_BL = torch.full((1, 12), -100)
    labels_BL[0, 3:5], labels_BL[0, 8:11] = torch.tensor([4, 7]), torch.tensor([4, 9, 22])
    answer_BL = torch.tensor([[0] * 6 + [1] * 6])
    found_A = AnswerLogprobs(head)(hidden_BLD, labels_BL, answer_BL)
    scores_LV = head(hidden_BLD)[0].log_softmax(-1)
    expected_A = torch.stack(
        [
            scores_LV[[3, 4], [4, 7]].sum(),
            scores_LV[[8, 9, 10], [4, 9, 22]].sum(),
        ]
    )
    torch.testing.assert_close(found_A, expected_A, rtol=1e-12, atol=0)
    weights_A = torch.tensor([0.3, -2.0], dtype=torch.float64)
    leaves = [hidden_BLD, *head.parameters()]
    for ours, torchs in zip(
        torch.autograd.grad(found_A @ weights_A, leaves),
        torch.autograd.grad(expected_A @ weights_A, leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-12)


def test_a_rank_without_labels_still_reaches_every_weight() -> None:
    """Divided weights are reduced by all ranks together."""
    head = torch.nn.Linear(6, 23, dtype=torch.float64)
    hidden_BLD = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    nothing_BL = torch.full((1, 4), -100)
    found_A = AnswerLogprobs(head)(hidden_BLD, nothing_BL, torch.zeros_like(nothing_BL))
    assert found_A.tolist() == [0, 0]
    found_A.sum().backward()
    assert head.weight.grad is not None
    assert F.mse_loss(head.weight.grad, torch.zeros_like(head.weight)) == 0
