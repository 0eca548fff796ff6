// SPDX-License-Identifier: Apache-2.0
#include "quant/nf4_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include "quant/nf4_code.hpp"
#include "quant/scale_kernels.hpp"

namespace kumiko::quant::reference {
namespace {

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

std::uint8_t nearest_code(float x) {
  int code = 0;
  for (const float t : kNf4Thresholds) code += !(x <= t);
  return static_cast<std::uint8_t>(code);
}

template <class T>
void encode(const T* dense, std::int64_t numel, std::int64_t block_size, std::uint8_t* codes, float* absmax) {
  for (std::int64_t begin = 0; begin < numel; begin += block_size) {
    const std::int64_t count = std::min(block_size, numel - begin);
    const bool full = count == block_size;
    const float found = absmax_of(dense + begin, count);
    const float divisor = found < kMinAbsmax ? kMinAbsmax : found;
    absmax[begin / block_size] = full ? found : divisor;
    const float reciprocal = 1.0f / divisor;
    for (std::int64_t i = begin; i < begin + count; ++i) {
      const auto value = static_cast<float>(dense[i]);
      const std::uint8_t code = nearest_code(full ? value * reciprocal : value / divisor);
      if (i % 2 == 0) {
        codes[i / 2] = static_cast<std::uint8_t>(code << 4 | kNf4ZeroCode);
      } else {
        codes[i / 2] = static_cast<std::uint8_t>((codes[i / 2] & 0xf0) | code);
      }
    }
  }
}

}  // namespace

void nf4_encode(const at::Tensor& dense, std::int64_t block_size, at::Tensor& codes, at::Tensor& absmax) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dense.scalar_type(), "nf4_encode", [&] {
    encode(dense.const_data_ptr<scalar_t>(), dense.numel(), block_size,
           codes.mutable_data_ptr<std::uint8_t>(), absmax.mutable_data_ptr<float>());
  });
}

void nf4_decode(const at::Tensor& codes, const Scales& scales, std::int64_t block_size, at::Tensor& out) {
  at::Tensor absmax = scales.values;
  if (scales.doubled()) {
    absmax = at::empty(scales.values.sizes(), scales.values.options().dtype(at::kFloat));
    scale_decode(scales, absmax);
  }
  const auto* packed = codes.const_data_ptr<std::uint8_t>();
  const auto* scale = absmax.const_data_ptr<float>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, out.scalar_type(), "nf4_decode", [&] {
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    for (std::int64_t i = 0; i < out.numel(); ++i) {
      const int code = i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 0x0f;
      to[i] = static_cast<scalar_t>(kNf4Code[code] * scale[i / block_size]);
    }
  });
}

}  // namespace kumiko::quant::reference
