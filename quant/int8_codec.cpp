// SPDX-License-Identifier: Apache-2.0
#include "quant/int8_codec.hpp"

#include "quant/int8_kernels.hpp"

namespace kumiko::quant {
namespace {

void encode(const at::Tensor& dense, std::int64_t block_size, std::optional<std::uint64_t> seed,
            at::Tensor& codes, at::Tensor& scales) {
  const auto kernel = dense.is_cuda() ? cuda::int8_encode : cpu::int8_encode;
  kernel(dense, block_size, seed, codes, scales);
}

void decode(const at::Tensor& codes, const Scales& scales, std::int64_t block_size, at::Tensor& out) {
  const auto kernel = out.is_cuda() ? cuda::int8_decode : cpu::int8_decode;
  kernel(codes, scales, block_size, out);
}

}  // namespace

Codec int8_codec() {
  return {.kind = CodecKind::int8, .name = "int8", .bits = 8, .encode = encode, .decode = decode};
}

}  // namespace kumiko::quant
