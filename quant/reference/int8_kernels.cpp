// SPDX-License-Identifier: Apache-2.0
#include "quant/int8_kernels.hpp"

#include <ATen/Dispatch.h>

#include "quant/reference/blocks.hpp"
#include "quant/stochastic.hpp"

namespace kumiko::quant::reference {
namespace {

float rounded(float y, std::optional<float> u) {
  if (!u) return std::nearbyint(y);
  const float lower = std::floor(y);
  return *u < y - lower ? lower + 1.0f : lower;
}

template <class T>
void encode(const T* dense, std::int64_t numel, std::int64_t block_size, std::optional<std::uint64_t> seed,
            std::int8_t* codes, float* absmax) {
  const std::uint64_t key = stochastic_key(seed.value_or(0));
  for_each_normalised(dense, numel, block_size, absmax, [&](std::int64_t i, float x) {
    std::optional<float> u;
    if (seed) u = stochastic_unit(stochastic_bits(key, i));
    const float y = rounded(x * kInt8Levels, u);
    codes[i] = std::isnan(y) ? 0 : static_cast<std::int8_t>(std::clamp(y, -kInt8Levels, kInt8Levels));
  });
}

}  // namespace

void int8_encode(const at::Tensor& dense, std::int64_t block_size, std::optional<std::uint64_t> seed,
                 at::Tensor& codes, at::Tensor& absmax) {
  auto* to = reinterpret_cast<std::int8_t*>(codes.mutable_data_ptr<std::uint8_t>());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dense.scalar_type(), "int8_encode", [&] {
    encode(dense.const_data_ptr<scalar_t>(), dense.numel(), block_size, seed, to,
           absmax.mutable_data_ptr<float>());
  });
}

void int8_decode(const at::Tensor& codes, const Scales& scales, std::int64_t block_size, at::Tensor& out) {
  const at::Tensor absmax = plain_scales(scales);
  const auto* from = reinterpret_cast<const std::int8_t*>(codes.const_data_ptr<std::uint8_t>());
  const auto* scale = absmax.const_data_ptr<float>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, out.scalar_type(), "int8_decode", [&] {
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    for (std::int64_t i = 0; i < out.numel(); ++i) {
      const float x = static_cast<float>(from[i]) * kInt8Step;
      to[i] = static_cast<scalar_t>(x * scale[i / block_size]);
    }
  });
}

}  // namespace kumiko::quant::reference
