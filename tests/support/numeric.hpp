// SPDX-License-Identifier: Apache-2.0
// Autograd and finite differences in fp64: oracles of hand-written passes.
#pragma once

#include <vector>

#include <ATen/ATen.h>

#include "framework/core/rng.hpp"

namespace kumiko::test {

// |a - b|_F / |b|_F
inline double relative(const at::Tensor& a, const at::Tensor& b) {
  return (at::norm(a.to(at::kDouble) - b.to(at::kDouble)) / at::norm(b.to(at::kDouble)).clamp_min(1e-30))
      .item<double>();
}

inline at::Tensor random_normal(at::IntArrayRef sizes, std::uint64_t seed, double std = 1.0) {
  at::Tensor values = at::empty(sizes, at::kFloat);
  fill_normal(values, std, seed);
  return values;
}

// Row-major.
inline at::Tensor matrix(std::int64_t rows, const std::vector<float>& values) {
  return at::tensor(values).view({rows, -1});
}

// Gradients of sum(dy * f(inputs)) by the inputs.
template <class F>
std::vector<at::Tensor> autograd(const std::vector<at::Tensor>& inputs, const at::Tensor& dy, const F& f) {
  std::vector<at::Tensor> leaves;
  for (const auto& input : inputs)
    leaves.push_back(input.to(at::kDouble, false, true).set_requires_grad(true));
  f(leaves).backward(dy.to(at::kDouble));
  std::vector<at::Tensor> grads;
  for (const auto& leaf : leaves) grads.push_back(leaf.grad());
  return grads;
}

// Central differences of a scalar function, by one input; fp64.
template <class F>
at::Tensor finite_difference(const at::Tensor& input, const F& f, double h = 1e-3) {
  at::Tensor x = input.to(at::kDouble, false, true).contiguous();
  at::Tensor grad = at::empty_like(x);
  auto* values = x.template data_ptr<double>();
  auto* out = grad.template data_ptr<double>();
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const double kept = values[i];
    values[i] = kept + h;
    const double above = f(x);
    values[i] = kept - h;
    const double below = f(x);
    values[i] = kept;
    out[i] = (above - below) / (2.0 * h);
  }
  return grad;
}

}  // namespace kumiko::test
