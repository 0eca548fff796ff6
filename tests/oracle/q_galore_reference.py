# SPDX-License-Identifier: Apache-2.0
"""q_galore with bases in INT4 and lazy refresh, on galore-torch's GaLoreAdamW: q_galore_reference.py BUILD_FOLDER

60 steps in fp32 (int8_weights.py has the weights in INT8). At each refresh that the rule below makes due, codes and scales are compared
and then taken from the trace, for a number at the border of two levels may take either: MAX_JUMPS of a layer's codes may. At all
other steps the codes must stay. Allowed is what galore_reference.py allows.
"""
import sys

import galore_reference
from support.compare import check, check_noticed, compare
from support.trace import Workspace

import torch  # noqa: E402

REFRESH, BLOCK, MAX_JUMPS = 5, 256, 3
LAZY = {"similarity": 0.4, "window": 2}
METHOD = galore_reference.METHOD | {
    "name": "q_galore", "schedule": {"kind": "static", "tau": REFRESH}, "refresh": {"kind": "lazy"} | LAZY,
    "quantization": {"weights": "none", "basis": "int4", "block_size": BLOCK, "double_quant": False}}


class LazyProjector(galore_reference.SignedProjector):
    """Q-GaLore's (arXiv 2407.08296, 3.2): the basis in INT4, and a gap that doubles while the first vector hardly turns.

    Takes the trace's codes after comparing its own with them: a number at the border of two levels may take either.
    """

    def __init__(self, trace, name, **options):
        super().__init__(**options)
        self.trace, self.name, self.step = trace, name, 0
        self.similarities, self.refreshes = [], []

    def stored(self, part):
        return self.trace.state(self.step + 1).tensors[f"model/{self.name}.basis/{part}"]

    def project(self, full_rank_grad, iter):
        self.step = iter
        low = super().project(full_rank_grad, iter)
        if self.step not in self.refreshes:
            assert torch.equal(self.stored("codes"), self.codes), f"{self.name} was refreshed at step {iter}"
        return low

    def get_orthogonal_matrix(self, weights, rank, type):
        matrix = super().get_orthogonal_matrix(weights, rank, type)
        own = (matrix.T if type == "right" else matrix).reshape(-1)
        self.codes, scales = self.stored("codes"), self.stored("scales")
        largest = torch.stack([block.abs().max() for block in own.split(BLOCK)])
        assert torch.allclose(scales, largest, rtol=1e-4), f"{self.name}, step {self.step}: scales"
        scales = scales.repeat_interleave(BLOCK)[:own.numel()]
        levels = torch.stack([self.codes >> 4, self.codes & 15], 1).reshape(-1)[:own.numel()].to(torch.int64) - 8
        differing = ((own / scales * 7).round() - levels).abs()
        assert differing.sum() <= MAX_JUMPS, f"{self.name}, step {self.step}: {differing.sum()} codes differ"
        basis = (levels / 7 * scales).view(-1, rank)
        if self.refreshes:
            old = self.ortho_matrix.T if type == "right" else self.ortho_matrix
            cosine = torch.nn.functional.cosine_similarity(old[:, 0], basis[:, 0], dim=0).abs().item()
            self.similarities = (self.similarities + [cosine])[-LAZY["window"]:]
            if len(self.similarities) == LAZY["window"] and sum(self.similarities) / LAZY["window"] >= LAZY["similarity"]:
                self.update_proj_gap *= 2
        self.refreshes.append(self.step)
        return basis.T if type == "right" else basis


def oracle(trace):
    """The run, and the number of refreshes of each layer."""
    projectors = []

    def make(name, **options):
        projectors.append(LazyProjector(trace, name, **options))
        return projectors[-1]

    steps = galore_reference.oracle(trace, projector=make, refresh=REFRESH)
    return steps, [len(projector.refreshes) for projector in projectors]


def main() -> int:
    space = Workspace(sys.argv[1])
    recipe = {"method": METHOD, "optimizer": galore_reference.OPTIMIZER}
    run = space.begin(recipe)
    broken = space.begin(recipe, "method.scale=0.26", steps=30)
    others = space.begin_each(recipe, ("method.refresh.similarity=0.5", "method.refresh.window=3"))
    steps, refreshes = oracle(trace := run.result())
    print(f"refreshes of each layer: {refreshes}")
    good = len(set(refreshes)) > 1   # some layers were lazier than others
    good &= check("60 steps of Q-GaLore", compare(trace, steps), galore_reference.ALLOWED)
    good &= check_noticed("method.scale=0.26", compare(broken.result(), steps), galore_reference.ALLOWED)
    for change, run in others:
        try:
            oracle(run.result())
            good = False
            print(f"  {change}: NOT NOTICED")
        except AssertionError as found:
            print(f"  {change}: {found}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
