# SPDX-License-Identifier: Apache-2.0
"""Two runs from one state, step by step."""
from dataclasses import dataclass, field


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

    `starts`: the weights that a step began with, where they were the trace's; movement counts from there.
    """
    start: dict
    losses: dict = field(default_factory=dict)
    weights: dict = field(default_factory=dict)
    starts: dict = field(default_factory=dict)


def compare(trace, oracle):
    """Of every step of the trace; the oracle may have taken more."""
    result = Apart()
    for step in trace.steps:
        loss = oracle.losses[step]
        ours = trace.report(step)["loss"]
        result.loss = max(result.loss, abs(ours - loss) / abs(loss))
        found = trace.state(step + 1).weights()
        theirs, start = oracle.weights[step], oracle.starts.get(step, oracle.start)
        assert set(found) == set(theirs), set(found) ^ set(theirs)
        for name, wanted in theirs.items():
            moved = (wanted - start[name]).norm().item()
            apart = (found[name] - wanted).norm().item()
            share = apart / moved if moved > 1e-7 * wanted.norm().item() else (0.0 if apart == 0.0 else float("inf"))
            if share > result.weights:
                result.weights, result.where = share, f"{name}, step {step}"
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
