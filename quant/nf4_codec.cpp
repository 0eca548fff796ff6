// SPDX-License-Identifier: Apache-2.0
#include "quant/nf4_codec.hpp"

#include "quant/nf4_kernels.hpp"

namespace kumiko::quant {
namespace {

void encode(const at::Tensor& dense, std::int64_t block_size, at::Tensor& codes, at::Tensor& scales) {
  const auto kernel = dense.is_cuda() ? cuda::nf4_encode : cpu::nf4_encode;
  kernel(dense, block_size, codes, scales);
}

void decode(const at::Tensor& codes, const Scales& scales, std::int64_t block_size, at::Tensor& out) {
  const auto kernel = out.is_cuda() ? cuda::nf4_decode : cpu::nf4_decode;
  kernel(codes, scales, block_size, out);
}

}  // namespace

Codec nf4_codec() {
  return {.kind = CodecKind::nf4, .name = "nf4", .bits = 4, .encode = encode, .decode = decode};
}

}  // namespace kumiko::quant
