# SPDX-License-Identifier: Apache-2.0
"""lora, qlora, low_rank and relora take the steps of peft's LoRA on transformers' LLaMA under AdamW: peft_lora.py BUILD_FOLDER

60 steps in fp32. qlora's oracle encodes lora's initial weights in NF4 by bitsandbytes: codes are equal, scales to fp32.
low_rank's has a base of zeros with scale 1. ReLoRA is peft's model with its delta added to the base, the new A taken from the
trace, since it is random, and AdamW's moments pruned; two restarts. Sums differ in order by some 1e-7, which AdamW raises where
gradients are near eps: at first those of A, which the zeros in B make small. Allowed is about ten times what was measured.
"""
import math
import sys

from support.compare import Apart, check, check_noticed, compare, finite
from support.llama import groups_of, make_llama, run
from support.nf4 import Nf4
from support.trace import Workspace

import peft  # noqa: E402
import torch  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402

ALLOWED = Apart(loss=2e-6, weights=3e-4)
ALLOWED_PRUNED = Apart(loss=1e-5, weights=2e-3)   # an element next to the quantile may fall on either side
ALLOWED_BASE = 1e-6                               # of qlora's decoded weights and its scales: distance over the norm
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA = 16, 24.0
BROKEN_STEPS = 30   # enough to notice
BETAS, EPS, DECAY = (0.9, 0.98), 1e-6, 0.1
LR_SCALE = {"matrices": 2.0, "embedding": 1.5}
OPTIMIZER = {"name": "adamw", "lr": 0.003, "lr_scale": LR_SCALE, "betas": BETAS, "eps": EPS, "weight_decay": DECAY}
WARMUP, RESTARTS, RESTART_WARMUP, PRUNED = 5, [20, 40], 4, 0.9
RELORA = {"schedule": {"kind": "at_steps", "steps": RESTARTS}, "restart_warmup_steps": RESTART_WARMUP}


def recipe(method):
    return {"method": {"rank": RANK} | method, "optimizer": OPTIMIZER}


class Lora:
    """peft's model with the factors and the frozen weights of a state."""

    def __init__(self, state, alpha=ALPHA, base=None):
        config = peft.LoraConfig(r=RANK, lora_alpha=alpha, lora_dropout=0.0, target_modules=TARGETS, bias="none")
        self.model = peft.get_peft_model(make_llama(state), config)
        self.layers = {name.removeprefix("base_model.model."): module for name, module in self.model.named_modules()
                       if isinstance(module, LoraLayer)}
        assert len(self.layers) == 14
        for name, p in self.model.named_parameters():
            p.requires_grad_("base_layer" not in name)   # all but the matrices trains
        for name, layer in self.layers.items():
            self.set_factor(state, name, "lora_A")
            self.set_factor(state, name, "lora_B")
            if base is not None:
                layer.base_layer.weight.data.copy_(base(name))
        self.optimizer = torch.optim.AdamW(groups_of(self.model, LR_SCALE, DECAY), betas=BETAS, eps=EPS)

    def factor(self, name, which):
        return getattr(self.layers[name], which)["default"].weight

    def set_factor(self, state, name, which):
        self.factor(name, which).data.copy_(state.tensors[f"model/{name}.{which}"])

    @torch.no_grad()
    def weights(self, _model=None):
        found = {}
        for name, p in self.model.named_parameters():
            if "lora_" not in name and "base_layer" not in name:
                found[name.removeprefix("base_model.model.")] = p.detach().clone()
        for name, layer in self.layers.items():
            found[f"{name}.weight"] = layer.base_layer.weight + layer.get_delta_weight("default")
        return found

    @torch.no_grad()
    def restart(self, state, prune):
        for name, layer in self.layers.items():
            layer.base_layer.weight += layer.get_delta_weight("default")
            self.set_factor(state, name, "lora_A")
            self.factor(name, "lora_B").zero_()
            for which in ("lora_A", "lora_B"):
                prune(self.optimizer.state, self.factor(name, which))

    def run(self, trace, **hooks):
        return run(trace, self.model, self.optimizer, weights=self.weights, **hooks)


def forget(states, p):
    states.pop(p)


def keep_largest(states, p):
    """Zeroes what is not above the quantile, as the authors' code does."""
    for name in ("exp_avg", "exp_avg_sq"):
        moment = states[p][name]
        moment.mul_(moment.abs() > torch.quantile(moment.abs(), PRUNED))


