// SPDX-License-Identifier: Apache-2.0
#include "framework/model/dense_linear.hpp"

#include <ATen/ATen.h>

namespace kumiko {

void add_input_grad(at::Tensor* dx, const at::Tensor& dy, const at::Tensor& weight) {
  if (dx == nullptr) return;
  if (dx->defined()) {
    dx->addmm_(dy, weight);
  } else {
    *dx = at::mm(dy, weight);
  }
}

void add_grad(at::Tensor& grad, const at::Tensor& a, const at::Tensor& b, double scale) {
  if (a.scalar_type() == at::kFloat) {
    grad.addmm_(a, b, 1, scale);
  } else {
    grad.add_(at::mm(a, b), scale);
  }
}

DenseLinear::DenseLinear(const LinearSpec& spec, const at::Tensor& initial, at::ScalarType dtype, at::Device device)
    : Linear(spec), weight_{spec.name + ".weight", ParamRole::matrix, initial.to(device, dtype, false, /*copy=*/true), {}} {}

at::Tensor DenseLinear::forward(const at::Tensor& x) const { return at::mm(x, weight_.value.to(x.scalar_type()).t()); }

void DenseLinear::backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) {
  add_input_grad(dx, dy, weight_.value.to(x.scalar_type()));
  if (mode != BackwardMode::update || !weight_.grad.defined()) return;
  add_grad(weight_.grad, dy.t(), x);
}

at::Tensor DenseLinear::effective_weight() const { return weight_.value.to(at::kFloat); }

void DenseLinear::save(StateWriter& out) const { out.tensor(weight_.name, weight_.value); }

void DenseLinear::load(const StateReader& in) { in.read_into(weight_.name, weight_.value); }

}  // namespace kumiko
