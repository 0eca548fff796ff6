// SPDX-License-Identifier: Apache-2.0
#include "framework/core/error.hpp"
#include "quant/nf4_kernels.hpp"
#include "quant/scale_kernels.hpp"

namespace kumiko::quant::cuda {

void nf4_encode(const at::Tensor&, std::int64_t, at::Tensor&, at::Tensor&) {
  throw NotBuiltError("nf4_encode: built without CUDA");
}

void nf4_decode(const at::Tensor&, const Scales&, std::int64_t, at::Tensor&) {
  throw NotBuiltError("nf4_decode: built without CUDA");
}

void scale_encode(const at::Tensor&, Scales&) { throw NotBuiltError("scale_encode: built without CUDA"); }

void scale_decode(const Scales&, at::Tensor&) { throw NotBuiltError("scale_decode: built without CUDA"); }

}  // namespace kumiko::quant::cuda
