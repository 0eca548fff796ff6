# SPDX-License-Identifier: Apache-2.0
"""Runs of the program oracle_trace, and what it wrote."""
import copy
import json
import random
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

RECIPE = {
    "model": {"hidden_size": 64, "intermediate_size": 91, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_sequence_length": 64,
              "init_std": 0.05},
    "data": {"train": "shards/train-*.h5", "validation": "shards/val-*.h5", "sequence_length": 32,
             "prepare": {"inputs": "corpus", "vocab_size": 384, "validation": 0.1}},
    "lr_schedule": {"kind": "cosine", "warmup_steps": 5, "min_ratio": 0.1},
    "train": {"steps": 60, "global_batch_size": 8, "micro_batch_size": 4, "precision": "fp32", "seed": 7, "threads": 1},
    "output_dir": "run",
}
BITS = "bits/"   # before the names of fp64 tensors, which are written as int64
DECODERS = {"i": int, "r": float, "t": str}


class State:
    """A trainer's state before a step: tensors and numbers by name; `effective` and `grad` beside them."""

    def __init__(self, path):
        self.tensors, self.values = {}, {}
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                value = file.get_tensor(name)
                self.tensors[name.removeprefix(BITS)] = value.view(torch.float64) if name.startswith(BITS) else value
            for name, text in file.metadata().items():
                if text[:1] in DECODERS and name != "format":
                    self.values[name] = DECODERS[text[0]](text[1:])

    def below(self, prefix):
        return {name[len(prefix):]: value for name, value in self.tensors.items() if name.startswith(prefix)}

    def weights(self):
        """What the model multiplies by, under the names of transformers."""
        dense = {name: value for name, value in self.below("model/").items() if name.endswith(("norm.weight", "embed_tokens.weight",
                                                                                              "lm_head.weight"))}
        return dense | {name + ".weight": value for name, value in self.below("effective/").items()}

    def changed(self, tensors):
        """A copy with other tensors of the same names, dtypes and sizes."""
        result = copy.copy(self)
        result.tensors = dict(self.tensors)
        for name, value in tensors.items():
            old = self.tensors[name]
            assert (value.dtype, value.shape) == (old.dtype, old.shape), (name, value.dtype, value.shape, old.dtype, old.shape)
            result.tensors[name] = value.detach().clone().contiguous()
        return result

    def save(self, path):
        letters = {int: "i", float: "r", str: "t"}
        metadata = {name: letters[type(value)] + (repr(value) if isinstance(value, float) else str(value))
                    for name, value in self.values.items()}
        wide = {name for name, value in self.tensors.items() if value.dtype == torch.float64}
        tensors = {BITS + name if name in wide else name: value.view(torch.int64) if name in wide else value
                   for name, value in self.tensors.items()}
        save_file(tensors, path, metadata | {"format": "pt"})


class Trace:
    """A run: a state before each step and one after the last, the batches and the reports of the steps."""

    def __init__(self, folder):
        self.folder = folder
        self.reports = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
        self.first = self.reports[0]["step"]
        self.steps = range(self.first, self.first + len(self.reports))
        self._states = {}

    def state(self, step):
        if step not in self._states:
            self._states[step] = State(self.folder / f"state-{step:03d}.safetensors")
        return self._states[step]

    def report(self, step):
        return self.reports[step - self.first]

    def batches(self, step):
        """(tokens, targets) of each micro-batch."""
        with safe_open(self.folder / f"batch-{step:03d}.safetensors", framework="pt") as file:
            count = len(file.keys()) // 2
            return [(file.get_tensor(f"{i}/tokens"), file.get_tensor(f"{i}/targets")) for i in range(count)]

    @cached_property
    def logits(self):
        with safe_open(self.folder / "logits.safetensors", framework="pt") as file:
            return file.get_tensor("logits")

    @cached_property
    def projections(self):
        with safe_open(self.folder / "projections.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}


def merge(base, changes):
    result = dict(base)
    for key, value in changes.items():
        result[key] = merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return result


class Workspace:
    """A temporary folder with a corpus, in which oracle_trace runs."""

    def __init__(self, build):
        self.program = Path(build).resolve() / "tests" / "oracle_trace"
        self.holder = tempfile.TemporaryDirectory()
        self.folder = Path(self.holder.name)
        self.runs = 0
        self.pool = ThreadPoolExecutor(2)
        (self.folder / "corpus").mkdir()
        draw = random.Random(11)
        nouns = ["cedar", "cypress", "panel", "lattice", "joint", "chisel", "plane", "saw", "hinoki", "frame"]
        verbs = ["cuts", "planes", "joins", "fits", "marks", "holds", "slides into", "rests on"]
        for number in range(60):
            lines = []
            for _ in range(draw.randrange(12, 30)):
                lines.append(f"The {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)} {draw.randrange(100)} times.")
            (self.folder / "corpus" / f"{number}.txt").write_text("\n".join(lines) + "\n")

    def trace(self, recipe, *overrides, steps=60, start=None):
        """Takes `steps` steps of RECIPE changed by `recipe` and then by overrides "a.b=value", from the State `start` or the first."""
        return self.begin(recipe, *overrides, steps=steps, start=start).result()

    def begin(self, recipe, *overrides, steps=60, start=None):
        """Like trace, but returns its future: what runs while other work is done takes no time of its own."""
        self.runs += 1
        run = self.pool.submit(self._take, f"trace{self.runs}", recipe, overrides, steps, start)
        if self.runs == 1:
            run.exception()   # it makes the shards that the others read
        return run

    def begin_each(self, recipe, changes, *overrides, steps=60):
        """[(change, future of the run with it)]"""
        return [(change, self.begin(recipe, *overrides, change, steps=steps)) for change in changes]

    def _take(self, name, recipe, overrides, steps, start):
        (self.folder / f"{name}.yaml").write_text(json.dumps(merge(RECIPE, recipe), indent=1))
        command = [self.program, f"{name}.yaml", name, str(steps)]
        if start is not None:
            start.save(self.folder / f"{name}.safetensors")
            command.append(f"from={name}.safetensors")
        done = subprocess.run([*command, *overrides], cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"oracle_trace ended with {done.returncode}: {done.stdout}{done.stderr}")
        return Trace(self.folder / name)

