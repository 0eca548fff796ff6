// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "quant/quantized_tensor.hpp"

namespace kumiko::lowrank {

// Which dimension of W [out, in] the basis spans. input: P [in, r], B [r, out], y = x W^T + s (x P) B.
// output: P [out, r], B [in, r], y = x W^T + s (x B) P^T. The default is the smaller one, input when square.
enum class Side { input, output };

Side default_side(std::int64_t in_features, std::int64_t out_features) noexcept;

// A frozen basis, stored as the recipe says, and its side together: callers do not test the side.
class Projector {
 public:
  // basis [dim, r], fp32: stored in `format`.
  Projector(Side side, const at::Tensor& basis, const quant::QuantFormat& format);
  Projector(Side side, quant::QuantizedTensor basis) : side_(side), basis_(std::move(basis)) {}

  Side side() const noexcept { return side_; }
  const quant::QuantizedTensor& stored() const noexcept { return basis_; }
  std::int64_t rank() const { return basis_.sizes()[1]; }
  at::Tensor basis(at::ScalarType dtype) const { return basis_.dequantize(dtype); }   // [dim, r]

  // Of a full [out, in] matrix: the factor-shaped P^T-product, dL/dB / s for a gradient.
  at::Tensor project(const at::Tensor& full) const;
  // grad += scale * project(dy^T x), fp32, without forming dy^T x. x [N, in], dy [N, out] in any floating dtype.
  void add_gradient(at::Tensor& grad, const at::Tensor& x, const at::Tensor& dy, double scale) const;
  // Of a factor: the [out, in] matrix it stands for, in the factor's dtype.
  at::Tensor lift(const at::Tensor& factor) const;
  // weight += scale * lift(factor), in place, weight [out, in] in any floating dtype.
  void lift_into(at::Tensor& weight, const at::Tensor& factor, double scale) const;
  // argmin_B |full - lift(B)|_F, fp32: the pseudo-inverse of the stored basis, by its r x r normal equations.
  at::Tensor fit_factor(const at::Tensor& full) const;
  // Sizes of a factor for a layer.
  std::vector<std::int64_t> factor_sizes(std::int64_t in_features, std::int64_t out_features) const;

  static std::vector<std::int64_t> factor_sizes(Side side, std::int64_t rank, std::int64_t in_features, std::int64_t out_features);
  static std::int64_t basis_rows(Side side, std::int64_t in_features, std::int64_t out_features);

 private:
  Side side_;
  quant::QuantizedTensor basis_;
};

}  // namespace kumiko::lowrank
