// SPDX-License-Identifier: Apache-2.0
#include "quant/codebook4_kernels.hpp"

#include <ATen/Dispatch.h>

#include "quant/reference/blocks.hpp"
#include "quant/stochastic.hpp"

namespace kumiko::quant::reference {
namespace {

// Number of borders below x; 15 for NaN.
std::size_t rank_in(const std::array<float, 15>& borders, float x) {
  std::size_t rank = 0;
  for (const float border : borders) rank += !(x <= border);
  return rank;
}

std::size_t stochastic_rank(const Codebook4& book, float x, float u) {
  const std::size_t lower = rank_in(book.floors, x);
  const float step = lower < 15 ? book.levels[lower + 1] - book.levels[lower] : 0.0f;
  const float excess = x - book.levels[lower];
  return u * step < excess ? lower + 1 : lower;
}

template <class T>
void encode(const Codebook4& book, const T* dense, std::int64_t numel, std::int64_t block_size,
            std::optional<std::uint64_t> seed, std::uint8_t* codes, float* absmax) {
  const std::uint64_t key = stochastic_key(seed.value_or(0));
  for_each_normalised(dense, numel, block_size, absmax, [&](std::int64_t i, float x) {
    const std::size_t rank = seed ? stochastic_rank(book, x, stochastic_unit(stochastic_bits(key, i)))
                                  : rank_in(book.thresholds, x);
    const std::uint8_t code = book.order[rank];
    if (i % 2 == 0) {
      codes[i / 2] = static_cast<std::uint8_t>(code << 4 | book.zero_code);
    } else {
      codes[i / 2] = static_cast<std::uint8_t>((codes[i / 2] & 0xf0) | code);
    }
  });
}

}  // namespace

void codebook4_encode(const Codebook4& book, const at::Tensor& dense, std::int64_t block_size,
                      std::optional<std::uint64_t> seed, at::Tensor& codes, at::Tensor& absmax) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dense.scalar_type(), "codebook4_encode", [&] {
    encode(book, dense.const_data_ptr<scalar_t>(), dense.numel(), block_size, seed,
           codes.mutable_data_ptr<std::uint8_t>(), absmax.mutable_data_ptr<float>());
  });
}

void codebook4_decode(const Codebook4& book, const at::Tensor& codes, const Scales& scales,
                      std::int64_t block_size, at::Tensor& out) {
  const at::Tensor absmax = plain_scales(scales);
  const auto* packed = codes.const_data_ptr<std::uint8_t>();
  const auto* scale = absmax.const_data_ptr<float>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, out.scalar_type(), "codebook4_decode", [&] {
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    for (std::int64_t i = 0; i < out.numel(); ++i) {
      const std::size_t code = i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 0x0f;
      to[i] = static_cast<scalar_t>(book.values[code] * scale[i / block_size]);
    }
  });
}

}  // namespace kumiko::quant::reference
