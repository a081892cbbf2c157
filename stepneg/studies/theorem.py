r"""Theorem 6.1 as an experiment: where per-step DPO ends up, under which law of pairs.

A context (a prefix) has a few possible next steps. The reference policy draws them with known probabilities, and each
has a known value Q, hence an advantage A. The optimum of Eq. 4 is pi_ref exp(A / beta) / Z. A law of pairs says how a
better step w and a worse step l of one context come about; DPO is minimised on it, exactly (the expectation over all
pairs, a table of log-probabilities) or from drawn pairs (a small network), and the distance to the optimum is measured.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from stepneg.links import unlinked
from stepneg.objectives import dpo
from stepneg.progress import Bar
from stepneg.whole import write_whole

FEATURES = 16  # of a context, random: what the small network sees
TABLE_STEPS = 400  # of LBFGS; laws without a finite optimum are still on their way then
LAW_NAMES = {
    "theorem": "both from pi_ref, the better by sigmoid(A_w - A_l)",
    "better wins": "both from pi_ref, the better always wins",
    "worse first": "l from pi_ref, then w by pi_ref sigmoid(A_w - A_l)",
    "worse first, no reference": "l from pi_ref, then w by sigmoid(A_w - A_l)",
    "right against pit": "l the worst step, w a step of a right continuation: what shared_prefix pairs draw",
}


@dataclass(frozen=True)
class Bandits:
    """Contexts with ``reference`` log-probabilities [S, A] and step ``values`` Q in [0, 1] [S, A]."""

    reference: Tensor
    values: Tensor

    @property
    def advantages(self) -> Tensor:
        """A = Q - E_ref Q, [S, A]: what a step adds to the prefix's own value (Eq. 3)."""
        return self.values - (self.reference.exp() * self.values).sum(-1, keepdim=True)

    def optimum(self, beta: float) -> Tensor:
        """Log-probabilities [S, A] of the optimum of Eq. 4."""
        return torch.log_softmax(self.reference + self.advantages / beta, dim=-1)


def bandits(contexts: int, steps: int, seed: int) -> Bandits:
    """Random contexts: a reference policy with preferences, and values of which about a third are 0 (pits)."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.log_softmax(torch.randn(contexts, steps, generator=generator, dtype=torch.float64), dim=-1)
    values = torch.rand(contexts, steps, generator=generator, dtype=torch.float64)
    values[torch.rand(contexts, steps, generator=generator) < 1 / 3] = 0.0
    values[:, 0], values[:, 1] = 0.0, values[:, 1].clamp(min=0.2)  # each context has a pit and a way on
    return Bandits(reference, values)


def pair_law(problem: Bandits, name: str) -> Tensor:
    """P(w, l) of each context, [S, A, A], summing to 1 over the last two; see ``LAW_NAMES``."""
    chance, a = problem.reference.exp(), problem.advantages
    wins = torch.sigmoid(a[:, :, None] - a[:, None, :])  # [S, w, l]
    apart = 1.0 - torch.eye(a.shape[1], dtype=a.dtype)
    if name == "theorem":
        law = chance[:, :, None] * chance[:, None, :] * wins
    elif name == "better wins":
        law = chance[:, :, None] * chance[:, None, :] * (a[:, :, None] > a[:, None, :])
    elif name == "right against pit":
        pits = chance * (problem.values == problem.values.min(-1, keepdim=True).values)
        law = (chance * problem.values)[:, :, None] * pits[:, None, :] * apart
    else:
        better = wins * apart * (1.0 if name.endswith("no reference") else chance[:, :, None])
        law = chance[:, None, :] * better / better.sum(1, keepdim=True)
    return law / law.sum((1, 2), keepdim=True)


def expected_loss(logp: Tensor, problem: Bandits, law: Tensor, beta: float) -> Tensor:
    """The expectation of the project's DPO loss over a law of pairs, a mean over contexts. ``logp``: [S, A]."""
    w, other = logp[:, :, None].expand_as(law).flatten(), logp[:, None, :].expand_as(law).flatten()
    ref = problem.reference
    ref_w, ref_l = ref[:, :, None].expand_as(law).flatten(), ref[:, None, :].expand_as(law).flatten()
    losses, _, _ = dpo(w, other, ref_w, ref_l, beta)
    return (losses * law.flatten()).sum() / len(logp)


def minimise_exactly(problem: Bandits, law: Tensor, beta: float) -> Tensor:
    """Log-probabilities [S, A] of a table trained on the whole law, from the reference."""
    logits = problem.reference.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=TABLE_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = expected_loss(torch.log_softmax(logits, -1), problem, law, beta)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return torch.log_softmax(logits.detach(), -1)


