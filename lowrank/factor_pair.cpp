// SPDX-License-Identifier: Apache-2.0
#include "lowrank/factor_pair.hpp"

#include <cmath>

#include <ATen/ATen.h>

#include "framework/core/rng.hpp"

namespace kumiko::lowrank {
namespace {

void draw(at::Tensor& factor, std::uint64_t seed) {
  at::Tensor values = at::empty(factor.sizes(), at::kFloat);
  fill_uniform(values, 1.0 / std::sqrt(static_cast<double>(factor.size(1))), seed);
  factor.copy_(values);
}

}  // namespace

FactorPair::FactorPair(const LinearSpec& spec, std::int64_t rank, double scale, at::ScalarType dtype, at::Device device)
    : scale_(scale) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  a_ = {spec.name + ".lora_A", ParamRole::factor, at::zeros({rank, spec.in_features}, options), {}};
  b_ = {spec.name + ".lora_B", ParamRole::factor, at::zeros({spec.out_features, rank}, options), {}};
}

void FactorPair::add_forward(const at::Tensor& x, at::Tensor& y) const {
  const auto dtype = x.scalar_type();
  const at::Tensor z = at::mm(x, a_.value.to(dtype).t());
  const at::Tensor b = b_.value.to(dtype).t();
  if (y.defined()) {
    y.addmm_(z, b, 1, scale_);
  } else {
    y = at::mm(z, b).mul_(scale_);
  }
}

void FactorPair::backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) {
  const auto dtype = x.scalar_type();
  const bool trains = mode == BackwardMode::update && a_.grad.defined();
  if (!trains && dx == nullptr) return;
  const at::Tensor a = a_.value.to(dtype);
  const at::Tensor dz = at::mm(dy, b_.value.to(dtype));
  if (trains) {
    add_grad(a_.grad, dz.t(), x, scale_);
    add_grad(b_.grad, dy.t(), at::mm(x, a.t()), scale_);
  }
  if (dx == nullptr) return;
  if (dx->defined()) {
    dx->addmm_(dz, a, 1, scale_);
  } else {
    *dx = at::mm(dz, a).mul_(scale_);
  }
}

void FactorPair::lift_into(at::Tensor& weight) const {
  const auto dtype = weight.scalar_type();
  weight.addmm_(b_.value.to(dtype), a_.value.to(dtype), 1, scale_);
}

at::Tensor FactorPair::product() const { return at::mm(b_.value.to(at::kFloat), a_.value.to(at::kFloat)).mul_(scale_); }

void FactorPair::draw_a(std::uint64_t seed) { draw(a_.value, seed); }

void FactorPair::draw_b(std::uint64_t seed) { draw(b_.value, seed); }

void FactorPair::save(StateWriter& out) const {
  out.tensor(a_.name, a_.value);
  out.tensor(b_.name, b_.value);
}

void FactorPair::load(const StateReader& in) {
  in.read_into(a_.name, a_.value);
  in.read_into(b_.name, b_.value);
}

}  // namespace kumiko::lowrank
