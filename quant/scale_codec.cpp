// SPDX-License-Identifier: Apache-2.0
#include "quant/scale_codec.hpp"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>

#include "quant/scale_kernels.hpp"

namespace kumiko::quant {
namespace {

constexpr std::array kDecades = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};

// n points from 0.1 to 1 by fp32 steps, counted from the nearer end: the definition rounds this way.
std::vector<float> linspace_tenth_to_one(int n) {
  const float step = (1.0f - 0.1f) / static_cast<float>(n - 1);
  std::vector<float> points(n);
  for (int i = 0; i < n; ++i) {
    const bool lower_half = i < n / 2;
    const double offset = static_cast<double>(step) * (lower_half ? i : n - 1 - i);
    points[i] = static_cast<float>(lower_half ? static_cast<double>(0.1f) + offset : 1.0 - offset);
  }
  return points;
}

std::array<float, 256> make_dynamic_map(bool is_signed) {
  std::vector<float> values = {0.0f, 1.0f};
  for (std::size_t e = 0; e < kDecades.size(); ++e) {
    const int fractions = is_signed ? 1 << e : 1 << (e + 1);
    const std::vector<float> borders = linspace_tenth_to_one(fractions + 1);
    for (int i = 0; i < fractions; ++i) {
      const float value = kDecades[e] * ((borders[i] + borders[i + 1]) / 2.0f);
      values.push_back(value);
      if (is_signed) values.push_back(-value);
    }
  }
  std::sort(values.begin(), values.end());
  std::array<float, 256> map{};
  TORCH_INTERNAL_ASSERT(values.size() == map.size());
  std::copy(values.begin(), values.end(), map.begin());
  return map;
}

}  // namespace

const std::array<float, 256>& signed_dynamic_map() {
  static const std::array<float, 256> map = make_dynamic_map(true);
  return map;
}

const std::array<float, 256>& unsigned_dynamic_map() {
  static const std::array<float, 256> map = make_dynamic_map(false);
  return map;
}

std::array<float, 255> map_thresholds(const std::array<float, 256>& map) {
  std::array<float, 255> thresholds{};
  for (std::size_t i = 0; i < thresholds.size(); ++i) thresholds[i] = (map[i] + map[i + 1]) / 2.0f;
  return thresholds;
}

Scales empty_scales(std::int64_t blocks, bool double_quant, at::Device device) {
  const auto options = at::TensorOptions().device(device);
  if (!double_quant) return {.values = at::empty({blocks}, options.dtype(at::kFloat))};
  return {.values = at::empty({blocks}, options.dtype(at::kByte)),
          .offset = at::empty({1}, options.dtype(at::kFloat)),
          .group_absmax = at::empty({(blocks + kScaleGroup - 1) / kScaleGroup}, options.dtype(at::kFloat))};
}

Scales encode_scales(const at::Tensor& scales) {
  Scales out = empty_scales(scales.numel(), true, scales.device());
  const auto kernel = scales.is_cuda() ? cuda::scale_encode : cpu::scale_encode;
  kernel(scales, out);
  return out;
}

at::Tensor decode_scales(const Scales& scales) {
  if (!scales.doubled()) return scales.values;
  at::Tensor out = at::empty(scales.values.sizes(), scales.values.options().dtype(at::kFloat));
  const auto kernel = out.is_cuda() ? cuda::scale_decode : cpu::scale_decode;
  kernel(scales, out);
  return out;
}

}  // namespace kumiko::quant
