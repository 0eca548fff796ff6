# SPDX-License-Identifier: Apache-2.0
"""galore takes the steps of galore-torch's GaLoreAdamW on transformers' LLaMA: galore_reference.py BUILD_FOLDER

60 steps in fp32 with three refreshes. An SVD leaves the signs of its vectors open, and moments are kept over a refresh, so
galore-torch's vectors are given our signs: the largest entry of each is positive. It adds eps to the root of the uncorrected
second moment, so it gets eps times that correction's root; it decays after the step and Kumiko before, so there is no decay
here. The vectors of an SVD turn by rounding over the gap between singular values. Allowed is about ten times what was measured.
"""
import math
import sys

from support.compare import Apart, check, check_noticed, compare
from support.llama import groups_of, make_llama, role, run
from support.trace import Workspace

import torch  # noqa: E402
from galore_torch import GaLoreAdamW  # noqa: E402
from galore_torch.galore_projector import GaLoreProjector  # noqa: E402

ALLOWED = Apart(loss=2e-6, weights=2e-4)
BETAS, EPS, REFRESH, RANK, SCALE = (0.9, 0.98), 1e-6, 15, 16, 0.25
LR_SCALE = {"matrices": 2.0, "embedding": 0.5}
OPTIMIZER = {"name": "adamw", "lr": 0.005, "lr_scale": LR_SCALE, "betas": BETAS, "eps": EPS}
METHOD = {"name": "galore", "rank": RANK, "scale": SCALE, "basis": {"solver": "svd"}, "schedule": {"kind": "static", "tau": REFRESH},
          "moments": "keep"}
BROKEN = ["method.scale=0.26", "method.schedule.tau=14", "optimizer.betas=[0.91, 0.98]", "method.moments=rotate"]


class SignedProjector(GaLoreProjector):
    def get_orthogonal_matrix(self, weights, rank, type):
        matrix = super().get_orthogonal_matrix(weights, rank, type)
        over = 1 if type == "right" else 0
        return matrix * torch.where(matrix.gather(over, matrix.abs().argmax(over, keepdim=True)) < 0, -1.0, 1.0)


def oracle(trace, **how):
    model = make_llama(trace.state(0))
    galore = {"rank": RANK, "update_proj_gap": REFRESH, "scale": SCALE, "proj_type": "std"}
    optimizer = GaLoreAdamW(groups_of(model, LR_SCALE, **galore), betas=BETAS, eps=EPS, no_deprecation_warning=True)
    for name, p in model.named_parameters():
        if role(name) == "matrices":
            optimizer.state[p]["projector"] = SignedProjector(**galore)

    def before_step(step):
        for group in optimizer.param_groups:
            group["eps"] = EPS * math.sqrt(1 - BETAS[1] ** (step + 1))

    return run(trace, model, optimizer, before_step=before_step, **how)


def main() -> int:
    space = Workspace(sys.argv[1])
    recipe = {"method": METHOD, "optimizer": OPTIMIZER}
    trace = space.trace(recipe)
    steps = oracle(trace)
    good = check("60 steps of GaLore", compare(trace, steps), ALLOWED)
    for change in BROKEN:
        good &= check_noticed(change, compare(space.trace(recipe, change), steps), ALLOWED)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
