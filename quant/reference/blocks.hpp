// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <ATen/ATen.h>

#include "quant/absmax.hpp"
#include "quant/scale_kernels.hpp"

namespace kumiko::quant::reference {

// NaN where the block holds one.
template <class T>
float absmax_of(const T* block, std::int64_t count) {
  float absmax = 0.0f;
  for (std::int64_t i = 0; i < count; ++i) {
    const float magnitude = std::fabs(static_cast<float>(block[i]));
    if (std::isnan(magnitude)) return magnitude;
    absmax = std::max(absmax, magnitude);
  }
  return absmax;
}

// Writes the scale of each block and calls element(i, x) with each element's value over it.
template <class T, class F>
void for_each_normalised(const T* dense, std::int64_t numel, std::int64_t block_size, float* absmax,
                         const F& element) {
  for (std::int64_t begin = 0; begin < numel; begin += block_size) {
    const std::int64_t count = std::min(block_size, numel - begin);
    const bool full = count == block_size;
    const float found = absmax_of(dense + begin, count);
    const float divisor = found < kMinAbsmax ? kMinAbsmax : found;
    absmax[begin / block_size] = full ? found : divisor;
    const float reciprocal = 1.0f / divisor;
    for (std::int64_t i = begin; i < begin + count; ++i) {
      const auto value = static_cast<float>(dense[i]);
      element(i, full ? value * reciprocal : value / divisor);
    }
  }
}

// fp32 [blocks], decoded where doubled.
inline at::Tensor plain_scales(const Scales& scales) {
  if (!scales.doubled()) return scales.values;
  at::Tensor absmax = at::empty(scales.values.sizes(), scales.values.options().dtype(at::kFloat));
  scale_decode(scales, absmax);
  return absmax;
}

}  // namespace kumiko::quant::reference
