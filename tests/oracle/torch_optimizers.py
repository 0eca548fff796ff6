# SPDX-License-Identifier: Apache-2.0
"""full with the other optimizers takes the steps of torch.optim, or of a few lines written here where it has none:
torch_optimizers.py BUILD_FOLDER

60 steps in fp32 on transformers' LLaMA, each with weight decay and rates by role. Allowed is about ten times what was measured;
why the figures differ is said at each.
"""
import sys
from dataclasses import dataclass, field
from typing import Callable

import torch

from support.compare import Apart, check, check_noticed, compare
from support.llama import groups_of, make_llama, run
from support.trace import Workspace

LR_SCALE = {"matrices": 0.7, "embedding": 1.4, "head": 0.8, "norms": 1.2}
BETAS, EPS, DECAY = (0.9, 0.98), 1e-6, 0.1


class Together:
    """Several optimizers as one."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def zero_grad(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


def by_role(model):
    roles = ["embedding", "matrices", "norms", "head"]
    groups = groups_of(model, LR_SCALE, DECAY)
    found = {role: next(group for group in groups if group["factor"] == LR_SCALE[role]) for role in roles}
    assert len(groups) == len(roles), groups
    return found


class ColumnNorm(torch.optim.Optimizer):
    """SCALE's rule (arXiv 2506.16659): a step of the average gradient with each column's root mean square set to 1."""

    def __init__(self, groups):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.mul_(group["momentum"]).add_(p.grad * (1 - group["momentum"]))
                size = average.square().mean(dim=group["over"], keepdim=True).sqrt()
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * average / size.clamp(min=1e-8))


def column_norm(model):
    """A column is an output: a row of W and of the head, a hidden dimension of the embedding."""
    roles = by_role(model)
    return Together(ColumnNorm([roles["matrices"] | {"momentum": 0.0, "over": 1}, roles["head"] | {"momentum": 0.9, "over": 1},
                                roles["embedding"] | {"momentum": 0.0, "over": 0}]),
                    torch.optim.AdamW([roles["norms"]], betas=BETAS, eps=EPS))


@dataclass
class Case:
    """`block`: the recipe's block optimizer. `oracle`: makes the optimizer. `broken`: changes that must be noticed."""
    block: dict
    oracle: Callable
    allowed: Apart
    broken: list = field(default_factory=list)
    why: str = ""


CASES = {
    "column_norm": Case({"name": "column_norm", "lr": 0.002, "betas": BETAS, "eps": EPS}, column_norm, Apart(loss=2e-6, weights=1e-4),
                        ["optimizer.head_momentum=0.91", "optimizer.momentum=0.1", "optimizer.length=euclidean"],
                        "a column's gradient may be small, and is raised to full size with its noise"),
}


def main() -> int:
    space = Workspace(sys.argv[1])
    good = True
    for title, case in CASES.items():
        recipe = {"method": {"name": "full"}, "optimizer": case.block | {"lr_scale": LR_SCALE, "weight_decay": DECAY}}
        trace = space.trace(recipe)
        model = make_llama(trace.state(0))
        steps = run(trace, model, case.oracle(model))
        good &= check(f"60 steps of {title}", compare(trace, steps), case.allowed)
        for change in case.broken:
            good &= check_noticed(change, compare(space.trace(recipe, change), steps), case.allowed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
