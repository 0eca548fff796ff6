# SPDX-License-Identifier: Apache-2.0
"""A tensor in NF4 with doubled scales: codes and scales by bitsandbytes, the scales' 8 bits by its dynamic map."""
import math

import bitsandbytes.functional as bnb
import torch

BLOCK, GROUP = 64, 256
MAP = bnb.create_dynamic_map(signed=True)
CODE = bnb.get_4bit_type("nf4", device="cpu")


class Nf4:
    """Parts under the names that a state gives them."""

    def __init__(self, shape, parts):
        self.shape, self.parts = tuple(shape), parts

    @classmethod
    def encode(cls, dense):
        codes, state = bnb.quantize_4bit(dense.reshape(-1), blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
        offset = state.absmax.double().mean().float()
        centred = state.absmax - offset
        middle = (MAP[1:] + MAP[:-1]) / 2
        scale_codes, peaks = [], []
        for group in centred.split(GROUP):
            peak = group.abs().max()
            scaled = group * (1 / peak) if group.numel() == GROUP else group / peak
            # The nearest value, exactly: bitsandbytes' CPU table is 2^-16 coarse and may take the other one next to a middle.
            scale_codes.append(torch.searchsorted(middle, scaled).to(torch.uint8))
            peaks.append(peak)
        return cls(dense.shape, {"codes": codes.reshape(-1), "scale_codes": torch.cat(scale_codes),
                                 "scale_offset": offset.reshape(1), "scale_absmax": torch.stack(peaks)})

    @classmethod
    def read(cls, state, name):
        parts = {part: state.tensors[f"{name}/{part}"] for part in ("codes", "scale_codes", "scale_offset", "scale_absmax")}
        return cls(state.tensors[f"{name}/sizes"].tolist(), parts)

    def decode(self):
        peaks = self.parts["scale_absmax"].repeat_interleave(GROUP)[:self.parts["scale_codes"].numel()]
        absmax = MAP[self.parts["scale_codes"].long()] * peaks + self.parts["scale_offset"]
        # Flat: on the CPU bitsandbytes 0.50.2 takes a row's first scale for all of the block where rows are shorter than blocks.
        flat = torch.Size([math.prod(self.shape)])
        state = bnb.QuantState(absmax=absmax, shape=flat, code=CODE, blocksize=BLOCK, quant_type="nf4", dtype=torch.float32)
        return bnb.dequantize_4bit(self.parts["codes"].reshape(-1, 1), state).reshape(self.shape)

    def named(self, name):
        return {f"{name}/{part}": value for part, value in self.parts.items()}

    def differing(self, other):
        """Codes and scale codes that are not equal."""
        def nibbles(value):
            return torch.stack([value.parts["codes"] >> 4, value.parts["codes"] & 15])
        return int((nibbles(self) != nibbles(other)).sum() + (self.parts["scale_codes"] != other.parts["scale_codes"]).sum())
