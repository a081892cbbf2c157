"""Losses against closed forms, and Theorem 6.1 on a bandit against the project's own DPO loss."""

import math

import pytest
import torch

from stepneg.objectives import DPO, CrossEntropy, WeightedLikelihood, dpo, effective_share, token_log_probs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 7, 11)])
def test_token_log_probs_are_the_log_softmax(shape, dtype):
    torch.manual_seed(0)
    logits = torch.randn(shape).to(dtype)
    labels = torch.randint(0, shape[2], shape[:2])
    labels[0, 0] = -100
    found = token_log_probs(logits, labels)
    expected = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    expected[0, 0] = 0.0
    assert torch.allclose(found, expected, atol=1e-5)


def batch(labels, **more):
    return {"labels": torch.tensor(labels)} | {k: torch.tensor(v) for k, v in more.items()}


def test_cross_entropy_is_the_mean_over_response_tokens():
    logp = torch.tensor([[-1.0, -2.0, 0.0], [0.0, -6.0, 0.0]])
    loss = CrossEntropy()(batch([[9, 1, 2, -100], [9, -100, 3, -100]]), logp)["loss"]
    assert float(loss) == pytest.approx(3.0)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_by_hand(beta):
    logp = torch.tensor([[-1.0, -0.5], [-2.0, 0.0]], requires_grad=True)
    parts = DPO(beta)(batch([[9, 1, 2], [9, 3, -100]], reference_logp=[-2.0, -1.0]), logp)
    margin = beta * ((-1.5 + 2.0) - (-2.0 + 1.0))
    assert float(parts["loss"]) == pytest.approx(math.log(1 + math.exp(-margin)), abs=1e-6)
    assert float(parts["reward_margin"]) == pytest.approx(margin)
    parts["loss"].backward()
    slope = -beta / (1 + math.exp(margin))
    assert logp.grad.tolist()[0] == pytest.approx([slope, slope])  # the chosen is pushed up
    assert logp.grad.tolist()[1] == pytest.approx([-slope, -slope])


def test_weights_of_one_are_cross_entropy_and_weights_scale():
    labels, logp = [[9, 1, 2, -100]], torch.tensor([[-1.0, -3.0, 0.0]])
    plain = CrossEntropy()(batch(labels), logp)["loss"]
    ones = WeightedLikelihood()(batch(labels, weights=[[0.0, 1.0, 1.0, 0.0]]), logp)["loss"]
    twice = WeightedLikelihood()(batch(labels, weights=[[0.0, 2.0, 2.0, 0.0]]), logp)["loss"]
    assert float(ones) == pytest.approx(float(plain))
    assert float(twice) == pytest.approx(2 * float(plain))


def bandit(negative_first: bool, beta: float = 0.7) -> float:
    """Total variation between the minimiser of the expected DPO loss and pi_sft exp(A/beta)/Z (Theorem 6.1)."""
    torch.manual_seed(1)
    advantage, start = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64).log_softmax(-1)
    prefer = torch.sigmoid((advantage[:, None] - advantage[None, :]) / beta)  # row better than column
    law = start.exp()[:, None] * start.exp()[None, :] * 2 * prefer  # a, b i.i.d. from pi_sft, labelled by sigma
    if negative_first:
        law = start.exp()[None, :] * prefer / prefer.sum(0, keepdim=True)
    theta = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logp = theta.log_softmax(-1)
        better, worse = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
        losses, _, _ = dpo(logp[better], logp[worse], start[better], start[worse], beta=1.0)
        total = (law * losses).sum()
        total.backward()
        return total

    optimizer.step(loss)
    target = (start + advantage / beta).softmax(-1)
    return float((theta.softmax(-1) - target).abs().sum() / 2)


def test_theorem_6_1_holds_for_pairs_drawn_from_the_policy():
    assert bandit(negative_first=False) < 1e-5


def test_theorem_6_1_needs_its_sampling():
    assert bandit(negative_first=True) > 0.05


def test_what_dpo_logs_by_hand():
    """Two pairs of unequal length; the second has a shared prefix, whose token carries no loss."""
    logp = torch.tensor([[-1.0, -0.5, -3.0], [-2.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, -4.0, -1.0]])
    labels = [[9, 1, 2, 3], [9, 3, -100, -100], [9, -100, 4, -100], [9, -100, 5, 6]]
    parts = DPO(beta=0.5, anchor=3.0)(batch(labels, reference_logp=[-4.0, -3.0, -2.0, -2.0]), logp)
    margins = [0.5 * (-4.5 + 4.0) - 0.5 * (-2.0 + 3.0), 0.5 * (-1.0 + 2.0) - 0.5 * (-5.0 + 2.0)]
    expected = {
        "preference_loss": sum(math.log(1 + math.exp(-m)) for m in margins) / 2,
        "reward_margin": sum(margins) / 2,
        "reward_accuracy": 0.5,
        "chosen_reward": (-0.25 + 0.5) / 2,
        "rejected_reward": (0.5 - 1.5) / 2,
        "chosen_logp": (-4.5 - 1.0) / 2,
        "rejected_logp": (-2.0 - 5.0) / 2,
        "chosen_length": (3 + 1) / 2,
        "rejected_length": (1 + 2) / 2,
        "chosen_nll": 5.5 / 4,
    }
    assert {name: float(value) for name, value in parts.items() if name != "loss"} == pytest.approx(expected)
    assert float(parts["loss"]) == pytest.approx(expected["preference_loss"] + 3.0 * 5.5 / 4)


def test_what_weighted_likelihood_logs_by_hand():
    logp = torch.tensor([[-1.0, -2.0, -4.0], [-3.0, 0.0, 0.0]])
    labels = [[9, 1, 2, 3], [9, 4, -100, -100]]
    weights = [[0.0, 2.0, 0.0, 1.0], [0.0, 1.0, 7.0, 7.0]]  # those behind the response do not count
    parts = WeightedLikelihood()(batch(labels, weights=weights), logp)
    expected = {"nll": 10 / 4, "weight": 4 / 4, "effective_share": 16 / (4 * 6), "length": 2.0, "loss": (2 + 4 + 3) / 3}
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("weights", "share"),
    [([3.0, 3.0, 3.0], 1.0), ([1.0, 0.0, 0.0, 0.0], 0.25), ([0.0, 0.0], 0.0), ([1e-20, 1e-20], 1.0)],
)
def test_effective_share(weights, share):
    found = torch.tensor(weights, dtype=torch.float64)
    assert float(effective_share(found, torch.ones_like(found, dtype=torch.bool))) == pytest.approx(share)
