# SPDX-License-Identifier: Apache-2.0
"""LoQT as reference code has it, on autograd: W frozen, a factor B trained against a basis P of the gradient, merged at times.

W [out, in]. in <= out: P [in, r], B [r, out], y = x W^T + s (x P) B; else P [out, r], B [in, r], y = x W^T + s (x B) P^T.
"""
import torch
from torch import nn

from support.llama import backward, make_llama, matrices
from support.nf4 import Nf4


class Dense:
    """What stands for Nf4 where nothing is quantized."""

    def __init__(self, dense):
        self.dense = dense.clone()

    def decode(self):
        return self.dense


class LoqtLinear(nn.Module):
    def __init__(self, weight, options):
        super().__init__()
        self.weight, self.options = weight, options
        self.basis, self.p = None, None
        self.w = weight.decode()
        out_features, in_features = self.w.shape
        self.input_side = in_features <= out_features
        rank = options["rank"]
        self.factor = nn.Parameter(torch.zeros((rank, out_features) if self.input_side else (in_features, rank)))
        self.figures = {}    # of the last merge: energy in the basis, what was lost of the weight, what was kept of the update
        self.probed = None   # the merged W while a probe takes its gradient

    def lift(self, factor):
        return (self.p @ factor).T if self.input_side else self.p @ factor.T

    def effective(self):
        with torch.no_grad():
            return self.w if self.p is None else self.w + self.options["scale"] * self.lift(self.factor)

    def forward(self, x):
        if self.probed is not None:
            return x @ self.probed.T
        y = x @ self.w.T
        if self.p is None:
            return y
        low = (x @ self.p) @ self.factor if self.input_side else (x @ self.factor) @ self.p.T
        return y + self.options["scale"] * low

    def fit_basis(self, gradient):
        u, sizes, vt = torch.linalg.svd(gradient, full_matrices=False)
        energies = sizes.double().square()
        self.figures = {"captured_energy": (energies[:self.options["rank"]].sum() / energies.sum()).item()}
        p = (vt.T if self.input_side else u)[:, :self.options["rank"]]
        # An SVD leaves signs open; NF4 is not symmetric, so they matter: the largest entry of each column is positive.
        p = p * torch.where(p.gather(0, p.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
        self.basis = Nf4.encode(p) if self.options["quantized"] else Dense(p)
        self.p = self.basis.decode()

    @torch.no_grad()
    def merge(self, gradient):
        """Folds B into W, takes a new basis and splits W again; returns P_new^T P_old."""
        scale, merged, before, old = self.options["scale"], self.effective(), self.w, self.p
        self.fit_basis(gradient)
        if not self.options["quantized"]:
            self.weight, self.w = Dense(merged), merged
            self.factor.zero_()
        else:
            inverse, best, target = torch.linalg.pinv(self.p), None, merged
            for _ in range(self.options["compensation_iterations"]):
                weight = Nf4.encode(target)
                residual = merged - weight.decode()
                factor = inverse @ (residual.T if self.input_side else residual) / scale
                factor = factor if self.input_side else factor.T
                error = (residual - scale * self.lift(factor)).norm()
                if best is None or error < best[0]:
                    best = error, weight, factor.clone()
                target = merged - scale * self.lift(factor)
            _, self.weight, factor = best
            self.w = self.weight.decode()
            self.factor.copy_(factor)
        after, update = self.effective(), merged - before
        self.figures["weight_error"] = ((merged - after).norm() / merged.norm()).item()
        if old is not None:
            self.figures["retained_update"] = ((after - before) * update).double().sum().item() / update.double().square().sum().item()
        return None if old is None else self.p.T @ old


class Loqt:
    """A model and its AdamW."""

    def __init__(self, state, options, optimizer):
        self.model = make_llama(state)
        self.layers, self.options = {}, options
        for name in matrices(self.model):
            weight = Nf4.read(state, f"model/{name}.weight") if options["quantized"] else Dense(state.tensors[f"effective/{name}"])
            self.layers[name] = LoqtLinear(weight, options)
            parent, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent), child, self.layers[name])
        self.dense = {name: p for name, p in self.model.named_parameters() if not name.endswith(".factor")}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, betas=optimizer["betas"], eps=optimizer["eps"],
                                           weight_decay=0.0)

    def train(self, batches, lr):
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad()
        loss = backward(self.model, batches)
        self.optimizer.step()
        return loss

    def probe(self, batches):
        """Takes no optimizer step."""
        for layer in self.layers.values():
            layer.probed = layer.effective().clone().requires_grad_()
        self.optimizer.zero_grad()
        loss = backward(self.model, batches)
        for layer in self.layers.values():
            gradient, layer.probed = layer.probed.grad, None
            self.carry_moments(layer, layer.merge(gradient))
        return loss

    def carry_moments(self, layer, rotation):
        moments = self.optimizer.state[layer.factor]
        if not moments:
            return
        if self.options["moments"] == "reset":
            self.optimizer.state[layer.factor] = {}
        elif self.options["moments"] == "rotate" and rotation is not None:
            for name, turn in (("exp_avg", rotation), ("exp_avg_sq", rotation.square())):
                value = moments[name]
                moments[name] = turn @ value if layer.input_side else value @ turn.T

    def weights(self):
        found = {name: p.detach().clone() for name, p in self.dense.items()}
        return found | {f"{name}.weight": layer.effective().clone() for name, layer in self.layers.items()}

    def tensors(self):
        """Under the names of a trainer's state."""
        found = {f"model/{name}": p for name, p in self.dense.items()}
        for name, layer in self.layers.items():
            found[f"model/{name}.factor"] = layer.factor
            found |= layer.weight.named(f"model/{name}.weight")
            if layer.basis is not None:
                found |= layer.basis.named(f"model/{name}.basis")
        owners = self.dense | {f"{name}.factor": layer.factor for name, layer in self.layers.items()}
        for name, p in owners.items():
            found |= {f"optimizer/{name}/{part}": value for part, value in self.optimizer.state[p].items()}
        return found
