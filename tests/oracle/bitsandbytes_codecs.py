# SPDX-License-Identifier: Apache-2.0
"""Compares the block codecs with other implementations.

usage: bitsandbytes_codecs.py BUILD_DIR      (needs bitsandbytes, numpy, torch)

NF4 and FP4 against bitsandbytes 0.50.2: codes, scales and decoded values are equal in every bit, but for the
sign of FP4's second zero, which bitsandbytes decodes to 0 or -0 depending on the instruction set. The doubled
scales are checked in two steps: the offset is a mean that bitsandbytes sums in fp32 and Kumiko in fp64, so it
may differ by rounding; from our own offset, the 8-bit codes are those of the map's fp32 midpoints.
bitsandbytes' CPU library finds them through a table of 2^16 steps, so next to a midpoint it may take the other
neighbour. INT4 and INT8 are held to a few lines of numpy in fp64: off a tie by more than 1e-5 of a step codes
are equal, and decoded values are within 1e-6 of the block's largest.
"""

import math
import os
import subprocess
import sys
import tempfile

import numpy as np

# Compiling each input size anew would take minutes.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import bitsandbytes.functional as bnb  # noqa: E402
import torch  # noqa: E402

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
CODECS = ("nf4", "fp4", "int4", "int8")
GROUP = 256
TABLE_STEP = 2.0**-16


