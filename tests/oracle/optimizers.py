# SPDX-License-Identifier: Apache-2.0
"""scale, and full with the other optimizers, take the steps of torch.optim, transformers or bitsandbytes, or of a few lines here where
there is none: optimizers.py BUILD_FOLDER

60 steps in fp32 on transformers' LLaMA, each with weight decay and rates by role. Allowed is about ten times what was measured.
"""
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Callable

from support.adam8bit import take_nearest_codes
from support.compare import Apart, check, check_noticed, compare
from support.llama import groups_of, make_llama, run
from support.trace import Workspace

import bitsandbytes  # noqa: E402  (support says what is missing)
import torch  # noqa: E402
import transformers  # noqa: E402

LR_SCALE = {"matrices": 0.7, "embedding": 1.4, "head": 0.8, "norms": 1.2}
BROKEN_STEPS = 30   # enough to notice
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


class DecoupledSgd(torch.optim.SGD):
    """torch.optim.SGD, whose own weight decay is added to the gradient, with that of AdamW instead."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["decoupled"])
        super().step()


def sgd(model, **options):
    groups = [group | {"weight_decay": 0.0, "decoupled": group["weight_decay"]} for group in groups_of(model, LR_SCALE, DECAY)]
    return DecoupledSgd(groups, **options)


class FullNewtonSchulz(torch.optim.Muon):
    """torch.optim.Muon with its iteration in fp32 instead of bfloat16, whose rounding would hide the arithmetic."""

    def step(self):
        narrow, torch.Tensor.bfloat16 = torch.Tensor.bfloat16, torch.Tensor.clone
        try:
            super().step()
        finally:
            torch.Tensor.bfloat16 = narrow


def muon(model, **options):
    roles = by_role(model)
    matrices = roles.pop("matrices")
    return Together(FullNewtonSchulz([matrices], **options), torch.optim.AdamW(list(roles.values()), betas=BETAS, eps=EPS))


class Adafactor(transformers.Adafactor):
    """transformers' Adafactor, whose decay is scaled by the parameter as its rate is, with that of AdamW instead."""

    @torch.no_grad()
    def step(self):
        decays = [(p, p * (group["lr"] * group["decoupled"])) for group in self.param_groups for p in group["params"]]
        super().step()
        for p, decay in decays:
            p.sub_(decay)


def adafactor(model, **options):
    groups = [group | {"weight_decay": 0.0, "decoupled": group["weight_decay"]} for group in groups_of(model, LR_SCALE, DECAY)]
    return Adafactor(groups, lr=0.0, relative_step=False, warmup_init=False, **options)


def torch_adafactor(model, **options):
    """A bound of 1 / sqrt(t) on the rate, and scaling by the parameter, which transformers' has only with a rate of its own."""
    return torch.optim.Adafactor(groups_of(model, LR_SCALE, DECAY), **options)


def adam8bit(model, **options):
    take_nearest_codes()
    return bitsandbytes.optim.AdamW8bit(groups_of(model, LR_SCALE, DECAY), betas=BETAS, eps=EPS, **options)


@dataclass
class Case:
    """`block`: the recipe's block optimizer. `oracle`: makes the optimizer. `broken`: changes that must be noticed."""
    block: dict
    oracle: Callable
    allowed: Apart
    broken: list = field(default_factory=list)
    teacher: bool = False
    method: dict = field(default_factory=lambda: {"name": "full"})


# Sums differ in order by some 1e-7; a rule that divides by the size of gradients carries that to where they are small.
SAME = Apart(loss=3e-6, weights=2e-4)
CASES = {
    "sgd": Case({"name": "sgd", "lr": 0.01, "momentum": 0.9}, partial(sgd, momentum=0.9), SAME, ["optimizer.momentum=0.91"]),
    "sgd, dampened": Case({"name": "sgd", "lr": 0.03, "momentum": 0.8, "dampening": 0.5}, partial(sgd, momentum=0.8, dampening=0.5), SAME,
                          ["optimizer.dampening=0.51"]),
    "sgd, Nesterov": Case({"name": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": True}, partial(sgd, momentum=0.9, nesterov=True), SAME,
                          ["optimizer.nesterov=false"]),
    "muon": Case({"name": "muon", "lr": 0.003, "momentum": 0.9, "betas": BETAS, "eps": EPS}, partial(muon, momentum=0.9), SAME,
                 ["optimizer.momentum=0.91", "optimizer.ns_steps=6"]),
    "muon, as large as AdamW": Case({"name": "muon", "lr": 0.003, "adjust_lr_fn": "match_rms_adamw", "nesterov": False, "betas": BETAS,
                                     "eps": EPS}, partial(muon, adjust_lr_fn="match_rms_adamw", nesterov=False), SAME,
                                    ["optimizer.adjust_lr_fn=original"]),
    "adafactor": Case({"name": "adafactor", "lr": 0.003}, partial(adafactor, scale_parameter=False), SAME,
                      ["optimizer.decay_rate=-0.81", "optimizer.clip_threshold=0.9"]),
    "adafactor, scaled": Case({"name": "adafactor", "lr": 0.05, "scale_parameter": True}, partial(adafactor, scale_parameter=True), SAME,
                               ["optimizer.decay_rate=-0.81", "optimizer.clip_threshold=0.9"]),
    # Steps this large let rounding grow a thousandfold, so each begins with the trace's weights.
    "adafactor of torch": Case({"name": "adafactor", "lr": 0.3, "scale_parameter": True, "relative_step": True},
                               partial(torch_adafactor, eps=(1e-15, 1e-3)), SAME, ["optimizer.relative_step=false", "optimizer.decay_rate=-0.81"], teacher=True),
    # A moment next to the middle of two codes may take the other, a jump that later steps carry on; bitsandbytes_adam8bit.py
    # compares codes from equal gradients.
    "adam8bit": Case({"name": "adam8bit", "lr": 0.003, "betas": BETAS, "eps": EPS}, adam8bit, Apart(loss=2e-4, weights=1e-2),
                     ["optimizer.betas=[0.93, 0.98]"]),
    "column_norm": Case({"name": "column_norm", "lr": 0.002, "betas": BETAS, "eps": EPS}, column_norm, SAME,
                        ["optimizer.head_momentum=0.91"]),
    "the method scale": Case({"name": "adamw", "lr": 0.002, "betas": BETAS, "eps": EPS}, column_norm, SAME, ["method.beta=0.91"],
                             method={"name": "scale"}),
}


def steps_of(case, trace):
    model = make_llama(trace.state(0))
    return run(trace, model, case.oracle(model), teacher=case.teacher)


def main() -> int:
    space = Workspace(sys.argv[1])
    good, runs = True, {}
    for title, case in CASES.items():
        recipe = {"method": case.method, "optimizer": case.block | {"lr_scale": LR_SCALE, "weight_decay": DECAY}}
        runs[title] = space.begin(recipe), space.begin_each(recipe, case.broken, steps=BROKEN_STEPS)
    for title, case in CASES.items():
        whole, others = runs.pop(title)   # and its states out of memory
        trace = whole.result()
        steps = steps_of(case, trace)
        good &= check(f"60 steps of {title}", compare(trace, steps), case.allowed)
        for change, other in others:
            found = compare(other.result(), steps_of(case, other.result()) if case.teacher else steps)
            good &= check_noticed(change, found, case.allowed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
