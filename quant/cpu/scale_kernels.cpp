// SPDX-License-Identifier: Apache-2.0
#include "quant/scale_kernels.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "quant/absmax.hpp"

namespace kumiko::quant::cpu {
namespace {

constexpr std::int64_t kSumChunk = 4096;
constexpr std::int64_t kGrainGroups = 16;

// fp64 partial sums of fixed chunks, added in order: no thread count changes the result.
float mean_of(const float* scales, std::int64_t n) {
  if (n == 0) return 0.0f;
  std::vector<double> parts((n + kSumChunk - 1) / kSumChunk);
  at::parallel_for(0, static_cast<std::int64_t>(parts.size()), 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t chunk = first; chunk < last; ++chunk) {
      double part = 0.0;
      for (std::int64_t i = chunk * kSumChunk; i < std::min((chunk + 1) * kSumChunk, n); ++i)
        part += scales[i];
      parts[chunk] = part;
    }
  });
  double sum = 0.0;
  for (const double part : parts) sum += part;
  return static_cast<float>(sum / static_cast<double>(n));
}

// Number of thresholds that x is not at or below; 255 for NaN.
std::uint8_t nearest_code(const std::array<float, 255>& thresholds, float x) {
  int below = 0;
  for (int step = 128; step > 0; step /= 2) below += !(x <= thresholds[below + step - 1]) ? step : 0;
  return static_cast<std::uint8_t>(below);
}

// Largest magnitude, infinity above all numbers and NaN above infinity.
float centred_absmax(const float* scales, std::int64_t count, float offset) {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<std::int32_t>(std::fabs(scales[i] - offset)));
  return std::bit_cast<float>(largest);
}

}  // namespace

void scale_encode(const at::Tensor& scales, Scales& out) {
  static const std::array<float, 255> thresholds = map_thresholds(signed_dynamic_map());
  const std::int64_t n = scales.numel();
  const float* in = scales.const_data_ptr<float>();
  const float offset = mean_of(in, n);
  *out.offset.mutable_data_ptr<float>() = offset;
  auto* codes = out.values.mutable_data_ptr<std::uint8_t>();
  auto* group_absmax = out.group_absmax.mutable_data_ptr<float>();
  at::parallel_for(0, out.group_absmax.numel(), kGrainGroups, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t group = first; group < last; ++group) {
      const std::int64_t begin = group * kScaleGroup;
      const std::int64_t count = std::min(kScaleGroup, n - begin);
      const bool full = count == kScaleGroup;
      const float absmax = centred_absmax(in + begin, count, offset);
      const float divisor = absmax < kMinAbsmax ? kMinAbsmax : absmax;
      const float reciprocal = 1.0f / divisor;
      group_absmax[group] = full ? absmax : divisor;
      for (std::int64_t i = begin; i < begin + count; ++i) {
        const float centred = in[i] - offset;
        codes[i] = nearest_code(thresholds, full ? centred * reciprocal : centred / divisor);
      }
    }
  });
}

void scale_decode_range(const Scales& scales, std::int64_t first, std::span<float> out) {
  const auto n = static_cast<std::int64_t>(out.size());
  if (!scales.doubled()) {
    std::copy_n(scales.values.const_data_ptr<float>() + first, n, out.begin());
    return;
  }
  const std::array<float, 256>& map = signed_dynamic_map();
  const auto* codes = scales.values.const_data_ptr<std::uint8_t>() + first;
  const auto* group_absmax = scales.group_absmax.const_data_ptr<float>();
  const float offset = *scales.offset.const_data_ptr<float>();
  for (std::int64_t i = 0; i < n; ++i) {
    const float centred = map[codes[i]] * group_absmax[(first + i) / kScaleGroup];
    out[static_cast<std::size_t>(i)] = centred + offset;
  }
}

void scale_decode(const Scales& scales, at::Tensor& out) {
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, out.numel(), kGrainGroups * kScaleGroup, [&](std::int64_t first, std::int64_t last) {
    scale_decode_range(scales, first, std::span(to + first, static_cast<std::size_t>(last - first)));
  });
}

}  // namespace kumiko::quant::cpu
