// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "quant/scale_codec.hpp"

// nf4_encode: dense contiguous fp32, bf16 or fp16 [n] -> codes uint8 [ceil(n / 2)], element 2i in the high
// nibble of byte i;
//   absmax fp32 [ceil(n / block_size)]. A full block multiplies by the reciprocal of its absmax, a short last
//   block divides (and keeps its absmax clamped at 1e-38). The padding nibble of an odd count is 7. In a
//   block with a NaN or infinity absmax is NaN or infinity, so that the block decodes to values that are not
//   finite (or to zero times infinity, NaN).
// nf4_decode: out[i] = code * scale in fp32, rounded to nearest even to out's dtype (contiguous fp32, bf16 or
// fp16 [n]). Sizes and dtypes are checked by the caller.
#define KUMIKO_DECLARE_NF4_KERNELS                                                                          \
  void nf4_encode(const at::Tensor& dense, std::int64_t block_size, at::Tensor& codes, at::Tensor& absmax); \
  void nf4_decode(const at::Tensor& codes, const Scales& scales, std::int64_t block_size, at::Tensor& out)

namespace kumiko::quant {
namespace reference {
KUMIKO_DECLARE_NF4_KERNELS;
}
namespace cpu {
KUMIKO_DECLARE_NF4_KERNELS;
}
namespace cuda {
KUMIKO_DECLARE_NF4_KERNELS;
}
}  // namespace kumiko::quant
