// SPDX-License-Identifier: Apache-2.0
#include "lowrank/projector.hpp"

#include <ATen/ATen.h>

#include "framework/model/linear.hpp"

namespace kumiko::lowrank {

Side default_side(std::int64_t in_features, std::int64_t out_features) noexcept {
  return in_features <= out_features ? Side::input : Side::output;
}

Projector::Projector(Side side, const at::Tensor& basis, const quant::QuantFormat& format)
    : side_(side), basis_(quant::QuantizedTensor::quantize(basis, format)) {}

at::Tensor Projector::project(const at::Tensor& full) const {
  const at::Tensor p = basis(full.scalar_type());
  return side_ == Side::input ? at::mm(p.t(), full.t()) : at::mm(full.t(), p);
}

void Projector::add_gradient(at::Tensor& grad, const at::Tensor& x, const at::Tensor& dy, double scale) const {
  const at::Tensor p = basis(x.scalar_type());
  const at::Tensor left = side_ == Side::input ? at::mm(x, p) : x;
  const at::Tensor right = side_ == Side::input ? dy : at::mm(dy, p);
  add_grad(grad, left.t(), right, scale);
}

at::Tensor Projector::lift(const at::Tensor& factor) const {
  const at::Tensor p = basis(factor.scalar_type());
  return side_ == Side::input ? at::mm(factor.t(), p.t()) : at::mm(p, factor.t());
}

void Projector::lift_into(at::Tensor& weight, const at::Tensor& factor, double scale) const {
  const at::Tensor p = basis(weight.scalar_type());
  const at::Tensor b = factor.to(weight.scalar_type());
  if (side_ == Side::input) {
    weight.addmm_(b.t(), p.t(), 1, scale);
  } else {
    weight.addmm_(p, b.t(), 1, scale);
  }
}

at::Tensor Projector::fit_factor(const at::Tensor& full) const {
  const at::Tensor p = basis(at::kFloat);
  const at::Tensor projected = project(full);   // input: [r, out]; output: [in, r]
  const at::Tensor right_side = side_ == Side::input ? projected : projected.t();
  auto [lower, info] = at::linalg_cholesky_ex(at::mm(p.t(), p));
  const at::Tensor solved = info.item<int>() == 0 ? at::cholesky_solve(right_side, lower)
                                                  : at::mm(at::linalg_pinv(at::mm(p.t(), p)), right_side);
  return side_ == Side::input ? solved : solved.t().contiguous();
}

std::vector<std::int64_t> Projector::factor_sizes(Side side, std::int64_t rank, std::int64_t in_features, std::int64_t out_features) {
  return side == Side::input ? std::vector<std::int64_t>{rank, out_features} : std::vector<std::int64_t>{in_features, rank};
}

std::vector<std::int64_t> Projector::factor_sizes(std::int64_t in_features, std::int64_t out_features) const {
  return factor_sizes(side_, rank(), in_features, out_features);
}

std::int64_t Projector::basis_rows(Side side, std::int64_t in_features, std::int64_t out_features) {
  return side == Side::input ? in_features : out_features;
}

}  // namespace kumiko::lowrank
