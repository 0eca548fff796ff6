# SPDX-License-Identifier: Apache-2.0
"""apollo and apollo_mini take the steps of apollo-torch's APOLLOAdamW on transformers' LLaMA: apollo_reference.py BUILD_FOLDER

60 steps in fp32 with three projections. The projections are random: apollo-torch is given ours, from the trace. Two details of it are
set to the papers': it adds eps to the root of the uncorrected second moment, so it gets eps times that correction's root, and its
`scale` is the square of alpha. It decays after the step and Kumiko before, so there is no decay here. Its bounds
of 1e-8 on norms are far below them. Allowed is about ten times what was measured.
"""
import math
import sys

from support.compare import Apart, check, check_noticed, compare
from support.llama import groups_of, make_llama, role, run
from support.trace import Workspace

from apollo_torch import APOLLOAdamW  # noqa: E402
from apollo_torch.random_projector import GradientProjector  # noqa: E402

ALLOWED = Apart(loss=2e-6, weights=1e-4)
BETAS, EPS, REFRESH, PROJECTIONS = (0.9, 0.98), 1e-6, 25, 3
LR_SCALE = {"matrices": 1.5, "embedding": 0.5}
OPTIMIZER = {"name": "adamw", "lr": 0.005, "lr_scale": LR_SCALE, "betas": BETAS, "eps": EPS}
CASES = {
    "apollo": ({"rank": 16, "scale": 1.0, "scaling": "channel"},
               ["method.scale=1.01", "method.norm_growth=1.02", "method.refresh=24", "optimizer.betas=[0.91, 0.98]"]),
    "apollo_mini": ({"rank": 1, "scale": 4.0, "scaling": "tensor"},
                    ["method.scale=4.04", "method.norm_growth=1.02", "method.scaling=channel"]),
}


class GivenProjector(GradientProjector):
    """Takes its matrices [smaller side, rank] one after another from a list."""

    def __init__(self, matrices, rank):
        super().__init__(rank, update_proj_gap=REFRESH)
        self.matrices = iter(matrices)

    def get_orthogonal_matrix(self, weights, rank, type, seed):
        matrix = next(self.matrices)
        assert matrix.shape == (min(weights.shape), rank), (matrix.shape, weights.shape)
        return matrix.T if type == "right" else matrix


def oracle(trace, options, **how):
    model = make_llama(trace.state(0))
    apollo = {"rank": options["rank"], "scale": options["scale"] ** 2, "scale_type": options["scaling"]}
    optimizer = APOLLOAdamW(groups_of(model, LR_SCALE, **apollo), betas=BETAS, eps=EPS)
    for name, p in model.named_parameters():
        if role(name) == "matrices":
            matrices = [trace.projections[f"{name}/{index}"] for index in range(PROJECTIONS)]
            optimizer.state[p]["projector"] = GivenProjector(matrices, options["rank"])

    def before_step(step):
        for group in optimizer.param_groups:
            group["eps"] = EPS * math.sqrt(1 - BETAS[1] ** (step + 1))

    return run(trace, model, optimizer, before_step=before_step, **how)


def main() -> int:
    space = Workspace(sys.argv[1])
    good = True
    for name, (options, broken) in CASES.items():
        recipe = {"method": {"name": name, "refresh": REFRESH} | options, "optimizer": OPTIMIZER}
        run = space.begin(recipe, f"projections={PROJECTIONS}x{options['rank']}")
        others = space.begin_each(recipe, broken, steps=REFRESH + 5)
        trace = run.result()
        steps = oracle(trace, options)
        good &= check(f"60 steps of {name}", compare(trace, steps), ALLOWED)
        for change, run in others:
            good &= check_noticed(change, compare(run.result(), steps), ALLOWED)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
