# SPDX-License-Identifier: Apache-2.0
"""transformers finds the validation perplexity of `kumiko eval` in a run's final/ folder: hf_perplexity.py BUILD_FOLDER

Trains tiny models, loads each final/ folder with AutoModelForCausalLM and AutoTokenizer, and scores the tokens of the validation
shard, cut as the evaluation cuts them. Needs the packages transformers, torch and h5py; ends with 77 where they are missing.
"""
import io
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import h5py
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    print(f"skipped: {error}; ci/setup.sh --oracles installs it")
    sys.exit(77)

ALLOWED = 0.005   # relative
HEADER = 512      # bytes before the HDF5 image of a shard
LENGTH = 48       # data.sequence_length
EVAL_TOKENS = 3000
RECIPE = f"""
model: {{hidden_size: 64, intermediate_size: 91, n_layers: 3, n_heads: 4, max_sequence_length: 128}}
data:
  train: shards/train-*.h5
  validation: shards/val-*.h5
  sequence_length: {LENGTH}
  prepare: {{inputs: corpus, vocab_size: 390, validation: 0.15}}
method: METHOD
optimizer: {{lr: 0.01}}
lr_schedule: {{warmup_steps: 5}}
train: {{steps: 70, global_batch_size: 16, micro_batch_size: 8}}
eval: {{every: 70, tokens: {EVAL_TOKENS}}}
log: {{every: 70, tensorboard: false}}
"""
LOQT = "{name: loqt, rank: 16, schedule: {kind: static, tau: 20}}"
RUNS = {
    "fp32": ["train.precision=fp32"],
    "fp32, grouped heads, tied": ["train.precision=fp32", "model.n_kv_heads=2", "model.tie_embeddings=true"],
    "bf16": ["train.precision=bf16"],
    "bf16, grouped heads, tied": ["train.precision=bf16", "model.n_kv_heads=1", "model.tie_embeddings=true"],
    "fp32, full rank, other constants": ["train.precision=fp32", "model.rope_theta=500000", "model.norm_eps=1e-3"],
}


def write_corpus(folder):
    """Texts with a grammar, indentation, digits and letters outside ASCII; returns them."""
    folder.mkdir()
    draw = random.Random(3)
    texts = []
    for number in range(500):
        lines = [f"def piece_{number}(width={draw.randrange(1000)}):"]
        for _ in range(draw.randrange(2, 9)):
            verb = draw.choice(["cut", "plane", "join", "fit", "größe", "組子"])
            lines.append(draw.choice(["    ", "\t", "        "]) + f"{verb}({draw.choice('abcxyz')}, {draw.choice(['cedar', 'cypress', '🙂'])})")
        texts.append("\n".join(lines) + "\n" * draw.randrange(3))
        (folder / f"{number}.txt").write_text(texts[-1], newline="")
    return texts


def read_shard(path):
    """Tokens, document offsets and the id that ends a document."""
    with h5py.File(io.BytesIO(path.read_bytes()[HEADER:]), "r") as file:
        return file["tokens"][:].astype("int64"), file["document_offsets"][:], int(file.attrs["eos_id"])


def perplexity(model, tokens):
    """exp of the mean loss over the targets: windows of LENGTH inputs that share one token, the last shorter, EVAL_TOKENS at most."""
    total, count = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(tokens) - 1, LENGTH):
            window = torch.tensor(tokens[first:first + LENGTH + 1])[:EVAL_TOKENS - count + 1]
            logits = model(window[None, :-1]).logits[0].double()
            total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
            count += len(window) - 1
            if count == EVAL_TOKENS:
                break
    return math.exp(total / count), count


def check_tokenizer(tokenizer, shard, texts):
    """The ids of every document of the shard, and its text, are those of AutoTokenizer."""
    tokens, offsets, eos = shard
    assert tokenizer.eos_token_id == eos, (tokenizer.eos_token_id, eos)
    known = set(texts)
    for begin, end in zip(offsets[:-1], offsets[1:]):
        ids = tokens[begin:end].tolist()
        assert ids[-1] == eos, ids
        text = tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False)
        assert text in known, f"decoded to no text of the corpus: {text!r}"
        found = tokenizer.encode(text, add_special_tokens=False)
        assert found == ids[:-1], f"{found} instead of {ids[:-1]} for {text!r}"
    return len(offsets) - 1


def kumiko(program, folder, *arguments):
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"kumiko {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def value_of(output, name):
    return float(next(line for line in output.splitlines() if line.startswith(name + ": ")).split(": ")[1])


def main() -> int:
    program = Path(sys.argv[1]).resolve() / "kumiko"
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = write_corpus(folder / "corpus")
        for number, (title, changes) in enumerate(RUNS.items()):
            (folder / "recipe.yaml").write_text(RECIPE.replace("METHOD", "{name: full}" if "full rank" in title else LOQT))
            run = f"run{number}"
            kumiko(program, folder, "train", "recipe.yaml", f"output_dir={run}", *changes)
            report = kumiko(program, folder, "eval", run)
            shard = read_shard(folder / "shards" / "val-00000.h5")
            model = AutoModelForCausalLM.from_pretrained(folder / run / "final", dtype=torch.float32).eval()
            theirs, count = perplexity(model, shard[0])
            ours = value_of(report, "validation perplexity")
            assert count == value_of(report, "tokens") == EVAL_TOKENS, (count, report)
            documents = check_tokenizer(AutoTokenizer.from_pretrained(folder / run / "final"), shard, texts)
            difference = abs(theirs - ours) / ours
            failures += not difference <= ALLOWED   # NaN too
            print(f"{title}: kumiko {ours:.6f}, transformers {theirs:.6f}, {100 * difference:.4f} % apart over {count} tokens; "
                  f"the ids of {documents} documents agree", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