def fit_network(problem: Bandits, law: Tensor, beta: float, pairs: int, epochs: int, seed: int) -> Tensor:
    """Log-probabilities [S, A] of a small network trained on ``pairs`` drawn pairs, from the reference.

    The network adds to the reference's log-probabilities what it makes of a context's features; it starts at 0.
    """
    torch.manual_seed(seed)
    contexts, steps = problem.reference.shape
    features = torch.randn(contexts, FEATURES, dtype=torch.float64)
    network = nn.Sequential(nn.Linear(FEATURES, 128), nn.Tanh(), nn.Linear(128, steps)).double()
    nn.init.zeros_(network[2].weight)  # type: ignore[arg-type]
    nn.init.zeros_(network[2].bias)  # type: ignore[arg-type]
    drawn = torch.multinomial((law / contexts).flatten(), pairs, replacement=True)
    context, rest = drawn // (steps * steps), drawn % (steps * steps)
    w, other = rest // steps, rest % steps
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    batch = min(256, pairs)
    updates = epochs * -(-pairs // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        some = torch.randint(pairs, (batch,))
        s, chosen, rejected = context[some], w[some], other[some]
        logp = torch.log_softmax(problem.reference[s] + network(features[s]), -1)
        rows = torch.arange(batch)
        ref = problem.reference[s]
        losses, _, _ = dpo(logp[rows, chosen], logp[rows, rejected], ref[rows, chosen], ref[rows, rejected], beta)
        optimiser.zero_grad()
        losses.mean().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return torch.log_softmax(problem.reference + network(features), -1)


def distance(logp: Tensor, other: Tensor) -> float:
    """Mean total variation between the policies of the contexts, in [0, 1]."""
    return float((logp.exp() - other.exp()).abs().sum(-1).mean() / 2)


def expected_value(logp: Tensor, problem: Bandits) -> float:
    """Mean value Q of the step that a policy draws."""
    return float((logp.exp() * problem.values).sum(-1).mean())


def theorem(
    root: Path = Path("runs/theorem"),
    contexts: int = 32,
    steps: int = 6,
    betas: list[float] = [0.1, 0.3, 1.0],  # noqa: B006
    pairs: list[int] = [1000, 4000, 16000, 64000, 256000],  # noqa: B006
    epochs: int = 4,
    seeds: list[int] = [0, 1, 2],  # noqa: B006
) -> str:
    """Minimise per-step DPO under several laws of pairs and measure the distance to Eq. 4's optimum (Theorem 6.1).

    Writes theorem.csv, theorem.png and theorem.md into the run directory.

    Args:
        root: run directory.
        contexts: prefixes, each with its own reference policy and step values.
        steps: possible next steps of a context.
        betas: strengths of the pull to the reference.
        pairs: numbers of drawn pairs that the small network is trained on, with the middle beta.
        epochs: passes over the drawn pairs.
        seeds: each draws other contexts, pairs and networks.

    Returns:
        The table, in Markdown.
    """
    rows: list[dict[str, str | int | float]] = []
    total = len(seeds) * (len(betas) + len(pairs)) * len(LAW_NAMES)
    with Bar("theorem", total, "fits") as bar:
        for seed in seeds:
            problem = bandits(contexts, steps, seed)
            jobs = [(beta, 0) for beta in betas] + [(betas[len(betas) // 2], n) for n in pairs]
            for beta, n in jobs:
                for name in LAW_NAMES:
                    law, best = pair_law(problem, name), problem.optimum(beta)
                    if n:
                        logp = fit_network(problem, law, beta, n, epochs, seed)
                    else:
                        logp = minimise_exactly(problem, law, beta)
                    rows.append(
                        {"law": name, "policy": "network" if n else "table", "beta": beta, "pairs": n, "seed": seed}
                        | {"distance": distance(logp, best), "moved": distance(logp, problem.reference)}
                        | {"value": expected_value(logp, problem), "optimum_value": expected_value(best, problem)}
                        | {"reference_value": expected_value(problem.reference, problem)}
                    )
                    bar.advance(1, len(rows))
    frame = pd.DataFrame(rows)
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / "theorem.csv", frame.to_csv(index=False))
    plot(frame).savefig(unlinked(root / "theorem.png"), dpi=130)
    text = table(frame)
    write_whole(root / "theorem.md", text + "\n")
    return text


def table(frame: pd.DataFrame) -> str:
    """Means over seeds of the exact minimisation, a row a law and beta."""
    lines = ["| law of pairs | beta | distance to the optimum | value of a step | of the optimum | of the reference |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    exact = frame[frame["policy"] == "table"].groupby(["law", "beta"], sort=False).mean(numeric_only=True)
    for index, row in exact.iterrows():
        law, beta = cast(tuple[str, float], index)
        lines.append(
            f"| {law} | {beta:g} | {row['distance']:.4f} | {row['value']:.3f} | {row['optimum_value']:.3f}"
            f" | {row['reference_value']:.3f} |"
        )
    return "\n".join(lines)


def plot(frame: pd.DataFrame) -> Figure:
    """Distance to the optimum against the number of pairs, a line a law; dashed where the exact minimum is."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
    drawn = frame[frame["policy"] == "network"]
    for colour, law in zip(colours, LAW_NAMES, strict=True):
        of_law = drawn[drawn["law"] == law]
        means = of_law.groupby("pairs")["distance"].agg(["mean", "min", "max"])
        axes.plot(means.index, means["mean"], "o-", color=colour, label=law)
        axes.fill_between(means.index, means["min"], means["max"], color=colour, alpha=0.15)
        exact = frame[(frame["policy"] == "table") & (frame["law"] == law) & frame["beta"].isin(of_law["beta"])]
        axes.axhline(exact["distance"].mean(), color=colour, linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="pairs drawn", ylabel="total variation to the optimum of Eq. 4", ylim=(0, None))
    axes.set_title(f"beta {drawn['beta'].iloc[0]:g}; dashed: minimised on the whole law", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure
