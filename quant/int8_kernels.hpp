// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "quant/scale_codec.hpp"

namespace kumiko::quant {

inline constexpr float kInt8Levels = 127.0f;
inline constexpr float kInt8Step = 1.0f / kInt8Levels;
static_assert(kInt8Levels * kInt8Step == 1.0f, "the largest element of a block decodes to itself");

}  // namespace kumiko::quant

// int8_encode: dense contiguous fp32, bf16 or fp16 [n] -> codes uint8 [n], two's complement, -127 to 127;
//   absmax fp32 [ceil(n / block_size)]. x is normalised as in codebook4_encode; the code is 127 x rounded to
//   nearest even, with a seed floor(127 x), or one more where u < 127 x - floor(127 x). NaN takes code 0.
// int8_decode: out[i] = (code * kInt8Step) * scale in fp32, rounded to nearest even to out's dtype.
#define KUMIKO_DECLARE_INT8_KERNELS                                                                     \
  void int8_encode(const at::Tensor& dense, std::int64_t block_size, std::optional<std::uint64_t> seed, \
                   at::Tensor& codes, at::Tensor& absmax);                                              \
  void int8_decode(const at::Tensor& codes, const Scales& scales, std::int64_t block_size, at::Tensor& out)

namespace kumiko::quant {
namespace reference {
KUMIKO_DECLARE_INT8_KERNELS;
}
namespace cpu {
KUMIKO_DECLARE_INT8_KERNELS;
}
namespace cuda {
KUMIKO_DECLARE_INT8_KERNELS;
}
}  // namespace kumiko::quant
