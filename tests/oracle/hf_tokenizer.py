# SPDX-License-Identifier: Apache-2.0
"""Compares an exported tokenizer, as transformers reads it, with SentencePiece's own reading of the model.

usage: hf_tokenizer.py BUILD_FOLDER

Trains a tokenizer on this repository's sources with the binary, exports it, and encodes the sources and odd texts with both.
Exits with 1 at the first text whose ids differ or that does not come back, with 77 where a package is missing.
"""
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import sentencepiece
    from transformers import AutoTokenizer
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["framework", "data", "quant"]


def texts(paths):
    yield from (Path(path).read_bytes().decode() for path in paths)
    yield from ["", " ", "\n", "\t\t\t\t\t\t", "\r\n", " a  b   c ", "日本語 🙂 é\u0301 \u00a0", "<0x0A>", "x" * 300]
    for run in range(1, 70):
        yield "x" + " " * run + "y" + "\n" * run + "z" + "=" * run + "\t" * run
    random.seed(1)
    for _ in range(300):
        points = (random.choice([random.randrange(1, 0x80), random.randrange(0x80, 0x3000), random.randrange(0x10000, 0x20000)])
                  for _ in range(60))
        yield "".join(chr(point) for point in points if point != 0x2581)


def main():
    binary = Path(sys.argv[1]).resolve() / "kumiko"
    with tempfile.TemporaryDirectory() as scratch:
        model = f"{scratch}/tokenizer.model"
        folder = f"{scratch}/exported"
        subprocess.run([binary, "tokenizer", "train", *FOLDERS, "--suffix", ".cpp", "--vocab-size", "2048", "--output", model],
                       cwd=ROOT, check=True)
        subprocess.run([binary, "tokenizer", "export", model, "--output", folder], check=True)
        ours = sentencepiece.SentencePieceProcessor(model_file=model)
        theirs = AutoTokenizer.from_pretrained(folder)
    compare(ours, theirs, sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.cpp")))


def compare(ours, theirs, paths):
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id(), ours.eos_id())
    assert len(theirs) == ours.get_piece_size(), (len(theirs), ours.get_piece_size())
    count = 0
    for text in texts(paths):
        for part in re.findall(r".{1,4000}", text, re.S):
            if re.search(r"</?s>|<unk>|\u2581", part):
                continue
            expected = ours.encode(part)
            found = theirs.encode(part, add_special_tokens=False)
            if found != expected:
                at = next((i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), min(len(found), len(expected)))
                sys.exit(f"ids differ at {at}: {found[at - 2:at + 5]} instead of {expected[at - 2:at + 5]} in {part[:60]!r}")
            if theirs.decode(found, clean_up_tokenization_spaces=False) != part:
                sys.exit(f"text does not come back: {part[:60]!r}")
            count += len(expected)
    print(f"{count} tokens are the same")


if __name__ == "__main__":
    main()
