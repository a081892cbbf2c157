"""Theorem 6.1: the laws are laws, the exact minimum is Eq. 4's optimum under the theorem's law and no other."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from stepneg.studies.theorem import (
    LAW_NAMES,
    bandits,
    distance,
    expected_loss,
    fit_network,
    minimise_exactly,
    pair_law,
    theorem,
)


@pytest.mark.parametrize("name", LAW_NAMES)
def test_laws_are_distributions_of_two_different_steps(name: str) -> None:
    law = pair_law(bandits(5, 4, 0), name)
    assert torch.allclose(law.sum((1, 2)), torch.ones(5, dtype=torch.float64))
    assert (law >= 0).all()
    if name != "theorem":  # two equal steps are drawn there, too, and carry no gradient
        assert law.diagonal(dim1=1, dim2=2).abs().max() == 0


def test_advantages_are_centred() -> None:
    problem = bandits(5, 4, 1)
    assert torch.allclose((problem.reference.exp() * problem.advantages).sum(-1), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_theorems_law_has_the_optimum_of_eq_4(beta: float) -> None:
    problem = bandits(8, 5, 2)
    found = minimise_exactly(problem, pair_law(problem, "theorem"), beta)
    assert distance(found, problem.optimum(beta)) < 1e-3


@pytest.mark.parametrize("name", [name for name in LAW_NAMES if name != "theorem"])
def test_other_laws_end_elsewhere(name: str) -> None:
    problem = bandits(8, 5, 2)
    assert distance(minimise_exactly(problem, pair_law(problem, name), 0.5), problem.optimum(0.5)) > 0.05


def test_the_optimum_is_stationary() -> None:
    problem = bandits(4, 3, 3)
    logits = problem.optimum(0.7).clone().requires_grad_()
    expected_loss(torch.log_softmax(logits, -1), problem, pair_law(problem, "theorem"), 0.7).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-9


def test_more_pairs_bring_a_network_nearer() -> None:
    problem = bandits(8, 4, 0)
    law = pair_law(problem, "theorem")
    few, many = (distance(fit_network(problem, law, 0.5, n, 4, 0), problem.optimum(0.5)) for n in (200, 50_000))
    assert many < few
    assert many < 0.1


def test_the_study_writes_its_tables(tmp_path: Path) -> None:
    text = theorem(tmp_path, contexts=4, steps=3, betas=[0.5], pairs=[200], epochs=1, seeds=[0])
    frame = pd.read_csv(tmp_path / "theorem.csv")
    assert len(frame) == 2 * len(LAW_NAMES)
    assert text.count("\n") == 1 + len(LAW_NAMES)
    assert (tmp_path / "theorem.png").stat().st_size > 10_000