def inputs():
    rng = np.random.default_rng(20240526)
    normal = rng.standard_normal
    yield "random", normal(3 * 4096)
    yield "random, odd count", normal(5461 * 3)
    yield "random, short last block", normal(64 * 300 + 1)
    yield "one element", normal(1)
    yield "uniform", rng.uniform(-1, 1, 70001)
    yield "weights", normal(1376 * 128) * 0.02
    yield "constant", np.full(5000, 0.37)
    yield "constant, negative", np.full(5001, -1234.5)
    yield "zeros", np.zeros(4200)
    yield "zero blocks among others", normal(9000) * (np.arange(9000) // 700 % 2)
    yield "denormal", normal(9000) * 1e-39
    yield "smallest denormals", rng.integers(-3, 4, 9000) * 1.401298464324817e-45
    yield "around the clamp", normal(9000) * 1e-38
    yield "huge", np.clip(normal(9000), -3.4, 3.4) * 1e38
    yield "all magnitudes", rng.choice([-1.0, 1.0], 20000) * 2.0 ** rng.uniform(-149, 127.9, 20000)
    yield "one outlier a block", np.where(np.arange(9000) % 64 == 5, 1000.0, normal(9000) * 0.01)
    yield "thresholds", threshold_values()


def threshold_values():
    rows = []
    for name in ("nf4", "fp4"):
        code = np.sort(bnb.get_4bit_type(name, device="cpu").numpy())
        middle = (code[1:] + code[:-1]) / np.float32(2)
        around = [np.nextafter(middle, np.float32(-2)), middle, np.nextafter(middle, np.float32(2))]
        rows.append(np.concatenate([*around, np.ones(64 - 45, np.float32)]))
    return np.concatenate(rows * 35)


def run_tool(tool, values, folder):
    """Codec and block size -> the parts of the value."""
    source, result = os.path.join(folder, "in"), os.path.join(folder, "out")
    values.tofile(source)
    formats = [(codec, block_size) for codec in CODECS for block_size in BLOCK_SIZES]
    subprocess.run([tool, source, result, *(f"{codec}:{size}" for codec, size in formats)], check=True)
    data = open(result, "rb").read()
    n, at, runs = values.size, 0, {}
    for codec, block_size in formats:
        blocks = math.ceil(n / block_size)
        groups = math.ceil(blocks / GROUP)
        parts = runs[codec, block_size] = {}
        for name, dtype, count in (
            ("codes", np.uint8, n if codec == "int8" else (n + 1) // 2),
            ("scales", np.float32, blocks),
            ("scale_codes", np.uint8, blocks),
            ("offset", np.float32, 1),
            ("group_scales", np.float32, groups),
            ("plain", np.float32, n),
            ("doubled", np.float32, n),
        ):
            parts[name] = np.frombuffer(data, dtype, count, at)
            at += parts[name].nbytes
    assert at == len(data), f"{len(data)} bytes, expected {at}"
    return runs


def same_bits(found, expected):
    return found.tobytes() == np.ascontiguousarray(expected).tobytes()


def check_plain(codec, ours, dense, block_size):
    codes, state = bnb.quantize_4bit(dense, blocksize=block_size, quant_type=codec)
    assert same_bits(ours["codes"], codes.numpy().reshape(-1)), "codes"
    assert same_bits(ours["scales"], state.absmax.numpy()), "scales"
    decoded = bnb.dequantize_4bit(codes, state).numpy().reshape(-1)
    plus = np.float32(0 if codec == "fp4" else -0.0)   # x + 0 loses the sign of zero, x + -0 does not
    assert same_bits(ours["plain"], decoded + plus), "decoded values"


def check_integers(codec, ours, dense, block_size):
    values = dense.numpy().astype(np.float64)
    blocks = ours["scales"].size
    padded = np.zeros(blocks * block_size)
    padded[: values.size] = np.abs(values)
    largest = padded.reshape(blocks, block_size).max(axis=1)
    assert np.array_equal(ours["scales"], np.where(ours["scales"] == np.float32(1e-38), ours["scales"], largest)), "scales"
    scale = np.repeat(np.maximum(largest, 1e-38), block_size)[: values.size]
    levels = 7 if codec == "int4" else 127
    exact = values / scale * levels
    if codec == "int4":
        found = np.stack([ours["codes"] >> 4, ours["codes"] & 15], axis=1).reshape(-1)[: values.size].astype(int) - 8
    else:
        found = ours["codes"].view(np.int8).astype(int)
    assert (np.abs(found) <= levels).all() and (np.abs(found - exact) <= 0.5 + 1e-5).all(), "codes"
    bound = 1e-6 * scale + 1e-44
    assert (np.abs(ours["plain"] - found / levels * np.repeat(ours["scales"], block_size)[: values.size]) <= bound).all(), "decoded values"


def check_doubled(ours, dense, block_size):
    scales, offset = torch.from_numpy(ours["scales"].copy()), ours["offset"][0]
    mean = scales.double().mean().item()
    assert offset == np.float32(mean), f"offset {offset}, mean {mean}"

    centred = scales - torch.tensor(offset)
    theirs, state = bnb.quantize_blockwise(centred, blocksize=GROUP)
    centred = centred.numpy()
    map_ = state.code.numpy()
    middle = (map_[1:] + map_[:-1]) / np.float32(2)
    for group in range(ours["group_scales"].size):
        part = slice(group * GROUP, (group + 1) * GROUP)
        absmax = np.abs(centred[part]).max()
        full = centred[part].size == GROUP
        divisor = max(absmax, np.float32(1e-38))
        assert ours["group_scales"][group] == (absmax if full else divisor), "group scale"
        with np.errstate(under="ignore"):
            x = centred[part] * (np.float32(1) / divisor) if full else centred[part] / divisor
        found = ours["scale_codes"][part]
        assert same_bits(found, np.searchsorted(middle, x, side="left").astype(np.uint8)), "scale codes"
        other = (found != theirs.numpy()[part]) & (absmax > 1e-37)
        distance = np.abs(x[other, None] - middle).min(axis=1)
        assert (distance <= TABLE_STEP).all(), f"scale codes differ {distance.max()} from a midpoint"

    absmax = np.repeat(ours["group_scales"], GROUP)[: centred.size]
    with np.errstate(over="ignore"):
        decoded = map_[ours["scale_codes"]] * absmax + offset
    per_value = np.repeat(decoded, block_size)[: dense.numel()]
    nibbles = np.stack([ours["codes"] >> 4, ours["codes"] & 15], axis=1).reshape(-1)[: dense.numel()]
    code = bnb.get_4bit_type("nf4", device="cpu").numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        values = code[nibbles] * per_value
    assert np.array_equal(ours["doubled"], values, equal_nan=True), "values of doubled scales"


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: bitsandbytes_codecs.py BUILD_DIR")
    tool = os.path.join(sys.argv[1], "tests", "quant_codec_tool")
    compared = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, values in inputs():
            values = np.asarray(values, dtype=np.float32)
            dense = torch.from_numpy(values)
            for (codec, block_size), ours in run_tool(tool, values, folder).items():
                try:
                    if codec.startswith("int"):
                        check_integers(codec, ours, dense, block_size)
                    else:
                        check_plain(codec, ours, dense, block_size)
                    if codec == "nf4":
                        check_doubled(ours, dense, block_size)
                except AssertionError as error:
                    sys.exit(f"bitsandbytes_codecs: {name}, {codec}, block {block_size}: {error} differ")
                compared += 1
    print(f"bitsandbytes_codecs: {compared} values equal")


if __name__ == "__main__":
    main()
