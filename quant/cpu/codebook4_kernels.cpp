// SPDX-License-Identifier: Apache-2.0
#include "quant/codebook4_kernels.hpp"

#include "quant/cpu/blocks.hpp"
#include "quant/cpu/codebook4_simd.hpp"

namespace kumiko::quant::cpu {

void codebook4_encode(const Codebook4& book, const at::Tensor& dense, std::int64_t block_size,
                      std::optional<std::uint64_t> seed, at::Tensor& codes, at::Tensor& absmax) {
  if (!has_simd()) return reference::codebook4_encode(book, dense, block_size, seed, codes, absmax);
  auto* to = codes.mutable_data_ptr<std::uint8_t>();
  encode_on_threads(
      dense, block_size, absmax,
      [&](const void* from, Element type, std::int64_t first, std::int64_t count, float* scales) {
        codebook4_encode_blocks(book, from, type, first, count, block_size, seed, to + first / 2, scales);
      });
}

void codebook4_decode(const Codebook4& book, const at::Tensor& codes, const Scales& scales,
                      std::int64_t block_size, at::Tensor& out) {
  if (!has_simd()) return reference::codebook4_decode(book, codes, scales, block_size, out);
  const auto* from = codes.const_data_ptr<std::uint8_t>();
  decode_on_threads(
      scales, block_size, out,
      [&](const float* decoded, std::int64_t first, std::int64_t count, void* to, Element type) {
        codebook4_decode_blocks(book, from + first / 2, decoded, count, block_size, to, type);
      });
}

}  // namespace kumiko::quant::cpu
