// SPDX-License-Identifier: Apache-2.0
#include "quant/scale_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <ATen/ATen.h>

#include "quant/absmax.hpp"

namespace kumiko::quant::reference {
namespace {

// Partial sums of 4096 scales, then the sum of those: cpu::scale_encode adds in the same order.
constexpr std::int64_t kSumChunk = 4096;

float mean_of(const float* scales, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t begin = 0; begin < n; begin += kSumChunk) {
    double part = 0.0;
    for (std::int64_t i = begin; i < std::min(begin + kSumChunk, n); ++i) part += scales[i];
    sum += part;
  }
  return n == 0 ? 0.0f : static_cast<float>(sum / static_cast<double>(n));
}

}  // namespace

void scale_encode(const at::Tensor& scales, Scales& out) {
  const auto thresholds = map_thresholds(signed_dynamic_map());
  const std::int64_t n = scales.numel();
  const float* in = scales.const_data_ptr<float>();
  const float offset = mean_of(in, n);
  *out.offset.mutable_data_ptr<float>() = offset;
  auto* codes = out.values.mutable_data_ptr<std::uint8_t>();
  auto* group_absmax = out.group_absmax.mutable_data_ptr<float>();
  for (std::int64_t begin = 0; begin < n; begin += kScaleGroup) {
    const std::int64_t end = std::min(begin + kScaleGroup, n);
    const bool full = end - begin == kScaleGroup;
    float absmax = 0.0f;
    for (std::int64_t i = begin; i < end; ++i) {
      const float magnitude = std::fabs(in[i] - offset);
      if (std::isnan(absmax)) break;
      if (!(magnitude <= absmax)) absmax = magnitude;
    }
    const float divisor = absmax < kMinAbsmax ? kMinAbsmax : absmax;
    group_absmax[begin / kScaleGroup] = full ? absmax : divisor;
    for (std::int64_t i = begin; i < end; ++i) {
      const float centred = in[i] - offset;
      const float x = full ? centred * (1.0f / divisor) : centred / divisor;
      int code = 0;
      for (const float t : thresholds) code += !(x <= t);
      codes[i] = static_cast<std::uint8_t>(code);
    }
  }
}

void scale_decode(const Scales& scales, at::Tensor& out) {
  const auto& map = signed_dynamic_map();
  const auto* codes = scales.values.const_data_ptr<std::uint8_t>();
  const auto* group_absmax = scales.group_absmax.const_data_ptr<float>();
  const float offset = *scales.offset.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    const float centred = map[codes[i]] * group_absmax[i / kScaleGroup];
    to[i] = centred + offset;
  }
}

}  // namespace kumiko::quant::reference
