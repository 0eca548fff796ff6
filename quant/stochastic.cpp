// SPDX-License-Identifier: Apache-2.0
#include "quant/stochastic.hpp"

#include <bit>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "framework/core/error.hpp"

namespace kumiko::quant {
namespace {

constexpr std::int64_t kGrainElements = 64 * 1024;

// bf16 is the upper half of fp32, and its neighbours are equally far apart in fp32's bits.
std::uint16_t to_bf16(float x, std::uint32_t random) {
  if (!std::isfinite(x)) return c10::BFloat16(x).x;
  return static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(x) + (random >> 16)) >> 16);
}

}  // namespace

at::Tensor stochastic_to(const at::Tensor& dense, at::ScalarType dtype, std::uint64_t seed) {
  const bool exact = dtype == at::kFloat || dtype == dense.scalar_type();
  if (exact) return dense.to(dtype, false, true, at::MemoryFormat::Contiguous);
  KUMIKO_EXPECTS(dtype == at::kBFloat16, UsageError, "stochastic rounding of dense values goes to bf16, not ",
                 dtype, "; keep them in bf16 or fp32");
  KUMIKO_EXPECTS(dense.is_cpu(), NotBuiltError, "stochastic rounding to bf16: built without CUDA");
  const at::Tensor source = dense.to(at::kFloat).contiguous();
  at::Tensor out = at::empty(source.sizes(), source.options().dtype(at::kBFloat16));
  const std::uint64_t key = stochastic_key(seed);
  const float* from = source.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<at::BFloat16>();
  at::parallel_for(0, source.numel(), kGrainElements, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) to[i].x = to_bf16(from[i], stochastic_bits(key, i));
  });
  return out;
}

}  // namespace kumiko::quant