def expected_rate(step):
    """Warm-up, cosine to a tenth at step 60, and after a restart another warm-up that begins with 0."""
    rate = step / WARMUP if step < WARMUP else 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (60 - WARMUP)))
    since = min((step - restart for restart in RESTARTS if restart <= step), default=RESTART_WARMUP)
    return OPTIMIZER["lr"] * rate * min(1.0, since / RESTART_WARMUP)


def check_lora(space):
    method = recipe({"name": "lora", "alpha": ALPHA})
    whole = space.begin(method)
    others = space.begin_each(method, ("method.alpha=24.5", "optimizer.betas=[0.91, 0.98]"), steps=BROKEN_STEPS)
    trace = whole.result()
    steps = Lora(trace.state(0)).run(trace)
    good = check("lora", compare(trace, steps), ALLOWED)
    for change, broken_run in others:
        good &= check_noticed(change, compare(broken_run.result(), steps), ALLOWED)
    return good & check_qlora(space, trace.state(0))


def base_differences(state, bases):
    """Codes that differ, and the largest distance of the scales and of the decoded weights."""
    codes, apart = 0, 0.0
    for name, base in bases.items():
        found = Nf4.read(state, f"model/{name}.weight")
        codes += found.differing(base)
        pairs = [(found.parts[part], base.parts[part]) for part in ("scale_offset", "scale_absmax")]
        for ours, theirs in [*pairs, (state.tensors[f"effective/{name}"], base.decode())]:
            apart = max(apart, finite(((ours - theirs).norm() / theirs.norm()).item(), name))
    return codes, apart


def check_qlora(space, lora):
    method = recipe({"name": "qlora", "alpha": ALPHA})
    whole, other = space.begin(method), space.begin(method, "method.alpha=24.5", steps=BROKEN_STEPS)
    fp4 = space.begin(method, "method.quantization.weights=fp4", steps=1)
    trace = whole.result()
    bases = {name: Nf4.encode(weight) for name, weight in lora.below("effective/").items()}
    codes, apart = base_differences(trace.state(0), bases)
    good = codes == 0 and apart <= ALLOWED_BASE
    print(f"qlora's base: {codes} codes differ, {apart:.1e} apart; allowed: 0 and {ALLOWED_BASE:.0e}{'' if good else '  TOO FAR'}")
    codes, apart = base_differences(fp4.result().state(0), bases)
    noticed = codes > 0 and apart > 10 * ALLOWED_BASE
    print(f"  method.quantization.weights=fp4: {codes} codes differ, {apart:.1e} apart{'' if noticed else '  NOT NOTICED'}")
    steps = Lora(trace.state(0), base=lambda name: bases[name].decode()).run(trace)
    good &= noticed & check("qlora", compare(trace, steps), ALLOWED)
    return good & check_noticed("method.alpha=24.5", compare(other.result(), steps), ALLOWED)


def check_low_rank(space):
    change = "optimizer.weight_decay=0.11"
    whole, other = space.begin(recipe({"name": "low_rank"})), space.begin(recipe({"name": "low_rank"}), change)
    trace = whole.result()
    steps = Lora(trace.state(0), alpha=RANK, base=lambda name: 0.0 * trace.state(0).tensors[f"effective/{name}"]).run(trace)
    good = check("low_rank", compare(trace, steps), ALLOWED)
    return good & check_noticed(change, compare(other.result(), steps), ALLOWED)


def check_relora(space, moments, prune, allowed, broken):
    method = recipe({"name": "relora", "alpha": ALPHA, "moments": moments} | RELORA)
    whole, others = space.begin(method), space.begin_each(method, broken, steps=BROKEN_STEPS)
    trace = whole.result()
    for step in trace.steps:
        found = trace.report(step)["lr"]
        assert math.isclose(found, expected_rate(step), rel_tol=1e-12, abs_tol=1e-15), (step, found, expected_rate(step))
    lora = Lora(trace.state(0))

    def after_step(step):
        if step + 1 in RESTARTS:
            lora.restart(trace.state(step + 1), prune)

    steps = lora.run(trace, after_step=after_step)
    good = check(f"relora, moments {moments['kind']}", compare(trace, steps), allowed)
    for change, broken_run in others:
        good &= check_noticed(change, compare(broken_run.result(), steps), allowed)
    return good


def main() -> int:
    space = Workspace(sys.argv[1])
    good = check_lora(space)
    good &= check_low_rank(space)
    good &= check_relora(space, {"kind": "reset"}, forget, ALLOWED,
                         ["method.restart_warmup_steps=5", "method.alpha=24.5", "method.schedule.steps=[21, 40]"])
    good &= check_relora(space, {"kind": "magnitude", "pruned": PRUNED}, keep_largest, ALLOWED_PRUNED, ["method.moments.pruned=0.95"])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
