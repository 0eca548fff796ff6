// SPDX-License-Identifier: Apache-2.0
#include "quant/nf4_kernels.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "framework/core/error.hpp"
#include "quant/cpu/nf4_simd.hpp"
#include "quant/scale_kernels.hpp"

namespace kumiko::quant::cpu {
namespace {

constexpr std::int64_t kGrainElements = 64 * 1024;
constexpr std::int64_t kScalesAtATime = 256;

Element element_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return Element::fp32;
    case at::kBFloat16:
      return Element::bf16;
    case at::kHalf:
      return Element::fp16;
    default:
      throw ShapeError(concat("nf4 takes fp32, bf16 and fp16, not ", dtype));
  }
}

std::int64_t block_count(std::int64_t numel, std::int64_t block_size) {
  return (numel + block_size - 1) / block_size;
}

std::int64_t grain_blocks(std::int64_t block_size) {
  return std::max<std::int64_t>(1, kGrainElements / block_size);
}

}  // namespace

void nf4_encode(const at::Tensor& dense, std::int64_t block_size, at::Tensor& codes, at::Tensor& absmax) {
  if (!has_simd()) return reference::nf4_encode(dense, block_size, codes, absmax);
  const std::int64_t numel = dense.numel();
  const Element type = element_of(dense.scalar_type());
  const auto element_bytes = static_cast<std::int64_t>(dense.element_size());
  const auto* from = static_cast<const std::byte*>(dense.const_data_ptr());
  auto* to = codes.mutable_data_ptr<std::uint8_t>();
  auto* scales = absmax.mutable_data_ptr<float>();
  at::parallel_for(0, block_count(numel, block_size), grain_blocks(block_size),
                   [&](std::int64_t first, std::int64_t last) {
                     const std::int64_t begin = first * block_size;
                     const std::int64_t count = std::min(last * block_size, numel) - begin;
                     encode_blocks(from + begin * element_bytes, type, count, block_size, to + begin / 2,
                                   scales + first);
                   });
}

void nf4_decode(const at::Tensor& codes, const Scales& scales, std::int64_t block_size, at::Tensor& out) {
  if (!has_simd()) return reference::nf4_decode(codes, scales, block_size, out);
  const std::int64_t numel = out.numel();
  const Element type = element_of(out.scalar_type());
  const auto element_bytes = static_cast<std::int64_t>(out.element_size());
  const auto* from = codes.const_data_ptr<std::uint8_t>();
  auto* to = static_cast<std::byte*>(out.mutable_data_ptr());
  at::parallel_for(0, block_count(numel, block_size), grain_blocks(block_size),
                   [&](std::int64_t first, std::int64_t last) {
                     std::array<float, kScalesAtATime> decoded;
                     for (std::int64_t block = first; block < last; block += kScalesAtATime) {
                       const std::int64_t blocks = std::min(kScalesAtATime, last - block);
                       scale_decode_range(scales, block,
                                          std::span(decoded).first(static_cast<std::size_t>(blocks)));
                       const std::int64_t begin = block * block_size;
                       const std::int64_t count = std::min((block + blocks) * block_size, numel) - begin;
                       decode_blocks(from + begin / 2, decoded.data(), count, block_size,
                                     to + begin * element_bytes, type);
                     }
                   });
}

}  // namespace kumiko::quant::cpu
