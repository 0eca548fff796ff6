// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

#include "quant/scale_codec.hpp"

// scale_encode: scales fp32 [blocks] into doubled `out`, already allocated. Full groups multiply by the
// reciprocal of their
//   absmax, a short last group divides, as in codebook4_encode.
// scale_decode: map[code] * group absmax + offset, in fp32 without a fused multiply-add.
#define KUMIKO_DECLARE_SCALE_KERNELS                        \
  void scale_encode(const at::Tensor& scales, Scales& out); \
  void scale_decode(const Scales& scales, at::Tensor& out)

namespace kumiko::quant {
namespace reference {
KUMIKO_DECLARE_SCALE_KERNELS;
}
namespace cpu {
KUMIKO_DECLARE_SCALE_KERNELS;

// Decodes scales first .. first + out.size(), plain or doubled, on the calling thread.
void scale_decode_range(const Scales& scales, std::int64_t first, std::span<float> out);
}  // namespace cpu
namespace cuda {
KUMIKO_DECLARE_SCALE_KERNELS;
}
}  // namespace kumiko::quant
