# SPDX-License-Identifier: Apache-2.0
"""q_galore, q_apollo and q_apollo_mini round the steps of galore-torch and apollo-torch to INT8 without bias: int8_weights.py BUILD_FOLDER

Rounding is random, so runs part. Each step of the packages begins with the trace's weights; their moments depend on gradients
only and run on their own for 60 steps. What their step makes of a weight must lie within one INT8 level of what Kumiko
stores (a level is a 127th of its block's scale), parameters in fp32 must agree, and over all steps and weights the
rounding errors must have mean zero and no share in the direction of the step: both are means of independent errors, of
which 5 standard deviations are allowed.
Q-GaLore's basis is not quantized here and its refresh not lazy, as galore-torch's.
"""
import math
import sys

import apollo_reference
import galore_reference
from support.compare import finite
from support.llama import role
from support.trace import Workspace

import torch  # noqa: E402

ALLOWED_DENSE = 1e-3    # of parameters that stay in fp32: distance over the step's length
STEPS = 60
DEVIATIONS = 5


def levels(state, name, block):
    """The distance of neighbouring values at each element: a 127th of its block's stored scale."""
    sizes = state.tensors[f"effective/{name}"].shape
    return (state.tensors[f"model/{name}.weight/scales"] / 127).repeat_interleave(block)[:sizes.numel()].view(sizes)


class Rounding:
    """Sums over steps and weights."""

    def __init__(self):
        self.largest = self.dense = self.errors = self.squares = self.along = self.along_squares = self.step_squares = 0.0
        self.count = 0

    def add(self, before, after, exact, level):
        error, level = (after - exact).double(), level.double()
        self.largest = max(self.largest, finite((error.abs() / level).max().item(), "distance in levels"))
        scaled, step = error / level, (exact - before).double()
        self.errors += scaled.sum().item()
        self.squares += scaled.square().sum().item()
        self.count += error.numel()
        self.along += (error * step).sum().item()
        self.along_squares += (error * step).square().sum().item()
        self.step_squares += step.square().sum().item()

    def fails(self):
        found = []
        for sum_ in (self.errors, self.squares, self.along, self.along_squares, self.step_squares):
            finite(sum_, "sum of rounding errors")
        if self.largest > 1.001:
            found.append("more than a level off")
        if self.dense > ALLOWED_DENSE:
            found.append("parameters in fp32 differ")
        if abs(self.errors) > DEVIATIONS * math.sqrt(self.squares):
            found.append("biased")
        if abs(self.along) > DEVIATIONS * math.sqrt(self.along_squares):
            found.append("biased along the step")
        return found

    def __str__(self):
        return (f"at most {self.largest:.3f} levels off; mean {self.errors / self.count:.1e} levels "
                f"(deviation {math.sqrt(self.squares) / self.count:.1e}); along the step {self.along / self.step_squares:.1e} of it "
                f"(deviation {math.sqrt(self.along_squares) / self.step_squares:.1e}); fp32 parameters {self.dense:.1e}")


def rounding_of(trace, steps, block):
    result = Rounding()
    for step in trace.steps:
        before, after = trace.state(step).weights(), trace.state(step + 1).weights()
        for name, exact in steps.weights[step].items():
            if role(name) == "matrices":
                result.add(before[name], after[name], exact, levels(trace.state(step + 1), name.removesuffix(".weight"), block))
            elif finite((exact - before[name]).norm().item(), f"movement of {name}, step {step},") > 0:
                share = ((after[name] - exact).norm() / (exact - before[name]).norm()).item()
                result.dense = max(result.dense, finite(share, f"{name}, step {step}"))
    return result


def check(space, title, recipe, oracle, block, broken, *arguments):
    run = space.begin(recipe, *arguments, steps=STEPS)
    others = space.begin_each(recipe, broken, *arguments, steps=STEPS)
    trace = run.result()
    found = rounding_of(trace, oracle(trace), block)
    fails = found.fails()
    print(f"{title}: {found}{'  ' + ', '.join(fails) if fails else ''}", flush=True)
    good = not fails
    for change, run in others:
        other = run.result()
        noticed = rounding_of(other, oracle(other), block).fails()
        print(f"  {change}: {', '.join(noticed) or 'NOT NOTICED'}", flush=True)
        good &= bool(noticed)
    return good


def main() -> int:
    space = Workspace(sys.argv[1])
    galore = galore_reference.METHOD | {"name": "q_galore", "quantization": {"basis": "none"}, "refresh": {"kind": "all"}}
    good = check(space, "q_galore", {"method": galore, "optimizer": galore_reference.OPTIMIZER},
                 lambda trace: galore_reference.oracle(trace, teacher=True), 256,
                 ["method.scale=0.26", "method.quantization.rounding=nearest"])
    for name in ("apollo", "apollo_mini"):
        options, _ = apollo_reference.CASES[name]
        method = {"name": f"q_{name}", "refresh": apollo_reference.REFRESH} | options
        good &= check(space, f"q_{name}", {"method": method, "optimizer": apollo_reference.OPTIMIZER},
                      lambda trace, options=options: apollo_reference.oracle(trace, options, teacher=True), 128,
                      ["method.norm_growth=1.05"], f"projections={apollo_reference.PROJECTIONS}x{options['rank']}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
