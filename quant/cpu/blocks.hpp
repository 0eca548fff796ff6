// SPDX-License-Identifier: Apache-2.0
// Splits the blocks of a tensor over threads.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "quant/cpu/element.hpp"
#include "quant/scale_kernels.hpp"

namespace kumiko::quant::cpu {

inline constexpr std::int64_t kGrainElements = 64 * 1024;
inline constexpr std::int64_t kScalesAtATime = 256;

// Calls range(first block, last block) on the threads.
template <class F>
void for_block_ranges(std::int64_t numel, std::int64_t block_size, const F& range) {
  const std::int64_t blocks = (numel + block_size - 1) / block_size;
  const std::int64_t grain = std::max<std::int64_t>(1, kGrainElements / block_size);
  at::parallel_for(0, blocks, grain, range);
}

// Calls encode(from, type, first element, elements, absmax) for ranges of whole blocks of `dense`.
template <class F>
void encode_on_threads(const at::Tensor& dense, std::int64_t block_size, at::Tensor& absmax,
                       const F& encode) {
  const std::int64_t numel = dense.numel();
  const Element type = element_of(dense.scalar_type());
  const auto element_bytes = static_cast<std::int64_t>(dense.element_size());
  const auto* from = static_cast<const std::byte*>(dense.const_data_ptr());
  auto* scales = absmax.mutable_data_ptr<float>();
  for_block_ranges(numel, block_size, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t begin = first * block_size;
    const std::int64_t count = std::min(last * block_size, numel) - begin;
    encode(from + begin * element_bytes, type, begin, count, scales + first);
  });
}

// Calls decode(decoded scales, first element, elements, to, type) for ranges of whole blocks of `out`.
template <class F>
void decode_on_threads(const Scales& scales, std::int64_t block_size, at::Tensor& out, const F& decode) {
  const std::int64_t numel = out.numel();
  const Element type = element_of(out.scalar_type());
  const auto element_bytes = static_cast<std::int64_t>(out.element_size());
  auto* to = static_cast<std::byte*>(out.mutable_data_ptr());
  for_block_ranges(numel, block_size, [&](std::int64_t first, std::int64_t last) {
    std::array<float, kScalesAtATime> decoded;
    for (std::int64_t block = first; block < last; block += kScalesAtATime) {
      const std::int64_t blocks = std::min(kScalesAtATime, last - block);
      scale_decode_range(scales, block, std::span(decoded).first(static_cast<std::size_t>(blocks)));
      const std::int64_t begin = block * block_size;
      const std::int64_t count = std::min((block + blocks) * block_size, numel) - begin;
      decode(decoded.data(), begin, count, to + begin * element_bytes, type);
    }
  });
}

}  // namespace kumiko::quant::cpu
