# SPDX-License-Identifier: Apache-2.0
"""Two runs from one state, step by step."""
import math
from dataclasses import dataclass, field


def finite(value, what):
    """`value`; every comparison with NaN is false, and max() may drop it."""
    assert math.isfinite(value), f"{what} is {value}"
    return value


@dataclass
class Apart:
    """How far a run is from the oracle's: the largest over the steps."""
    loss: float = 0.0          # relative
    weights: float = 0.0       # distance of two matrices over what the oracle's has moved from the start; of all matrices
    where: str = ""            # of `weights`

    def __str__(self):
        return f"loss {self.loss:.1e}, weights {self.weights:.1e} ({self.where})"

    def within(self, allowed):
        return self.loss <= allowed.loss and self.weights <= allowed.weights


@dataclass
class Steps:
    """The oracle's run: `losses` by step, and `weights` after each step by transformers' names.

    `teacher`: the trace whose weights each step began with, if any; movement counts from there. Only that trace can be compared:
    what another has drifted in all its steps would count as the difference of one.
    """
    start: dict
    teacher: object = None
    losses: dict = field(default_factory=dict)
    weights: dict = field(default_factory=dict)


def compare(trace, oracle):
    """Of every step of the trace; the oracle may have taken more."""
    assert oracle.teacher in (None, trace), "the oracle began its steps with another trace's weights"
    result = Apart()
    for step in trace.steps:
        loss = oracle.losses[step]
        ours = trace.report(step)["loss"]
        result.loss = max(result.loss, finite(abs(ours - loss) / abs(loss), f"difference of the losses {ours} and {loss}, step {step},"))
        found = trace.state(step + 1).weights()
        theirs, start = oracle.weights[step], trace.state(step).weights() if oracle.teacher else oracle.start
        assert set(found) == set(theirs), set(found) ^ set(theirs)
        for name, wanted in theirs.items():
            where = f"{name}, step {step}"
            moved = finite((wanted - start[name]).norm().item(), f"movement of {where},")
            apart = finite((found[name] - wanted).norm().item(), f"distance of {where},")
            if moved <= 1e-7 * wanted.norm().item():
                assert apart == 0.0, f"{where} moved by {apart}, the oracle's did not"
            elif apart / moved > result.weights:
                result.weights, result.where = finite(apart / moved, f"share of {where},"), where
    return result


def check(title, found, allowed):
    """Prints; True if within."""
    good = found.within(allowed)
    print(f"{title}: {found}; allowed: loss {allowed.loss:.0e}, weights {allowed.weights:.0e}{'' if good else '  TOO FAR'}", flush=True)
    return good


def check_noticed(title, found, allowed):
    """Of a run with one constant changed: True if it is far beyond what is allowed."""
    noticed = found.weights > 10 * allowed.weights
    print(f"  {title}: {found}{'' if noticed else '  NOT NOTICED'}", flush=True)
    return noticed
