// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "quant/codebook4.hpp"
#include "quant/scale_codec.hpp"

// codebook4_encode: dense contiguous fp32, bf16 or fp16 [n] -> codes uint8 [ceil(n / 2)], element 2i in the
//   high nibble of byte i; absmax fp32 [ceil(n / block_size)]. A full block multiplies by the reciprocal of
//   its absmax, a short last block divides (and keeps its absmax clamped at 1e-38). Then the nearest level;
//   with a seed, of the two levels around x the upper one where u (upper - lower) < x - lower for a u uniform
//   in [0, 1) (quant/stochastic.hpp). In a block with a NaN or infinity absmax is NaN or infinity, so that
//   the block decodes to values that are not finite (or to zero times infinity, NaN).
// codebook4_decode: out[i] = value of the code * scale in fp32, rounded to nearest even to out's dtype
//   (contiguous fp32, bf16 or fp16 [n]). Sizes and dtypes are checked by the caller.
#define KUMIKO_DECLARE_CODEBOOK4_KERNELS                                                           \
  void codebook4_encode(const Codebook4& book, const at::Tensor& dense, std::int64_t block_size,   \
                        std::optional<std::uint64_t> seed, at::Tensor& codes, at::Tensor& absmax); \
  void codebook4_decode(const Codebook4& book, const at::Tensor& codes, const Scales& scales,      \
                        std::int64_t block_size, at::Tensor& out)

namespace kumiko::quant {
namespace reference {
KUMIKO_DECLARE_CODEBOOK4_KERNELS;
}
namespace cpu {
KUMIKO_DECLARE_CODEBOOK4_KERNELS;
}
namespace cuda {
KUMIKO_DECLARE_CODEBOOK4_KERNELS;
}
}  // namespace kumiko::quant
