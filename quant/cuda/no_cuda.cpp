// SPDX-License-Identifier: Apache-2.0
#include "framework/core/error.hpp"
#include "quant/codebook4_kernels.hpp"
#include "quant/int8_kernels.hpp"
#include "quant/scale_kernels.hpp"

namespace kumiko::quant::cuda {

void codebook4_encode(const Codebook4&, const at::Tensor&, std::int64_t, std::optional<std::uint64_t>,
                      at::Tensor&, at::Tensor&) {
  throw NotBuiltError("codebook4_encode: built without CUDA");
}

void codebook4_decode(const Codebook4&, const at::Tensor&, const Scales&, std::int64_t, at::Tensor&) {
  throw NotBuiltError("codebook4_decode: built without CUDA");
}

void int8_encode(const at::Tensor&, std::int64_t, std::optional<std::uint64_t>, at::Tensor&, at::Tensor&) {
  throw NotBuiltError("int8_encode: built without CUDA");
}

void int8_decode(const at::Tensor&, const Scales&, std::int64_t, at::Tensor&) {
  throw NotBuiltError("int8_decode: built without CUDA");
}

void scale_encode(const at::Tensor&, Scales&) { throw NotBuiltError("scale_encode: built without CUDA"); }

void scale_decode(const Scales&, at::Tensor&) { throw NotBuiltError("scale_decode: built without CUDA"); }

}  // namespace kumiko::quant::cuda
