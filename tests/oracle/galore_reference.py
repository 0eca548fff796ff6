# SPDX-License-Identifier: Apache-2.0
"""galore takes the steps of galore-torch's GaLoreAdamW and GaLoreAdamW8bit on transformers' LLaMA: galore_reference.py BUILD_FOLDER

60 steps in fp32 with three refreshes. An SVD leaves the signs of its vectors open, and moments are kept over a refresh, so
galore-torch's vectors are given our signs: the largest entry of each is positive. It adds eps to the root of the uncorrected
second moment, so it gets eps times that correction's root; it decays after the step and Kumiko before, so there is no decay
here. The vectors of an SVD turn by rounding over the gap between singular values. Allowed is about ten times what was measured.

8-bit moments have a scale for each 256 elements, so their layout matters: galore-torch is given the transposed gradients that
Kumiko has. A moment next to the middle of two codes may take the other one, a jump of some 1e-3 of a step, and a refresh
makes more of such differences in the weights. So each step begins with the trace's weights, and counts on its own;
a broken run gets an oracle of its own.
"""
import math
import sys

from support.adam8bit import take_nearest_codes
from support.compare import Apart, check, check_noticed, compare
from support.llama import groups_of, make_llama, role, run
from support.trace import Workspace

import torch  # noqa: E402
from galore_torch import GaLoreAdamW, GaLoreAdamW8bit  # noqa: E402
from galore_torch.galore_projector import GaLoreProjector  # noqa: E402

ALLOWED = Apart(loss=2e-6, weights=2e-4)
ALLOWED_8BIT = Apart(loss=2e-6, weights=2e-2)
BETAS, EPS, REFRESH, RANK, SCALE = (0.9, 0.98), 1e-6, 15, 16, 0.25
MIN_8BIT_SIZE = 1024    # projected gradients are smaller than the usual 4096
LR_SCALE = {"matrices": 2.0, "embedding": 0.5}
OPTIMIZER = {"name": "adamw", "lr": 0.005, "lr_scale": LR_SCALE, "betas": BETAS, "eps": EPS}
METHOD = {"name": "galore", "rank": RANK, "scale": SCALE, "basis": {"solver": "svd"}, "schedule": {"kind": "static", "tau": REFRESH},
          "moments": "keep"}
BROKEN_STEPS = 30
BROKEN = ["method.scale=0.26", "method.schedule.tau=14", "optimizer.betas=[0.91, 0.98]", "method.moments=rotate"]
# Each step counts on its own, so a change must make ten times ALLOWED_8BIT, a fifth of a step, in one.
BROKEN_8BIT = ["method.scale=0.32", "method.schedule.tau=14", "optimizer.betas=[0.95, 0.98]"]


class SignedProjector(GaLoreProjector):
    def get_orthogonal_matrix(self, weights, rank, type):
        matrix = super().get_orthogonal_matrix(weights, rank, type)
        over = 1 if type == "right" else 0
        return matrix * torch.where(matrix.gather(over, matrix.abs().argmax(over, keepdim=True)) < 0, -1.0, 1.0)


class TransposedProjector(SignedProjector):
    def project(self, full_rank_grad, iter):
        return super().project(full_rank_grad, iter).T.contiguous()

    def project_back(self, low_rank_grad):
        return super().project_back(low_rank_grad.T)


def signed(_name, **options):
    return SignedProjector(**options)


def transposed(_name, **options):
    return TransposedProjector(**options)


def with_projectors(model, projector, make, refresh=REFRESH):
    """`projector` is called with a layer's name and galore-torch's options."""
    galore = {"rank": RANK, "update_proj_gap": refresh, "scale": SCALE, "proj_type": "std"}
    optimizer = make(groups_of(model, LR_SCALE, **galore))
    for name, p in model.named_parameters():
        if role(name) == "matrices":
            optimizer.state[p]["projector"] = projector(name.removesuffix(".weight"), **galore)
    return optimizer


def oracle(trace, projector=signed, refresh=REFRESH, **how):
    model = make_llama(trace.state(0))
    optimizer = with_projectors(
        model, projector, lambda groups: GaLoreAdamW(groups, betas=BETAS, eps=EPS, no_deprecation_warning=True), refresh)

    def before_step(step):
        for group in optimizer.param_groups:
            group["eps"] = EPS * math.sqrt(1 - BETAS[1] ** (step + 1))

    return run(trace, model, optimizer, before_step=before_step, **how)


def oracle_8bit(trace):
    take_nearest_codes()
    torch.cuda.synchronize = lambda: None   # it waits for a GPU after each parameter
    model = make_llama(trace.state(0))
    return run(trace, model, with_projectors(model, transposed, lambda groups: GaLoreAdamW8bit(
        groups, betas=BETAS, eps=EPS, weight_decay=0.0, min_8bit_size=MIN_8BIT_SIZE)), teacher=True)


def main() -> int:
    space = Workspace(sys.argv[1])
    recipe = {"method": METHOD, "optimizer": OPTIMIZER}
    eight_bits = recipe | {"optimizer": OPTIMIZER | {"name": "adam8bit", "min_8bit_size": MIN_8BIT_SIZE}}
    run, run_8bit = space.begin(recipe), space.begin(eight_bits)
    others = space.begin_each(recipe, BROKEN, steps=BROKEN_STEPS)
    others_8bit = space.begin_each(eight_bits, BROKEN_8BIT, steps=BROKEN_STEPS)
    trace, trace_8bit = run.result(), run_8bit.result()
    steps = oracle(trace)
    good = check("60 steps of GaLore", compare(trace, steps), ALLOWED)
    for change, run in others:
        good &= check_noticed(change, compare(run.result(), steps), ALLOWED)
    good &= check("60 steps of GaLore with 8-bit moments", compare(trace_8bit, oracle_8bit(trace_8bit)), ALLOWED_8BIT)
    for change, run in others_8bit:
        good &= check_noticed(change, compare(run.result(), oracle_8bit(run.result())), ALLOWED_8BIT)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
