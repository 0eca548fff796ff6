// SPDX-License-Identifier: Apache-2.0
#include "quant/stochastic.hpp"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "framework/core/error.hpp"
#include "quant/cpu/bf16_simd.hpp"

namespace kumiko::quant {
namespace {

constexpr std::int64_t kChunk = 64 * 1024;  // elements, even: a word of random bits serves two

}  // namespace

at::Tensor stochastic_to(const at::Tensor& dense, at::ScalarType dtype, std::uint64_t seed) {
  const bool exact = dtype == at::kFloat || dtype == dense.scalar_type();
  if (exact) return dense.to(dtype, false, true, at::MemoryFormat::Contiguous);
  KUMIKO_EXPECTS(dtype == at::kBFloat16, UsageError, "stochastic rounding of dense values goes to bf16, not ",
                 dtype, "; keep them in bf16 or fp32");
  KUMIKO_EXPECTS(dense.is_cpu(), NotBuiltError, "stochastic rounding to bf16: built without CUDA");
  const at::Tensor source = dense.to(at::kFloat).contiguous();
  at::Tensor out = at::empty(source.sizes(), source.options().dtype(at::kBFloat16));
  const float* from = source.const_data_ptr<float>();
  auto* to = reinterpret_cast<std::uint16_t*>(out.mutable_data_ptr<at::BFloat16>());
  const std::int64_t numel = source.numel();
  const std::int64_t chunks = (numel + kChunk - 1) / kChunk;
  at::parallel_for(0, chunks, 1, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t begin = first * kChunk;
    cpu::stochastic_bf16(from + begin, begin, std::min(last * kChunk, numel) - begin, seed, to + begin);
  });
  return out;
}

}  // namespace kumiko::quant
