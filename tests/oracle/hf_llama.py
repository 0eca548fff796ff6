# SPDX-License-Identifier: Apache-2.0
"""Logits, loss and the gradient of every parameter are those of transformers' LLaMA: hf_llama.py BUILD_FOLDER

In fp32, whose sums differ in order: 1e-7 a sum, some ten times that through two layers. Allowed is ten times what was
measured, relative to the norm of each tensor. The weights start wide (init_std 0.2) so that attention is far from uniform.
"""
import sys

from support.compare import finite
from support.llama import backward, make_llama
from support.trace import Workspace

ALLOWED = 1e-5
WIDE = {"init_std": 0.2}
VARIANTS = {
    "grouped heads": {},
    "one key head": {"n_kv_heads": 1},
    "every head its own": {"n_kv_heads": 4},
    "tied embeddings": {"tie_embeddings": True},
    "grouped heads, tied, other constants": {"tie_embeddings": True, "rope_theta": 5e5, "norm_eps": 1e-3},
}
BROKEN = {"rope_theta": 9900.0, "norm_eps": 1e-4}


def distance(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


def largest_difference(space, changes, assumed):
    """Of logits, loss and gradients, between a trace with `changes` of the block model and transformers with `assumed`."""
    recipe = {"method": {"name": "full"}, "optimizer": {"lr": 0.001}, "model": WIDE | changes}
    trace = space.trace(recipe, steps=1)
    model = make_llama(trace.state(0), {"model": WIDE | assumed})
    batches = trace.batches(0)
    result = {"logits": distance(trace.logits, model(batches[0][0]).logits.detach())}
    loss = backward(model, batches)
    result["loss"] = abs(trace.report(0)["loss"] - loss) / loss
    found = trace.state(1).below("grad/")
    wanted = {name: p.grad for name, p in model.named_parameters()}
    assert set(found) == set(wanted), set(found) ^ set(wanted)
    for name, grad in wanted.items():
        result[name] = distance(found[name], grad)
    return max((finite(value, name), name) for name, value in result.items())


def main() -> int:
    space = Workspace(sys.argv[1])
    good = True
    for title, changes in VARIANTS.items():
        apart, where = largest_difference(space, changes, changes)
        good &= apart <= ALLOWED
        print(f"{title}: at most {apart:.1e} apart ({where}); allowed {ALLOWED:.0e}", flush=True)
    for key, value in BROKEN.items():
        apart, where = largest_difference(space, {key: value}, {})
        good &= apart > 10 * ALLOWED
        print(f"  {key} {value} instead: {apart:.1e} ({where})", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
