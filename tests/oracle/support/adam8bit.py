# SPDX-License-Identifier: Apache-2.0
"""bitsandbytes' 8-bit optimizers on the CPU with the quantizer of its portable backend, which takes the nearest code as its CUDA
kernels do; that of its CPU library looks codes up in a table too coarse for those below 1e-3."""
import torch
from bitsandbytes.backends.cpu import ops


def nearest_codes(values, code, absmax_out, codes_out, blocksize):
    quantize = torch.ops.bitsandbytes.quantize_blockwise.default
    codes, absmax = quantize._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, values, code, blocksize)
    codes_out.copy_(codes)
    absmax_out.copy_(absmax)


def take_nearest_codes():
    assert callable(ops._quant_blockwise_fp32_direct)
    ops._quant_blockwise_fp32_direct = nearest_codes
