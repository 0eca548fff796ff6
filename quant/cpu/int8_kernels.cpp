// SPDX-License-Identifier: Apache-2.0
#include "quant/int8_kernels.hpp"

#include "quant/cpu/blocks.hpp"
#include "quant/cpu/codebook4_simd.hpp"
#include "quant/cpu/int8_simd.hpp"

namespace kumiko::quant::cpu {

void int8_encode(const at::Tensor& dense, std::int64_t block_size, std::optional<std::uint64_t> seed,
                 at::Tensor& codes, at::Tensor& absmax) {
  if (!has_simd()) return reference::int8_encode(dense, block_size, seed, codes, absmax);
  auto* to = reinterpret_cast<std::int8_t*>(codes.mutable_data_ptr<std::uint8_t>());
  encode_on_threads(
      dense, block_size, absmax,
      [&](const void* from, Element type, std::int64_t first, std::int64_t count, float* scales) {
        int8_encode_blocks(from, type, first, count, block_size, seed, to + first, scales);
      });
}

void int8_decode(const at::Tensor& codes, const Scales& scales, std::int64_t block_size, at::Tensor& out) {
  if (!has_simd()) return reference::int8_decode(codes, scales, block_size, out);
  const auto* from = reinterpret_cast<const std::int8_t*>(codes.const_data_ptr<std::uint8_t>());
  decode_on_threads(
      scales, block_size, out,
      [&](const float* decoded, std::int64_t first, std::int64_t count, void* to, Element type) {
        int8_decode_blocks(from + first, decoded, count, block_size, to, type);
      });
}

}  // namespace kumiko::quant::cpu
