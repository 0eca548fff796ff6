# SPDX-License-Identifier: Apache-2.0
"""full with adamw takes the steps of torch.optim.AdamW on transformers' LLaMA: torch_adamw.py BUILD_FOLDER

60 steps in fp32, with decay of the matrices and a learning rate for each role. Both compute in fp32 but sum in different orders,
so gradients differ by some 1e-7 of their norm. AdamW divides by the root of the second moment, which carries that noise to
single elements at full size only where gradients are near eps; in the norm of a matrix it stays small. Allowed is about ten
times what was measured.
"""
import sys

import torch

from support.compare import Apart, check, check_noticed, compare
from support.llama import groups_of, make_llama, run
from support.trace import Workspace

ALLOWED = Apart(loss=2e-6, weights=3e-5)
LR_SCALE = {"matrices": 0.5, "embedding": 1.5, "head": 0.8, "norms": 1.25}
BETAS, EPS, DECAY = (0.9, 0.98), 1e-6, 0.1
RECIPE = {"method": {"name": "full"},
          "optimizer": {"name": "adamw", "lr": 0.003, "lr_scale": LR_SCALE, "betas": BETAS, "eps": EPS, "weight_decay": DECAY}}
BROKEN = ["optimizer.betas=[0.91, 0.98]", "optimizer.betas=[0.9, 0.981]", "optimizer.eps=2e-6", "optimizer.weight_decay=0.11",
          "optimizer.lr_scale.norms=1.26"]


def oracle(trace):
    model = make_llama(trace.state(0))
    groups = groups_of(model, LR_SCALE, DECAY)
    return run(trace, model, torch.optim.AdamW(groups, betas=BETAS, eps=EPS))


def main() -> int:
    space = Workspace(sys.argv[1])
    first = space.begin(RECIPE)
    broken = space.begin_each(RECIPE, BROKEN, steps=30)
    trace = first.result()
    steps = oracle(trace)
    good = check("60 steps of AdamW", compare(trace, steps), ALLOWED)
    for change, other in broken:
        good &= check_noticed(change, compare(other.result(), steps), ALLOWED)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
