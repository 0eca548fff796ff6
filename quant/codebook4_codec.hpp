// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quant/codebook4_kernels.hpp"
#include "quant/codec.hpp"

namespace kumiko::quant {

// The codec of a codebook of static storage, one absmax for each block.
template <const Codebook4& kBook>
Codec codebook4_codec(CodecKind kind, std::string_view name) {
  const auto encode = [](const at::Tensor& dense, std::int64_t block_size, std::optional<std::uint64_t> seed,
                         at::Tensor& codes, at::Tensor& scales) {
    const auto kernel = dense.is_cuda() ? cuda::codebook4_encode : cpu::codebook4_encode;
    kernel(kBook, dense, block_size, seed, codes, scales);
  };
  const auto decode = [](const at::Tensor& codes, const Scales& scales, std::int64_t block_size,
                         at::Tensor& out) {
    const auto kernel = out.is_cuda() ? cuda::codebook4_decode : cpu::codebook4_decode;
    kernel(kBook, codes, scales, block_size, out);
  };
  return {.kind = kind, .name = name, .bits = 4, .encode = encode, .decode = decode};
}

}  // namespace kumiko::quant
