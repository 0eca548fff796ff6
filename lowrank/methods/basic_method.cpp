// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/basic_method.hpp"

#include <ATen/ATen.h>

#include "framework/model/dense_linear.hpp"

namespace kumiko::lowrank {

std::unique_ptr<Linear> BasicMethod::make_dense(const LinearSpec& spec, const at::Tensor& initial) const {
  return std::make_unique<DenseLinear>(spec, initial, param_dtype_, device_);
}

void BasicMethod::plan_dense(const LinearSpec& spec, MemoryPlan& plan) const {
  const std::int64_t numel = spec.in_features * spec.out_features;
  plan.weights += numel * static_cast<std::int64_t>(at::elementSize(param_dtype_));
  plan.moments += moments_nbytes(spec, ParamRole::matrix, {spec.out_features, spec.in_features});
  plan.add_gradient(4 * numel);
}

std::int64_t BasicMethod::moments_nbytes(const LinearSpec& spec, ParamRole role, std::vector<std::int64_t> sizes) const {
  return rule_nbytes({spec.name, role, std::move(sizes), device_});
}

}  // namespace kumiko::lowrank
